"""Every unit of a layer switched off, one at a time, and what that does to every class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, NotFound, Progress, generator, registered
from glasshouse.core.lift import module_of
from glasshouse.core.shards import Data, Engine, serial, sweep
from glasshouse.core.stats import Moments
from glasshouse.dissect.ablations.damage import Ablation, How, Traits
from glasshouse.dissect.ablations.outcomes import Changes, Responses
from glasshouse.dissect.ablations.removal import Removal, plan_removal
from glasshouse.dissect.ablations.wiring import weight_norms
from glasshouse.dissect.exhibits import image_of, targets_of
from glasshouse.dissect.passes import Reader, chosen_units, key_of, reading

TURN = Lock()  # hooks are on while a batch runs, and batches may come from several threads


@registered(
    "dissect",
    paper="Zhou et al., 2018",
    warning="other units may stand in for one that is missing: no damage does not mean that a unit is not used.",
    example={"batch_size": 8},
)
def ablate_units(
    model: Model | nn.Module,
    data: Data,
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    groups: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None = None,
    how: How = "zero",
    batch_size: int = 16,
    chunk: int | None = None,
    shard_size: int = 1024,
    into: Path | None = None,
    seed: int = 0,
    engine: Engine = serial,
    progress: Progress | None = None,
) -> Ablation:
    """How much accuracy each class loses when a unit of `layer`, or a group of units, is switched off.

        damage_c(u) = acc_c - acc_c(map of unit u set to 0)

    Zhou, Sun, Bau and Torralba, "Revisiting the importance of individual units in CNNs via ablation", 2018, sec. 3;
    groups and balanced accuracy from Bau et al., "Understanding the role of individual units in a deep neural
    network", PNAS 2020. Name a layer behind its activation function: "off" means 0 there.

    One pass over the data. What comes before the layer is run once per batch. Where pooling and a linear layer
    follow, so is the whole network, and the logits without each unit are known exactly; else what follows is run
    again for every unit that is not silent in the image. A class token is not ablated.

    Args:
        data: items are (image, class, …) or dictionaries with "image" and "target"; those with class -1 are left out.
        layer: None takes the last one with positions.
        units: numbers of output channels, each ablated by itself; None takes all.
        groups: units that are ablated together, by name or in order; instead of `units`.
        how: "zero"; "mean" replaces a map by the unit's mean over all positions of `data`, which costs a pass up to
            the layer; "resample" by its map in another image, drawn at random once.
        chunk: images run on from the layer at a time; None chooses by its size. Any number gives the same result.
        shard_size: images after which a partial result is written `into` a folder, from which a pass goes on.
        seed: of the images that "resample" takes maps from.
    """
    if how not in ("zero", "mean", "resample"):
        raise BadInput(f"how='{how}' is unknown.", "Use 'zero', 'mean' or 'resample'.")
    run = partial(sweep, batch_size=batch_size, shard_size=shard_size, engine=engine)
    with reading(model, data, [layer]) as read:
        (layer, place) = next(iter(read.places.items()))
        chosen = named_groups(units, groups, read, layer)
        members = torch.zeros(len(chosen), place.units, dtype=torch.bool)
        for row, those in enumerate(chosen.values()):
            members[row, list(those)] = True
        asked = f"of {layer} by {how}"
        key = key_of(model, f"ablation {asked} {list(chosen.items())} seed {seed}") if into else ""
        means = torch.zeros(1)
        if how == "mean":
            folder = into / "means" if into else None
            means = run(read_means(read), data, Moments(), into=folder, key=f"means for {key}").mean
        removal = plan_removal(read.network, read.first, place, layer, members, chunk)
        alone = torch.tensor([those[0] for those in chosen.values()]) if groups is None else None
        partner = strangers(len(data), seed) if how == "resample" else None
        step = Step(read, removal, Substitute(read, data, means, partner), alone)
        stats = {"changes": Changes(), **({"responses": Responses()} if alone is not None else {})}
        seen: Any = run(step, data, stats, into=into, key=key, progress=progress)
        norms = weight_norms(module_of(model), read.first, layer, place.units)
    changes: Changes = seen["changes"]
    if not changes.total.any():
        raise BadInput("no item of the data set has a class.", "Give (image, class), with classes from 0.")
    traits = None if alone is None else traits_of(seen["responses"], norms, alone)
    counted = {name: getattr(changes, name) for name in changes.state()}
    return Ablation(
        layer,
        tuple(chosen),
        tuple(tuple(those) for those in chosen.values()),
        how,
        removal.route,
        **counted,
        traits=traits,
        class_names=tuple(model.class_names or ()) if isinstance(model, Model) else (),
        settings={"batch_size": batch_size, "shard_size": shard_size, "chunk": chunk, "seed": seed},
    )


def named_groups(
    units: Sequence[int] | None,
    groups: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None,
    read: Reader,
    layer: str,
) -> dict[str, list[int]]:
    """Units by the name of their group: a unit by itself bears its number, an unnamed group its place."""
    place = read.places[layer]
    if groups is None:
        return {str(unit): [unit] for unit in chosen_units(units, place).tolist()}
    if units is not None:
        raise BadInput("both units and groups were given.", "A unit by itself is a group of one: groups=[[3], [1, 2]].")
    named = dict(groups) if isinstance(groups, Mapping) else {str(n): those for n, those in enumerate(groups)}
    if not named:
        raise NotFound("no groups were asked for.", "Give lists of unit numbers.")
    return {str(name): chosen_units(those, place).tolist() for name, those in named.items()}


@dataclass(frozen=True)
class Substitute:
    """The maps that take the place of those removed, for images by their numbers: one value per unit, or another map.

    Args:
        value: of every unit; a single one holds for all.
        partner: the image that lends its maps to each image; None where values stand in.
    """

    read: Reader
    data: Data
    value: Float[Tensor, " #k"]
    partner: Int[Tensor, " n"] | None

    def __call__(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "#b #k #i #j"]:
        if self.partner is None:
            return self.value.to(self.read.first)[None, :, None, None]
        others = self.partner[ids]
        (maps,) = self.read(torch.stack([image_of(self.data[int(other)]) for other in others]), others).values()
        return maps


@dataclass(frozen=True)
class Step:
    """One batch: run it clean and without each group, and say what to count.

    Args:
        alone: the unit in each group, where groups are single units.
    """

    read: Reader
    removal: Removal
    substitute: Substitute
    alone: Int[Tensor, " g"] | None

    def __call__(self, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Any, ...]]:
        images, targets = self.read.images(batch, ids), targets_of(batch)
        known = targets >= 0
        names = [str(self.read.names[int(number)]) for number in ids]
        if not (finite := images.flatten(1).isfinite().all(1)).all():
            raise BadInput(f"image {names[int((~finite).nonzero()[0])]!r} holds NaN or infinite values.")
        with TURN, torch.no_grad():
            without = self.removal(images, self.substitute(ids))
        n_classes = without.output.shape[1]
        if (wrong := targets >= n_classes).any():
            row = int(wrong.nonzero()[0])
            raise BadInput(
                f"image {names[row]!r} is of class {int(targets[row])}; the model has {n_classes}.",
                f"Use 0…{n_classes - 1}, or -1 to leave an image out.",
            )
        found = without.output.argmax(1)[known], without.top[known], without.idle[known]
        counted: dict[str, tuple[Any, ...]] = {"changes": (targets[known], *found, n_classes, without.reruns)}
        if self.alone is not None:
            maps, output = without.maps[known][:, self.alone], without.output[known]
            counted["responses"] = targets[known], maps, output.float().softmax(1)
        return counted


def strangers(n: int, seed: int) -> Int[Tensor, " n"]:
    """For each of n images another one, every one once: the next in a random order."""
    if n < 2:
        raise BadInput("how='resample' takes maps from other images, and there is only one.", "Use 'zero' or 'mean'.")
    order = torch.randperm(n, generator=generator(seed))
    return torch.empty_like(order).scatter(0, order, order.roll(-1))


def read_means(read: Reader) -> Callable[[Any, Tensor], tuple[Tensor]]:
    """The step that averages every unit over the positions of each image."""

    def step(batch: Any, ids: Tensor) -> tuple[Tensor]:
        with TURN, torch.no_grad():
            (maps,) = read(batch, ids).values()
        return (maps.flatten(2).mean(2),)

    return step


def traits_of(responses: Responses, norms: tuple[Tensor, Tensor], units: Int[Tensor, " u"]) -> Traits:
    """What was summed over the images, as means and correlations."""
    in_class = responses.in_class.double()
    correlation = responses.correlation()
    best = correlation.nan_to_num(-torch.inf).amax(1)
    return Traits(
        class_mean=responses.by_class / in_class,
        mean=responses.activation / responses.count,
        peak=responses.peak,
        firing_rate=responses.firing / responses.count,
        class_correlation=best.where(best.isfinite(), torch.nan),
        incoming=norms[0][units],
        outgoing=norms[1][units],
    )
