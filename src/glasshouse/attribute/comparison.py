"""Several methods and several questions about the same images, for little more than the dearest of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Info,
    Interrupted,
    Model,
    Noun,
    Progress,
    Target,
    borrow,
    find_method,
    geometry,
    select,
    watching,
)
from glasshouse.core.lift import answer, checked_images, module_of
from glasshouse.core.result import Subject
from glasshouse.core.sharing import Shared, sharing

FIRST_LOOK = ("grad_cam", "integrated_gradients", "occlusion")


@dataclass(frozen=True, repr=False)
class Comparison(Noun):
    """What several methods say of the same images.

    Args:
        explanations: by method, one for each target, in the order in which they were asked.
        skipped: methods that do not suit the network, and why.
        passes: images that went forward through the network ("made"), and answers that were shared ("saved").
        seconds: by method, for all targets.
    """

    explanations: dict[str, tuple[Explanation, ...]]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    passes: dict[str, int] = field(default_factory=dict[str, int])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __repr__(self) -> str:
        asked = len(next(iter(self.explanations.values()), ()))
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Comparison({', '.join(self.explanations)}; {asked} target{'s' * (asked != 1)}{skipped})"

    def __getitem__(self, method: str) -> tuple[Explanation, ...]:
        """The explanations of one method, one for each target."""
        if method in self.skipped:
            raise BadInput(f"{method} was skipped: {self.skipped[method]}")
        return self.explanations[find_method(method, "attribute").short]


def compare(
    model: Model | nn.Module,
    inputs: Images,
    methods: Sequence[str] = FIRST_LOOK,
    targets: Sequence[Target] = (None,),
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Comparison:
    """Ask several methods about several classes, making each pass of the network once.

    The pass over the clean images is shared by all methods and targets; gradients of further classes are taken from
    its graph; images that a method changes alike for every class are run for the first class only. Values are those of
    the methods called one by one.

    Args:
        methods: names, as `list_methods("attribute.*")` shows them. One that the network does not suit is skipped.
        targets: one question after the other; each may be anything that `target` may be.
        settings: by method, what differs from its defaults: `{"rise": {"n_masks": 500}}`.
        progress: called with (done, total), in passes of the network where methods declare them.
        cancel: asked between passes; once it returns True, `Interrupted` is raised, with what was finished in
            `.finished`.
    """
    infos, options = chosen(methods, settings or {})
    images = checked_images(inputs)
    if not targets:
        raise BadInput("no target was given.", "Use targets=[None] for each image's top class.")
    layers = [str(own["layer"]) for own in options.values() if own.get("layer")]
    found = Comparison({})
    with borrow(model, images, layers) as network:
        images = images.detach().clone()
        if any("layer" in own and own["layer"] is None for own in options.values()):
            layers += [usual] if (usual := geometry(network, images).default) else []
        subject = Subject(ref(module_of(model)), inputs.detach())
        if network is module_of(model):  # the user's own, which is not to be touched
            return ask(network, images, infos, options, targets, found, None, subject, progress, cancel)
        with sharing(network, images, layers) as shared:
            return ask(network, images, infos, options, targets, found, shared, subject, progress, cancel)


def chosen(
    methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Info], dict[str, dict[str, Any]]]:
    """The methods by short name, and every argument of each call."""
    infos = {info.short: info for info in (find_method(name, "attribute") for name in methods)}
    if not infos:
        raise BadInput("no method was named.", f"Try {', '.join(FIRST_LOOK)}.")
    if strange := [name for name, info in infos.items() if not info.maps]:
        raise BadInput(f"'{strange[0]}' gives no map of the image.", "Call it by itself.")
    given = {find_method(name, "attribute").short: own for name, own in settings.items()}
    if unused := set(given) - set(infos):
        raise BadInput(f"settings were given for '{min(unused)}', which is not among the methods.")
    options: dict[str, dict[str, Any]] = {}
    for name, info in infos.items():
        defaults = {key: value for key, value in info.defaults.items() if key != "target"}
        if unknown := set(given.get(name, ())) - set(defaults):
            raise BadInput(f"{name} has no setting '{min(unknown)}'.", f"It has {', '.join(defaults)}.")
        options[name] = defaults | dict(given.get(name, {}))
    return infos, options


def ask(
    network: nn.Module,
    images: Tensor,
    infos: Mapping[str, Info],
    options: Mapping[str, dict[str, Any]],
    targets: Sequence[Target],
    found: Comparison,
    shared: Shared | None,
    subject: Subject,
    progress: Progress | None,
    cancel: Callable[[], bool] | None,
) -> Comparison:
    """Every method about every target, the targets of a method one after the other."""
    aims = [Aim.of(target) for target in targets]
    output = network(images.requires_grad_())
    for aim in aims:
        select(output, aim)
    del output
    teller = Teller(progress, cancel, {name: work(info, options[name], images) for name, info in infos.items()}, aims)
    rows, error = torch.arange(len(images), device=images.device), None
    for name, info in infos.items():
        start, maps = time.perf_counter(), list[Explanation]()
        try:
            for number, aim in enumerate(aims):
                with watching(teller.of(name, number)):
                    explained = answer(info, network, images, aim.rows(rows), options[name])
                maps.append(explained.about(subject))
                teller.reached(name, number + 1)
            found.explanations[name] = tuple(maps)
        except Cancelled:
            raise Interrupted(
                f"cancelled during {name}; {len(found.explanations)} of {len(infos)} methods are finished.",
                "They are in the error's .finished.",
                found,
            ) from None
        except GlasshouseError as reason:
            found.skipped[name], error = str(reason), reason
            teller.reached(name, len(aims))
        found.seconds[name] = round(time.perf_counter() - start, 4)
    if shared:
        found.passes.update(made=shared.made, saved=shared.saved)
    if error and not found.explanations:
        raise error
    return found


def work(info: Info, options: Mapping[str, Any], images: Tensor) -> int:
    """Passes of the network that one target of a method takes; 1 where it does not declare them."""
    cost = info.price(options, tuple(images.shape))
    return max(1, round(cost.forward + cost.backward)) if cost else 1


class Cancelled(Exception):
    """Somebody does not want to wait any longer."""


class Teller:
    """Turns the progress of single methods into that of the whole comparison, and asks whether to go on."""

    def __init__(
        self,
        progress: Progress | None,
        cancel: Callable[[], bool] | None,
        work: Mapping[str, int],
        aims: Sequence[Aim],
    ):
        self.progress, self.cancel, self.work = progress, cancel, work
        self.before = {name: len(aims) * sum(list(work.values())[:place]) for place, name in enumerate(work)}
        self.total = len(aims) * sum(work.values())

    def of(self, name: str, number: int) -> Progress:
        """The listener of one method about one target."""
        return lambda done, total: self.say(self.before[name] + int(self.work[name] * (number + done / total)))

    def reached(self, name: str, number: int) -> None:
        """So many targets of a method are done."""
        self.say(self.before[name] + self.work[name] * number)

    def say(self, done: int) -> None:
        if self.progress:
            self.progress(done, self.total)
        if self.cancel and self.cancel():
            raise Cancelled
