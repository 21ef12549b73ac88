"""Few directions that stand for all units of a layer: non-negative matrix factorisation of its activations."""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun, Progress, Units, registered
from glasshouse.dissect.stored import Activations

BLOCK = 2**22  # activations looked at together
SWEEPS = 1000  # at most, where strengths are found for given directions


@dataclass(frozen=True, eq=False, repr=False)
class NeuronGroups(Noun):
    """Units of a layer that act together: g directions, and how strong each is at every position.

        A_n,ij ≈ sum_g S_ng,ij W_g,   all of it non-negative

    Args:
        directions: W, of length 1; the group with the largest share of the activation comes first.
        maps: S.
        share: of all activation, summed over units and positions, that each group accounts for; together about 1.
        explained: 1 - |A - SW|² / |A|², in the weights if there were any.
        error: |A - SW|² in each iteration; it never rises.
    """

    layer: str
    units: Int[Tensor, " u"]
    directions: Float[Tensor, "g u"]
    maps: Float[Tensor, "n g i j"]
    share: Float[Tensor, " g"]
    explained: float
    error: Float[Tensor, " t"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        g, u = self.directions.shape
        at = f"{self.layer}, " if self.layer else ""
        return f"NeuronGroups({at}{g} groups of {u} units on {len(self.maps)} images, {self.explained:.1%} explained)"

    def transform(
        self, maps: Float[Tensor, "n u i j"], weights: Float[Tensor, "n u i j"] | None = None
    ) -> Float[Tensor, "n g i j"]:
        """How strong each group is in other maps: the least squares solution with no negative strength."""
        flat, heed = (None if part is None else rearrange(part, "n u i j -> (n i j) u") for part in (maps, weights))
        assert flat is not None
        directions = self.directions.to(flat)
        found = settle(flat.new_zeros(len(directions), len(flat)), flat, directions, heed)
        return rearrange(found, "g (n i j) -> n g i j", n=len(maps), i=maps.shape[2])

    def rebuilt(self, rows: slice | Int[Tensor, " r"] = slice(None)) -> Float[Tensor, "r u i j"]:
        """The activations of some images as far as the groups explain them."""
        return einsum(self.maps[rows], self.directions, "n g i j, g u -> n u i j")

    @property
    def colours(self) -> Float[Tensor, "g 3"]:
        """A colour for each group, at equal distances around the wheel of hues."""
        n = len(self.directions)
        return torch.tensor([colorsys.hsv_to_rgb(group / n, 1.0, 1.0) for group in range(n)])

    def painted(self, rows: slice | Int[Tensor, " r"] = slice(None)) -> Float[Tensor, "r 3 i j"]:
        """Groups in their colours, 0…1: what is strongest anywhere is brightest, black is no activity."""
        maps = self.maps[rows].cpu()
        brightest = self.maps.sum(1).max().cpu().clamp(min=torch.finfo(maps.dtype).tiny)
        return einsum(maps / brightest, self.colours.to(maps), "n g i j, g c -> n c i j")


@registered(
    "dissect",
    paper="Olah et al., Distill 2018",
    warning="the number of groups is yours; with another, the groups are others.",
    example={"n_groups": 3, "iterations": 10},
)
def neuron_groups(
    activations: Activations | Units,
    n_groups: int = 6,
    *,
    weights: Units | None = None,
    rectify: bool = False,
    iterations: int = 200,
    tolerance: float = 1e-4,
    progress: Progress | None = None,
) -> NeuronGroups:
    """Groups of units that act together, found by factorising the activations at all positions of all images.

        minimise |A - S W|²   over S >= 0 (positions × groups), W >= 0 (groups × units)

    Olah et al., "The building blocks of interpretability", Distill 2018. Solved by hierarchical alternating least
    squares (Cichocki and Phan, IEICE 2009, alg. 2), which never raises the error, from the start NNDSVDa (Boutsidis
    and Gallopoulos, Pattern Recognition 2008), which draws nothing: the same activations give the same groups.

    Stored activations are read block by block, once in each iteration, so they need not fit into memory. For groups
    of a single image hand in its maps alone, `activations.rows(slice(3, 4))`.

    Args:
        activations: stored ones, or maps `n u i j`. They must not be negative.
        weights: how much each squared error counts, in the shape of the maps. The squared gradient of a class score
            there makes groups that keep what units contribute to the class, rather than what they do.
        rectify: take negative activations for 0.
        iterations: at most; fewer when one lowers the error by less than the share `tolerance` of it.
    """
    read = _Blocks(activations, weights, rectify)
    n, u, i, j = read.shape
    if not 1 <= n_groups <= min(u, n * i * j):
        raise BadInput(
            f"{n_groups} groups of {u} units at {n * i * j} positions.", f"Ask for 1 to {min(u, n * i * j)} groups."
        )
    gram, total, squares = read.totals()
    strengths, directions = start(read, n_groups, gram, total / (n * i * j * u))
    errors: list[float] = []
    for iteration in range(iterations):
        errors.append(improve(read, strengths, directions))
        if progress:
            progress(iteration + 1, iterations)
        if iteration and errors[-2] - errors[-1] <= tolerance * errors[-2]:
            break
    left = 0.0
    for place, flat, heed in read:
        strengths[:, place] = settle(strengths[:, place], flat, directions, heed)
        left += misfit(flat, strengths[:, place], directions, heed)
    length = directions.norm(dim=1)
    directions, strengths = directions / length.clamp(min=1e-30)[:, None], strengths * length[:, None]
    share = strengths.double().sum(1) * directions.double().sum(1) / (total or 1.0)
    order = share.argsort(descending=True, stable=True)
    return NeuronGroups(
        activations.layer if isinstance(activations, Activations) else "",
        activations.units if isinstance(activations, Activations) else torch.arange(u),
        directions[order],
        rearrange(strengths[order], "g (n i j) -> n g i j", n=n, i=i),
        share[order].to(directions),
        explained=1 - left / (squares or 1.0),
        error=torch.tensor(errors, dtype=torch.float64),
        settings={"n_groups": n_groups, "rectify": rectify, "iterations": iterations, "tolerance": tolerance},
    )


class _Blocks:
    """Activations as rows `p u`, some images at a time, each with its place among all positions and its weights."""

    def __init__(self, activations: Activations | Units, weights: Units | None, rectify: bool):
        self.maps = activations.maps if isinstance(activations, Activations) else activations
        self.shape, self.weights, self.rectify = self.maps.shape, weights, rectify
        if weights is not None and (weights.shape != self.shape or bool((weights < 0).any())):
            raise BadInput(
                f"weights {tuple(weights.shape)} for activations {tuple(self.shape)}, or negative ones.",
                "Give one weight of 0 or more for each activation.",
            )

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "p u"], Float[Tensor, "p u"] | None]]:
        n, u, i, j = self.shape
        at_once = max(1, BLOCK // (u * i * j))
        for first in range(0, n, at_once):
            rows = slice(first, min(first + at_once, n))
            flat, heed = self._flat(self.maps, rows), None
            if self.weights is not None:
                heed = self._flat(self.weights, rows).to(flat)
            yield slice(rows.start * i * j, rows.stop * i * j), flat.clamp(min=0) if self.rectify else flat, heed

    def _flat(self, maps: Tensor, rows: slice) -> Float[Tensor, "p u"]:
        part = rearrange(maps[rows], "n u i j -> (n i j) u")
        return part.float() if part.dtype.itemsize < 4 else part

    def totals(self) -> tuple[Float[Tensor, "u u"], float, float]:
        """Aᵀ A, the sum of A, and that of its squares in the weights; A must be fit for factorising."""
        gram, total, squares = torch.zeros(1), 0.0, 0.0
        for _, flat, heed in self:
            if flat.min() < 0:
                raise BadInput(
                    f"some activations are negative, down to {float(flat.min()):.3g}; parts that only add up "
                    "cannot make them.",
                    "Choose a layer behind a ReLU, or pass rectify=True to take negative ones for 0.",
                )
            gram = gram.to(flat.device) + (flat.T @ flat).double()
            total += float(flat.sum(dtype=torch.float64))
            squares += misfit(flat, flat.new_zeros(1, len(flat)), flat.new_zeros(1, flat.shape[1]), heed)
        return gram, total, squares


def start(
    read: _Blocks, n_groups: int, gram: Float[Tensor, "u u"], fill: float
) -> tuple[Float[Tensor, "g p"], Float[Tensor, "g u"]]:
    """NNDSVDa: of each singular pair the part of one sign that holds more, with the mean in place of zeros."""
    values, vectors = torch.linalg.eigh(gram)
    size = values.flip(0)[:n_groups].clamp(min=0).sqrt()
    right = vectors.flip(1)[:, :n_groups].T
    left = torch.cat([(right @ flat.double().T) for _, flat, _ in read], 1) / size.clamp(min=1e-30)[:, None]
    kind = next(iter(read))[1].dtype
    signed = [((sign * left).clamp(min=0), (sign * right).clamp(min=0)) for sign in (1, -1)]
    mass = torch.stack([one.norm(dim=1) * other.norm(dim=1) for one, other in signed])
    plus = (mass[0] >= mass[1])[:, None]
    found: list[Tensor] = []
    for one, other in zip(*signed, strict=True):
        part = torch.where(plus, one, other)
        scaled = part * (size * mass.amax(0)).sqrt()[:, None] / part.norm(dim=1, keepdim=True).clamp(min=1e-30)
        found.append(torch.where(scaled > 0, scaled, fill).to(kind))
    strengths, directions = found
    return strengths, directions


def improve(read: _Blocks, strengths: Float[Tensor, "g p"], directions: Float[Tensor, "g u"]) -> float:
    """One sweep over the strengths, block after block, then one over the directions; the error between the two."""
    along, own, error = torch.zeros(1), torch.zeros(1), 0.0
    for place, flat, heed in read:
        part = strengths[:, place]
        descend(part, *normal(flat, directions, heed))
        error += misfit(flat, part, directions, heed)
        of_units = normal(flat.T, part, None if heed is None else heed.T)
        along, own = (now.to(new.device) + new.double() for now, new in zip((along, own), of_units, strict=True))
    descend(directions, along.to(directions), own.to(directions))
    return error


def normal(
    values: Float[Tensor, "p u"], directions: Float[Tensor, "g u"], weights: Float[Tensor, "p u"] | None
) -> tuple[Float[Tensor, "g p"], Float[Tensor, "g g *p"]]:
    """The normal equations of least squares: directions · values, and directions · directions, for each row."""
    if weights is None:
        return directions @ values.T, (directions @ directions.T)[:, :, None]
    pairs = rearrange(directions[:, None] * directions, "g h u -> (g h) u")
    return directions @ (weights * values).T, (pairs @ weights.T).unflatten(0, (len(directions), -1))


def descend(found: Float[Tensor, "g p"], along: Float[Tensor, "g p"], gram: Float[Tensor, "g g *p"]) -> None:
    """One sweep of coordinate descent, in place: each row becomes the best non-negative one, given the others."""
    for row, others in enumerate(gram):
        size = others[row]
        gain = (along[row] - (others * found).sum(0)) / size.clamp(min=1e-30)
        found[row] = torch.where(size > 0, (found[row] + gain).clamp(min=0), found[row])


def settle(
    found: Float[Tensor, "g p"],
    values: Float[Tensor, "p u"],
    directions: Float[Tensor, "g u"],
    weights: Float[Tensor, "p u"] | None,
) -> Float[Tensor, "g p"]:
    """The best non-negative strengths of given directions, by sweeps until nothing changes any more."""
    found, (along, gram) = found.clone(), normal(values, directions, weights)
    for _ in range(SWEEPS):
        before = found.clone()
        descend(found, along, gram)
        if (found - before).abs().max() <= 1e-6 * found.max():
            break
    return found


def misfit(
    values: Float[Tensor, "p u"],
    strengths: Float[Tensor, "g p"],
    directions: Float[Tensor, "g u"],
    weights: Float[Tensor, "p u"] | None,
) -> float:
    """The sum of squares of what the groups leave out."""
    squares = (values - strengths.T @ directions).square()
    return float((squares if weights is None else weights * squares).sum(dtype=torch.float64))
