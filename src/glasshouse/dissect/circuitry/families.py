"""Units that are one another's copies but for a rotation, a mirror image, a scale, a hue or a sign."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import cos, radians, sin, sqrt
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, NotFound, Noun, registered
from glasshouse.core.activations import find
from glasshouse.core.lift import module_of
from glasshouse.dissect.circuitry.stimuli import turn_of

TIE = 1e-5  # relations this close to the best one are as good, and the simplest of them is named
RELATION = ("degrees", "flipped", "scale", "hue", "sign")


@dataclass(frozen=True, repr=False)
class Families(Noun):
    """Which of u units are related, how, and the families that they form.

    Args:
        similarity: of unit a, changed in the best way, to unit b: 1 for a copy.
        relation: the best way, as a row of `relations`.
        relations: degrees counterclockwise, mirrored beforehand (0 or 1), scale, hue in degrees, and sign.
        family: which family each unit is in; they are numbered by size, the largest first.
        seed: of each family, the unit (by its row) that its members are compared to.
        threshold: least similarity of a member to the seed.
        period: after which rotations come back to where they started.
    """

    layer: str
    units: Int[Tensor, " u"]
    similarity: Float[Tensor, "u u"]
    relation: Int[Tensor, "u u"]
    relations: Float[Tensor, "r 5"]
    family: Int[Tensor, " u"]
    seed: Int[Tensor, " f"]
    threshold: float
    period: float = 360.0
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        found = ", ".join(f"{len(units)} of order {self.order(number)}" for number, units in enumerate(self.members))
        return f"Families({self.layer}, {len(self.units)} units: {found or 'none'})"

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Families of two units or more by the units' numbers, in order of their rotation from the seed."""
        rows = [(self.family == number).nonzero()[:, 0] for number in range(len(self.seed))]
        sorted_ = [those[self.phase[those].argsort(stable=True)] for those in rows if len(those) > 1]
        return tuple(tuple(self.units[those].tolist()) for those in sorted_)

    @property
    def phase(self) -> Float[Tensor, " u"]:
        """How far each unit is turned from its family's seed, in degrees, 0 … period."""
        return self._to_seed("degrees")

    @property
    def flipped(self) -> Bool[Tensor, " u"]:
        """Which units are mirror images of their family's seed."""
        return self._to_seed("flipped").bool()

    @property
    def sign(self) -> Float[Tensor, " u"]:
        """-1 for units that are negatives of their family's seed, else 1."""
        return self._to_seed("sign")

    def order(self, family: int) -> int:
        """How many different orientations a family holds: 4 for quarter turns."""
        phases = self.phase[self.family == family].sort().values
        tested = self.relations[:, 0].unique()
        step = float(torch.diff(tested).min()) if len(tested) > 1 else self.period
        gaps = torch.diff(phases, append=phases[:1] + self.period)
        return max(1, int((gaps > step / 2).sum()))

    def between(self, one: int, other: int) -> dict[str, float]:
        """How unit `one` has to be changed to resemble `other` most, and how much it does then."""
        a, b = (self._row(unit) for unit in (one, other))
        found = dict(zip(RELATION, self.relations[self.relation[a, b]].tolist(), strict=True))
        return {**found, "similarity": float(self.similarity[a, b])}

    def _row(self, unit: int) -> int:
        found = (self.units == unit).nonzero()
        if not len(found):
            raise NotFound(f"unit {unit} was not looked at.", f"There are: {self.units.tolist()[:8]}.")
        return int(found[0, 0])

    def _to_seed(self, part: str) -> Tensor:
        seeds = self.seed[self.family]
        return self.relations[self.relation[seeds, torch.arange(len(seeds))], RELATION.index(part)]


@registered(
    "dissect",
    paper="Olah et al., Distill 2020",
    warning="behind the first layer a rotated unit also reads other units; compare tuning curves there.",
    example={"layer": "0"},
)
def equivariance(
    model: Model | nn.Module,
    *,
    layer: str,
    units: Sequence[int] | None = None,
    angles: Sequence[float | int] = tuple(range(0, 360, 15)),
    flips: bool = True,
    signs: bool = True,
    scales: Sequence[float | int] = (1.0,),
    hues: Sequence[float | int] = (0.0,),
    threshold: float = 0.8,
) -> Families:
    """Which filters of a convolution are copies of one another, but for a rotation, a mirror image and the like.

        s(a, b) = max_g cos(g w_a, w_b)      over the disc that fits into the kernel, all input channels together

    and families by rank: the unit with most partners above the threshold, with these; then the same with what is left.
    Olah, Cammarata, Voss, Schubert and Goh, "Naturally occurring equivariance in neural networks", Distill 2020.

    Kernels are turned about their centre by bilinear interpolation; quarter turns and mirror images are exact. Equally
    good relations are told apart by simplicity: a rotation before a mirror image before a change of sign.

    Input channels stay as they are. That is right for a first layer and for depthwise convolutions. Elsewhere a rotated
    unit reads rotated channels: use `Tuning.families`, which compares what units answer to.

    Args:
        layer: a convolution with square kernels.
        angles: rotations to try, in degrees counterclockwise.
        flips, signs: whether mirror images and negatives count as relatives.
        scales: sizes to try, as a factor.
        hues: rotations of colour about the grey axis to try, in degrees; for three input channels.
        threshold: least similarity to a family's seed.
    """
    weight = kernels(module_of(model), layer)
    chosen = torch.arange(len(weight)) if units is None else torch.tensor(list(units))
    if not len(chosen) or not len(angles) or chosen.min() < 0 or chosen.max() >= len(weight):
        raise NotFound(f"units {list(units or [])[:8]} in layer '{layer}'.", f"It has {len(weight)}, from 0.")
    if any(hue % 360 for hue in hues) and weight.shape[1] != 3:
        raise BadInput(f"layer '{layer}' reads {weight.shape[1]} channels; hues need 3.", "Leave hues out.")
    if not all(scale > 0 for scale in scales):
        raise BadInput(f"scales={tuple(scales)}: a kernel has no size of 0 or less.", "Try scales=(1.0, 1.5).")
    k = weight.shape[-1]
    disc = _within(k)
    flat = rearrange(weight[chosen], "u c y x -> u c (y x)")
    target = torch.nn.functional.normalize((flat * disc).flatten(1), dim=1)
    found: list[tuple[float, ...]] = []
    cosines: list[Tensor] = []
    for scale, hue, flip, angle in product(scales, hues, (0, 1) if flips else (0,), angles):
        moved = einsum(flat, turning(k, angle, bool(flip), scale), "u c p, q p -> u c q") * disc
        coloured = moved if hue % 360 == 0 else einsum(hue_turning(hue).to(moved), moved, "d c, u c q -> u d q")
        cosines.append(torch.nn.functional.normalize(coloured.flatten(1), dim=1) @ target.T)
        found.append((float(angle), float(flip), float(scale), float(hue), 1.0))
    bank = torch.stack(cosines)
    if signs:
        bank, found = torch.cat([bank, -bank]), found + [(*one[:4], -1.0) for one in found]
    similarity, relation = simplest(bank)
    family, seed = clusters(similarity, threshold)
    said = {"flips": flips, "signs": signs, "n_angles": len(angles)}
    relations = torch.tensor(found, dtype=torch.float64)
    return Families(layer, chosen, similarity, relation, relations, family, seed, threshold, settings=said)


def kernels(module: nn.Module, layer: str) -> Float[Tensor, "u c k k"]:
    """Weights of a convolution with square kernels of more than one pixel, in float64."""
    weight = getattr(find(module, layer).module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 4 or weight.shape[-1] != weight.shape[-2]:
        raise BadInput(f"layer '{layer}' is no convolution with square kernels.", "Name one, such as the first layer.")
    if weight.shape[-1] == 1:
        raise BadInput(f"the kernels of layer '{layer}' have one pixel: turning them changes nothing.")
    return weight.detach().cpu().double()


def turning(k: int, degrees: float | int, flip: bool = False, scale: float | int = 1.0) -> Float[Tensor, "q p"]:
    """The matrix that mirrors a kernel left to right, scales it and turns it counterclockwise, on flat pixels.

    Bilinear, 0 outside: the weight of pixel p for a point is (1 - |Δx|)(1 - |Δy|), where both are positive.
    """
    c, s = turn_of(degrees)
    steps = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    y, x = (axis.flatten() for axis in torch.meshgrid(-steps, steps, indexing="ij"))
    from_x, from_y = (x * c + y * s) / scale, (y * c - x * s) / scale
    if flip:
        from_x = -from_x
    near_x, near_y = ((1 - (at[:, None] - to).abs()).clamp(min=0) for at, to in ((from_x, x), (from_y, y)))
    return near_x * near_y


def _within(k: int) -> Float[Tensor, " p"]:
    """1 for pixels whose middle lies in the disc that fits into a kernel, else 0."""
    steps = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    return (torch.hypot(steps[:, None], steps) <= k / 2).double().flatten()


def hue_turning(degrees: float | int) -> Float[Tensor, "3 3"]:
    """Turns colours about the grey axis: 120° makes red green."""
    c, s = cos(radians(degrees)), sin(radians(degrees)) / sqrt(3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64)
    return c * torch.eye(3, dtype=torch.float64) + s * cross + (1 - c) / 3


def shifted_correlation(curves: Float[Tensor, "u m v"]) -> tuple[Float[Tensor, "u u"], Int[Tensor, "u u"]]:
    """Correlation of each pair of curves at the best circular shift of the first one, and that shift.

    Args:
        curves: along v, for m settings of everything else, which are compared together.
    """
    level = curves.double()
    level = level - level.mean((1, 2), keepdim=True)
    level = level / level.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None]
    waves = torch.fft.fft(level)
    cross = torch.fft.ifft(einsum(waves.conj(), waves, "a m f, b m f -> f a b"), dim=0).real
    return simplest(cross)


def simplest(bank: Float[Tensor, "r u w"]) -> tuple[Float[Tensor, "u w"], Int[Tensor, "u w"]]:
    """The best of some relations for each pair: the first one, where several are as good."""
    best = bank.amax(0)
    return best.clamp(-1, 1), (bank >= best - TIE).to(torch.uint8).argmax(0)


def clusters(similarity: Float[Tensor, "u u"], threshold: float) -> tuple[Int[Tensor, " u"], Int[Tensor, " f"]]:
    """Families by rank: the unit with most partners, with them, and so on with what is left. Also their seeds."""
    near = ((similarity >= threshold) | (threshold <= similarity.T)).fill_diagonal_(True)
    left = torch.ones(len(near), dtype=torch.bool)
    family, seeds = torch.zeros(len(near), dtype=torch.int64), list[int]()
    while left.any():
        partners = torch.where(left, (near & left).sum(1), -1)
        seed = int(partners.argmax())
        family[near[seed] & left] = len(seeds)
        left = left & ~near[seed]
        seeds.append(seed)
    return family, torch.tensor(seeds)


def from_shifts(
    layer: str,
    units: Int[Tensor, " u"],
    similarity: Float[Tensor, "u u"],
    shift: Int[Tensor, "u u"],
    degrees: Sequence[float],
    threshold: float,
    period: float,
) -> Families:
    """Families of units that are related by shifts of a curve alone."""
    relations = torch.tensor([(step, 0.0, 1.0, 0.0, 1.0) for step in degrees], dtype=torch.float64)
    family, seed = clusters(similarity, threshold)
    return Families(layer, units, similarity, shift, relations, family, seed, threshold, period)
