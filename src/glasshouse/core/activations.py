"""Read and rewrite what layers give out, for the length of a `with`, leaving no trace in the model."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from glasshouse.core.errors import BadInput, LayerNotFound, not_found
from glasshouse.core.layers import LayerGeometry, unit_maps

Edit: TypeAlias = Callable[[Tensor], Tensor]
"""Rewrites a layer's output, seen as `n k i j` whatever the layer's own order of axes."""


@dataclass(frozen=True)
class Place:
    """A layer's output, its input (`name.input`), or one of its runs (`name#0`, the first; `name#-1`, the last)."""

    layer: str
    module: nn.Module
    at_input: bool
    run: int | None


def find(model: nn.Module, layer: str) -> Place:
    """The place a layer's name stands for; an unknown name raises with the nearest ones."""
    name, _, run = layer.partition("#")
    at_input, module = False, submodule(model, name)
    if module is None and name.endswith(".input"):
        at_input, name = True, name.removesuffix(".input")
        module = submodule(model, name)
    if module is None:
        raise not_found("layer", name, [m for m, _ in model.named_modules() if m], LayerNotFound)
    if run and not run.lstrip("-").isdigit():
        raise BadInput(f"'{layer}' names no run of '{name}'.", f"Write '{name}#0' for the first, '{name}#-1' the last.")
    return Place(layer, module, at_input, int(run) if run else None)


def submodule(model: nn.Module, name: str) -> nn.Module | None:
    """The module of a dotted name; None if there is none, or the name is empty."""
    try:
        return model.get_submodule(name) if name else None
    except AttributeError:
        return None


class Seen(Mapping[str, Tensor]):
    """What the probed layers gave out, by name, attached to the graph."""

    def __init__(self, places: Sequence[Place]):
        self.places = {place.layer: place for place in places}
        self.runs: dict[str, list[Tensor]] = {place.layer: [] for place in places}

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.places:
            raise not_found("probed layer", layer, self.places, LayerNotFound)
        runs, run = self.runs[layer], self.places[layer].run
        if not runs:
            raise LayerNotFound(f"layer '{layer}' did not run.", "Call the model inside the `with`.")
        if run is None and len(runs) > 1:
            raise BadInput(f"layer '{layer}' ran {len(runs)} times.", f"Name a run: '{layer}#0' … '{layer}#-1'.")
        if run is not None and not -len(runs) <= run < len(runs):
            raise LayerNotFound(f"layer '{layer}': it ran {len(runs)} times.", "Runs count from 0.")
        return runs[run or 0]

    def complete(self) -> bool:
        """Whether every run that was asked for has happened; nobody knows which run is the last one."""
        wanted = {name: place.run or 0 for name, place in self.places.items()}
        return all(0 <= run < len(self.runs[name]) for name, run in wanted.items())

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def attach(place: Place, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Hook that passes the first tensor of a layer's output (or input) through `change`."""

    def within(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
            items = (change(value[0]), *value[1:])
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, Tensor):
                    value[key] = change(item)
                    return value
        raise BadInput(f"layer '{place.layer}' gives a {type(value).__name__}, not a tensor.", "Choose one inside it.")

    def before(module: nn.Module, args: Any) -> Any:
        return within(args)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        return within(output)

    if place.at_input:
        return place.module.register_forward_pre_hook(before)
    return place.module.register_forward_hook(after)


class _Stop(Exception):
    """Ends a forward pass once every probed layer has run."""


@contextmanager
def probe(model: nn.Module, *layers: str, stop: bool = False) -> Generator[Seen]:
    """Keep what `layers` give out while the model runs inside the `with`.

        with probe(model, "layer4") as seen:
            model(images)
        seen["layer4"]                      # attached to the graph, not a copy

    The next operation is handed a copy, so an in-place one cannot overwrite what was seen. What is seen at an input
    is a copy too: its gradient is what flows through that layer alone, not through others that read the same tensor.

    Args:
        layers: dotted names; `name.input` for what a layer is given, `name#0` for one of several runs.
        stop: leave the `with` as soon as each of them has run once (up to the run that was named); nothing after
            the call of the model is executed. Runs counted from the end are known only at the end, and never stop.
    """
    places = [find(model, layer) for layer in layers]
    seen = Seen(places)

    def keeper(place: Place) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            seen.runs[place.layer].append(value.clone() if place.at_input else value)
            if stop and seen.complete():
                raise _Stop(seen)
            return seen.runs[place.layer][-1].clone()

        return keep

    with ExitStack() as stack:
        for place in places:
            stack.callback(attach(place, keeper(place)).remove)
        try:
            yield seen
        except _Stop as reached:
            if reached.args[0] is not seen:
                raise


@contextmanager
def edit(model: nn.Module, edits: Mapping[str, Edit]) -> Generator[None]:
    """Rewrite what layers give out while the model runs inside the `with`.

        with edit(model, {"layer3": ablate([12, 40])}):
            model(images)

    An edit is given the layer's output as `n k i j`; tokens before the grid (class token) stay as they are.
    """
    places = [find(model, layer) for layer in edits]
    geometries: dict[str, LayerGeometry] = {}
    runs: dict[str, int] = {}

    def look(module: nn.Module, args: Any) -> None:
        geometries.update({layer: unit_maps(model, args[0], layer) for layer in edits})
        runs.update(dict.fromkeys(edits, 0))
        for place in places:
            if place.run is not None and place.run >= geometries[place.layer].calls:
                raise LayerNotFound(f"layer '{place.layer}': it runs {geometries[place.layer].calls} times.")

    def change(place: Place, rewrite: Edit) -> Callable[[Tensor], Tensor]:
        def changed(value: Tensor) -> Tensor:
            runs[place.layer] += 1
            if place.run is not None and runs[place.layer] - 1 != place.run:
                return value
            layer = geometries[place.layer]
            return layer.unmaps(rewrite(layer.maps(value.clone())), value)

        return changed

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(look).remove)
        for place in places:
            if place.run is not None and place.run < 0:
                raise BadInput(f"'{place.layer}': an edit counts runs from the first.", "Use #0, #1, ….")
            stack.callback(attach(place, change(place, edits[place.layer])).remove)
        yield
