"""What a picture is drawn for: numbers read from a network, or from the picture, to be added and scaled.

    unit("layer4", 12) + 100 * diversity("layer4") - 0.01 * total_variation()

Every objective gives one number per picture, and each picture climbs its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, Logits, PerImage, Units

LEAST_COSINE = 0.1


@dataclass(frozen=True)
class Sight:
    """What an objective may read: the pictures, and what they do in the network.

    Args:
        pixels: the pictures in 0…1, before any transform.
        maps: output `n k i j` of each layer that the objective names, after transforms.
        logits: None unless the objective asks for them.
        index: from a class's name or number to its checked number.
    """

    pixels: Images
    maps: Mapping[str, Tensor]
    logits: Logits | None
    index: Callable[[int | str], int]


Value: TypeAlias = Callable[[Sight], PerImage]


@dataclass(frozen=True)
class Term:
    """One number per picture, and what it has to be shown.

    Args:
        labels: what each picture is drawn for, in words; more than one fix the number of pictures.
        penalty: whether it judges the picture or the batch instead of reporting an activation of the network.
        places: its value at every position of the layer alone; None where positions have no value of their own.
    """

    name: str
    value: Value
    layers: tuple[str, ...] = ()
    logits: bool = False
    labels: tuple[str, ...] = ()
    penalty: bool = False
    places: "Callable[[Sight], Float[Tensor, 'n i j']] | None" = None


@dataclass(frozen=True, repr=False)
class Objective:
    """A weighted sum of terms. Calling it gives its value for each picture."""

    terms: tuple[tuple[float | int, Term], ...]

    def __call__(self, sight: Sight) -> PerImage:
        start = sight.pixels.new_zeros(len(sight.pixels))
        return sum((weight * term.value(sight) for weight, term in self.terms), start)

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(self.terms + other.terms)

    def __sub__(self, other: "Objective") -> "Objective":
        return self + -other

    def __mul__(self, factor: float | int) -> "Objective":
        return Objective(tuple((weight * factor, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return self * -1

    def __repr__(self) -> str:
        signs = [f"{'-' if weight < 0 else '+'} {shown(weight)}{term.name}" for weight, term in self.terms]
        return " ".join(signs).removeprefix("+ ")

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers to read, each once."""
        return tuple(dict.fromkeys(layer for _, term in self.terms for layer in term.layers))

    @property
    def needs_logits(self) -> bool:
        return any(term.logits for _, term in self.terms)

    @property
    def activation(self) -> "Objective":
        """The part that reports an activation of the network, without penalties and diversity."""
        return Objective(tuple((weight, term) for weight, term in self.terms if not term.penalty))

    def at_best(self, sight: Sight) -> PerImage | None:
        """Its value at the position of each picture that is best for it: what its best patch reaches.

        None where a term has no value of its own at a position, or layers have different grids.
        """
        if not self.terms or not all(term.places for _, term in self.terms):
            return None
        maps = [weight * term.places(sight) for weight, term in self.terms if term.places]
        if len({tuple(each.shape) for each in maps}) > 1:
            return None
        return torch.stack(maps).sum(0).amax((1, 2))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each picture is drawn for; terms for several pictures must agree on how many."""
        signs = ["negative " if weight < 0 else "" for weight, _ in self.terms]
        named = [
            tuple(sign + label for label in term.labels)
            for sign, (_, term) in zip(signs, self.terms, strict=True)
            if term.labels
        ]
        several = [labels for labels in named if len(labels) > 1]
        if len({len(labels) for labels in several}) > 1:
            counts = " and ".join(str(len(labels)) for labels in several)
            raise BadInput(f"the terms of {self!r} are for {counts} pictures.", "Name as many units in each, or one.")
        return (several or named or [(repr(self),)])[0]


def unit(layer: str, unit: int | Sequence[int]) -> Objective:
    """How active a unit is on average over positions; several units give one picture each.

        y_n = mean_ij A_n,k(n),i,j

    "Channel" of Olah et al., Distill 2017. Token and channels-last layers are read on their own axis.
    """
    units = several(unit)

    def places(sight: Sight) -> Float[Tensor, "n i j"]:
        return chosen(sight.maps[layer], units, layer)

    def value(sight: Sight) -> PerImage:
        return reduce(places(sight), "n i j -> n", "mean")

    labels = [f"{layer} unit {k}" for k in units]
    return single(f"unit({layer!r}, {listed(units)})", value, layer, labels, places=places)


def neuron(layer: str, unit: int | Sequence[int], at: tuple[int, int] | None = None) -> Objective:
    """How active a unit is at one position `(i, j)` of the layer's grid.

        y_n = A_n,k(n),i,j

    Args:
        at: None takes the centre, `(rows // 2, columns // 2)`.
    """
    units = several(unit)

    def places(sight: Sight) -> Float[Tensor, "n i j"]:
        return chosen(sight.maps[layer], units, layer)

    def value(sight: Sight) -> PerImage:
        maps = places(sight)
        i, j = position(maps, at, layer)
        return maps[:, i, j]

    place = f", at={at}" if at else ""
    labels = [f"{layer} unit {k} at {at or 'centre'}" for k in units]
    return single(f"neuron({layer!r}, {listed(units)}{place})", value, layer, labels, places=places)


def direction(
    layer: str,
    vector: Float[Tensor, "*n k"],
    *,
    cosine_power: float | int = 0,
    at: tuple[int, int] | None = None,
) -> Objective:
    """How far activations reach along a direction in a layer, such as a concept vector.

        y = mean_ij (A_ij · v) max(0.1, cos(A_ij, v))^p

    `v` is used as given, not normalised. The cosine is from Lucid (Olah et al., Distill 2018).

    Args:
        vector: one number per unit; `n k` gives one picture for each of the n directions.
        cosine_power: p; above 0, activations must point along v rather than merely be large.
        at: one position of the grid; None takes the mean over all.
    """
    rows = vector.detach().reshape(-1, vector.shape[-1])

    def places(sight: Sight) -> Float[Tensor, "n i j"]:
        maps = sight.maps[layer]
        if rows.shape[1] != maps.shape[1]:
            raise BadInput(f"a direction of {rows.shape[1]} numbers in layer '{layer}' of {maps.shape[1]} units.")
        v = rows.to(maps, copy=True).expand(len(maps), -1)
        reach = einsum(maps, v, "n k i j, n k -> n i j")
        if cosine_power:
            length = maps.square().sum(1).add(1e-12).sqrt() * v.norm(dim=1).view(-1, 1, 1)
            reach = reach * (reach / (length + 1e-6)).clamp(min=LEAST_COSINE) ** cosine_power
        return reach

    def value(sight: Sight) -> PerImage:
        reach = places(sight)
        if at is None:
            return reduce(reach, "n i j -> n", "mean")
        i, j = position(reach, at, layer)
        return reach[:, i, j]

    power = f", cosine_power={cosine_power:g}" if cosine_power else ""
    place = f", at={at}" if at else ""
    labels = [f"{layer} direction {row}" if len(rows) > 1 else f"{layer} direction" for row in range(len(rows))]
    name = f"direction({layer!r}, {tuple(vector.shape)}{power}{place})"
    return single(name, value, layer, labels, places=places)


def logit(target: int | str | Sequence[int | str]) -> Objective:
    """The score of a class before the softmax; several classes give one picture each.

    The probability after the softmax also rises when other classes are suppressed, which draws less of this
    one (Simonyan et al., ICLR workshop 2014, sec. 2).

    Args:
        target: number of a class, or its name if the model has names.
    """
    targets = (target,) if isinstance(target, int | str) else tuple(target)

    def value(sight: Sight) -> PerImage:
        assert sight.logits is not None
        classes = sight.logits.shape[1]
        indices = [sight.index(name) for name in targets]
        if max(indices) >= classes:
            raise BadInput(f"class {max(indices)} is out of range: the model has {classes} classes.")
        index = torch.tensor(indices, device=sight.logits.device).expand(len(sight.logits))
        return sight.logits.gather(1, index[:, None])[:, 0]

    name = f"logit({listed(targets)})"
    return Objective(((1.0, Term(name, value, logits=True, labels=tuple(f"class {name}" for name in targets))),))


def layer_energy(layer: str) -> Objective:
    """How much a layer does altogether: `y = mean_kij A²`, as in DeepDream (Mordvintsev et al., 2015)."""

    def value(sight: Sight) -> PerImage:
        return reduce(sight.maps[layer].square(), "n k i j -> n", "mean")

    return single(f"layer_energy({layer!r})", value, layer, [f"{layer} energy"])


def diversity(layer: str) -> Objective:
    """How little the pictures of a batch resemble each other in a layer; for n copies it is `1 - n`.

        y_n = -Σ_m≠n <G_n, G_m>,   G = A Aᵀ / |A Aᵀ|,   A of shape units x positions

    Olah et al., Distill 2017, section "Diversity". Lucid gives it a weight of 100 beside a unit.
    """

    def value(sight: Sight) -> PerImage:
        flat = rearrange(sight.maps[layer], "n k i j -> n k (i j)")
        gram = F.normalize((flat @ flat.mT).flatten(1), dim=1, eps=1e-10)
        alike = gram @ gram.mT
        return alike.diagonal() - alike.sum(1)

    return single(f"diversity({layer!r})", value, layer, [], penalty=True)


def total_variation() -> Objective:
    """How rough the picture is: the sum of all differences between neighbouring pixels. Subtract it.

    y = Σ |p_i+1,j - p_i,j| + |p_i,j+1 - p_i,j|
    """

    def value(sight: Sight) -> PerImage:
        down, across = sight.pixels.diff(dim=2).abs(), sight.pixels.diff(dim=3).abs()
        return down.flatten(1).sum(1) + across.flatten(1).sum(1)

    return Objective(((1.0, Term("total_variation()", value, penalty=True)),))


def l2() -> Objective:
    """How far the picture is from grey, to subtract: `y = Σ (p - 0.5)²` (Simonyan et al., 2014, eq. 1)."""

    def value(sight: Sight) -> PerImage:
        return (sight.pixels - 0.5).square().flatten(1).sum(1)

    return Objective(((1.0, Term("l2()", value, penalty=True)),))


def single(
    name: str,
    value: Value,
    layer: str,
    labels: Sequence[str],
    penalty: bool = False,
    places: "Callable[[Sight], Float[Tensor, 'n i j']] | None" = None,
) -> Objective:
    """An objective of one term that reads one layer."""
    return Objective(((1.0, Term(name, value, (layer,), labels=tuple(labels), penalty=penalty, places=places)),))


def several(units: int | Sequence[int]) -> tuple[int, ...]:
    """Units as a tuple, checked."""
    units = (units,) if isinstance(units, int) else tuple(units)
    if not units or min(units) < 0:
        raise BadInput(f"units {list(units)} name no channel.", "Give one channel number, or a list of them, from 0.")
    return units


def chosen(maps: Units, units: tuple[int, ...], layer: str) -> Float[Tensor, "n i j"]:
    """One unit of each row of a layer's output."""
    if max(units) >= maps.shape[1]:
        raise BadInput(
            f"layer '{layer}' has no unit {max(units)}: it has {maps.shape[1]}.",
            f"Use 0…{maps.shape[1] - 1}.",
        )
    if len(units) == 1:
        return maps[:, units[0]]
    return maps[torch.arange(len(maps)), torch.tensor(units)]


def position(maps: Float[Tensor, "n i j"], at: tuple[int, int] | None, layer: str) -> tuple[int, int]:
    """A place on the grid, checked; None is the centre."""
    rows, columns = maps.shape[1:]
    i, j = at or (rows // 2, columns // 2)
    if not (0 <= i < rows and 0 <= j < columns):
        raise BadInput(f"position {at} is outside the {rows} x {columns} grid of layer '{layer}'.")
    return i, j


def listed(values: Sequence[int | str]) -> str:
    return repr(values[0] if len(values) == 1 else list(values))


def shown(weight: float | int) -> str:
    return "" if abs(weight) == 1 else f"{abs(weight):g} * "
