"""Passes over a data set that read layers: what every analysis of units begins with."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Images,
    LayerGeometry,
    Model,
    NotFound,
    Progress,
    Units,
    borrow,
    geometry,
    probe,
    unit_maps,
)
from glasshouse.core.fingerprints import fingerprint, names_of
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.shards import Data, Engine, serial, sweep
from glasshouse.core.stats import Stat
from glasshouse.dissect.exhibits import image_of

Read: TypeAlias = Callable[[Any, Tensor], Mapping[str, Units]]
"""From a batch and the indices of its items to the maps of each layer."""


@runtime_checkable
class Analysis(Protocol):
    """Something that is counted of one layer's maps while a pass goes by."""

    def stats(self) -> Mapping[str, Stat]:
        """Empty statistics, by name."""
        ...

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> Mapping[str, tuple[Any, ...]]:
        """The arguments of each statistic's update for one batch."""
        ...


@dataclass(frozen=True)
class Reader:
    """A network that is about to be read, batch after batch: it runs up to the last of the layers and no further.

    Args:
        places: the layers, by name.
        units: of each layer that are read.
        names: what the data set calls its images.
        first: its first image, with a batch axis.
    """

    network: nn.Module
    places: Mapping[str, LayerGeometry]
    units: Mapping[str, Int[Tensor, " u"]]
    names: Sequence[Any]
    first: Tensor

    def __call__(self, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, Units]:
        """Maps `n u i j` of each layer, at least float32."""
        images = self.images(batch, ids)
        with probe(self.network, *self.places, stop=True) as seen:
            self.network(images)
        return {layer: self._maps(layer, seen[layer], ids) for layer in self.places}

    def images(self, batch: Any, ids: Int[Tensor, " n"]) -> Images:
        """The images of a batch on the network's device, which must be of the size and type of the first."""
        images = image_of(batch)
        if images.shape[1:] != self.first.shape[1:] or images.dtype != self.first.dtype:
            raise BadInput(
                f"image {str(self.names[int(ids[0])])!r} is {tuple(images.shape[1:])} {images.dtype}, "
                f"the first is {tuple(self.first.shape[1:])} {self.first.dtype}.",
                "Bring all of them to one size and type, for instance with model.preprocess.",
            )
        return images.to(self.first.device)

    def _maps(self, layer: str, output: Tensor, ids: Tensor) -> Units:
        place, units = self.places[layer], self.units[layer]
        maps = place.maps(output)
        if len(units) < place.units:
            maps = maps[:, units.to(maps.device)]
        if not (finite := maps.isfinite().flatten(1).all(1)).all():
            row = int((~finite).nonzero()[0])
            raise BadInput(
                f"image {str(self.names[int(ids[row])])!r} gives activations that are NaN or infinite.",
                "Look at its pixels, or run the model in float32.",
            )
        return maps.float() if maps.dtype.itemsize < 4 else maps


@contextmanager
def reading(
    model: Model | nn.Module,
    data: Data,
    layers: Sequence[str | None],
    units: Sequence[int] | None = None,
) -> Generator[Reader]:
    """A reader of these layers (None is the usual one) for the length of the `with`, without gradients."""
    if not len(data):
        raise BadInput("the data set is empty.", "Check the folder, or the filter that made it.")
    device = next((weight.device for weight in module_of(model).parameters()), torch.device("cpu"))
    first = checked_images(image_of(data[0])[None]).to(device)
    with borrow(model, first) as network:
        usual = geometry(network, first).usual() if None in layers else ""
    wanted = list(dict.fromkeys(layer or usual for layer in layers))
    with borrow(model, first, wanted) as network, torch.no_grad():
        places = {layer: replace(unit_maps(network, first, layer), name=layer) for layer in wanted}
        chosen = {layer: chosen_units(units, place) for layer, place in places.items()}
        yield Reader(network, places, chosen, names_of(data), first)


def chosen_units(units: Sequence[int] | None, place: LayerGeometry) -> Int[Tensor, " u"]:
    """The numbers of the units asked for, which must be there."""
    if units is None:
        return torch.arange(place.units)
    wrong = [unit for unit in units if not 0 <= unit < place.units]
    if wrong or not len(units):
        raise NotFound(
            f"no unit {wrong[0]} in layer '{place.name}'." if wrong else "no units were asked for.",
            f"It has {place.units}; they count from 0.",
        )
    return torch.tensor(list(units))


def key_of(model: Model | nn.Module, asked: str) -> str:
    """What an answer depends on beside the data: the weights, to the bit, and what was asked."""
    return f"{asked}, {fingerprint(module_of(model))[:16]}"


@dataclass(frozen=True)
class Course:
    """How a pass goes: see `sweep` for the arguments."""

    batch_size: int = 16
    into: Path | None = None
    key: str = ""
    engine: Engine = serial
    progress: Progress | None = None
    shard_size: int = 1024

    def below(self, name: str) -> "Course":
        """The same for one of several passes, with a folder of its own."""
        return replace(self, into=self.into / name if self.into else None)


def run(
    read: Read, data: Data, analyses: Mapping[str, Mapping[str, Analysis]], course: Course
) -> dict[str, dict[str, dict[str, Any]]]:
    """All analyses of all layers in one pass: the statistics of each, by layer and name."""
    empty = {
        f"{layer}|{name}|{stat}": one
        for layer, named in analyses.items()
        for name, analysis in named.items()
        for stat, one in analysis.stats().items()
    }
    step = partial(_step, read, analyses)
    full = sweep(
        step,
        data,
        empty,
        batch_size=course.batch_size,
        shard_size=course.shard_size,
        into=course.into,
        key=course.key,
        engine=course.engine,
        progress=course.progress,
    )
    found: dict[str, dict[str, dict[str, Any]]] = {layer: {name: {} for name in analyses[layer]} for layer in analyses}
    for path, stat in full.items():
        layer, name, part = path.split("|")
        found[layer][name][part] = stat
    return found


def _step(
    read: Read, analyses: Mapping[str, Mapping[str, Analysis]], batch: Any, ids: Tensor
) -> dict[str, tuple[Any, ...]]:
    maps = read(batch, ids)
    return {
        f"{layer}|{name}|{stat}": arguments
        for layer, named in analyses.items()
        for name, analysis in named.items()
        for stat, arguments in analysis.count(maps[layer], batch, ids).items()
    }


class Part:
    """Some items of a data set."""

    def __init__(self, data: Data, rows: Int[Tensor, " r"]):
        self.data, self.rows = data, rows.tolist()
        self.ids = [names_of(data)[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Any:
        return self.data[self.rows[index]]
