"""Weights between layers that need not be neighbours: what a change of one unit does to another, place by place."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Images,
    Model,
    NotFound,
    Noun,
    borrow,
    generator,
    in_chunks,
    registered,
)
from glasshouse.core.lift import checked_images, module_of
from glasshouse.dissect.circuitry.stretches import Stretch
from glasshouse.dissect.groups.factors import neuron_groups
from glasshouse.dissect.passes import chosen_units

CHUNK = 16  # images run at once

How: TypeAlias = Literal["linear", "gradient"]


@dataclass(frozen=True, eq=False, repr=False)
class ExpandedWeights(Noun):
    """Weights from v units of one layer to u units of a later one.

    Args:
        weights: of each pair, on the earlier layer's grid, cut down to where any of them is not 0.
        position: on the later layer's grid, whose answer they make up.
        origin: row and column of the weights' upper left corner on the earlier layer's grid.
        at_border: whether they reach the border of that grid, so that padding may have cut them off.
    """

    source: str
    layer: str
    source_units: Int[Tensor, " v"]
    units: Int[Tensor, " u"]
    weights: Float[Tensor, "u v i j"]
    position: tuple[int, int]
    origin: tuple[int, int]
    at_border: bool
    how: How
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        u, v, i, j = self.weights.shape
        cut = ", at the border of the grid" if self.at_border else ""
        return f"ExpandedWeights({self.source} → {self.layer}, {v} → {u} units, {i}×{j}, {self.how}{cut})"

    @property
    def norm(self) -> Float[Tensor, "u v"]:
        """L2 norm of the weights of each pair."""
        return self.weights.flatten(2).norm(dim=2)

    def kernel(self, unit: int, source_unit: int) -> Float[Tensor, "i j"]:
        """The weights of one pair, by the units' numbers in their layers."""
        return self.weights[_row(self.units, unit), _row(self.source_units, source_unit)]

    def inputs_of(self, unit: int, k: int = 8) -> Int[Tensor, " k"]:
        """The units of the earlier layer that reach this one most strongly by L2 norm, the strongest first."""
        order = self.norm[_row(self.units, unit)].argsort(descending=True, stable=True)
        return self.source_units[order[:k]]

    def outputs_of(self, source_unit: int, k: int = 8) -> Int[Tensor, " k"]:
        """The units of the later layer that this one reaches most strongly by L2 norm, the strongest first."""
        order = self.norm[:, _row(self.source_units, source_unit)].argsort(descending=True, stable=True)
        return self.units[order[:k]]

    def input_groups(self, n_groups: int = 3) -> "InputGroups":
        """Few groups of input units that stand for all, by one-sided non-negative matrix factorisation.

            max(W, 0) ≈ sum_g S⁺_g F_g,   max(-W, 0) ≈ sum_g S⁻_g F_g,   all of it non-negative

        Voss et al., "Visualizing weights", Distill 2021: only input units are grouped; outputs and positions stay.
        """
        split = torch.cat([self.weights.clamp(min=0), (-self.weights).clamp(min=0)])
        found = neuron_groups(split, n_groups)
        exciting, inhibiting = found.maps.chunk(2)
        return InputGroups(
            self.source, self.source_units, self.units, found.directions, exciting, inhibiting, found.explained
        )


@dataclass(frozen=True, eq=False, repr=False)
class InputGroups(Noun):
    """Expanded weights with g groups of input units in the place of v units.

    Args:
        directions: F, of length 1; the group that accounts for most of the weights comes first.
        exciting, inhibiting: S of the positive and of the negative weights.
        explained: 1 - |W - SF|² / |W|².
    """

    source: str
    source_units: Int[Tensor, " v"]
    units: Int[Tensor, " u"]
    directions: Float[Tensor, "g v"]
    exciting: Float[Tensor, "u g i j"]
    inhibiting: Float[Tensor, "u g i j"]
    explained: float

    def __repr__(self) -> str:
        g, v = self.directions.shape
        return f"InputGroups({self.source}, {g} groups of {v} units, {self.explained:.1%} of the weights explained)"

    def painted(self) -> tuple[Float[Tensor, "u 3 i j"], Float[Tensor, "u 3 i j"]]:
        """Exciting and inhibiting weights with the first three groups as red, green and blue, in 0…1; black is none."""
        largest = torch.maximum(self.exciting.max(), self.inhibiting.max()).clamp(min=1e-30)
        missing = max(0, 3 - len(self.directions))
        first, second = (
            F.pad(part[:, :3] / largest, (0, 0, 0, 0, 0, missing)) for part in (self.exciting, self.inhibiting)
        )
        return first, second


@registered(
    "dissect",
    paper="Voss et al., Distill 2021",
    warning="linear weights leave out what ReLUs do between the layers; paths that never act together can cancel.",
)
def expanded_weights(
    model: Model | nn.Module,
    inputs: Images | None = None,
    *,
    source: str,
    layer: str,
    units: Sequence[int] | None = None,
    source_units: Sequence[int] | None = None,
    how: How = "linear",
) -> ExpandedWeights:
    """How much each unit of `source`, at each place, adds to each unit of `layer` in the middle of its grid.

        W_uv,p = d A_u,centre / d A_v,p

    "linear": of the network in which activation functions between the layers are left out, max pooling is average
    pooling, and batch norms and skip connections stay as they are. Those weights do not depend on the inputs, and
    equal the composed kernel where nothing but convolutions lies between. That what is left is linear is checked by
    a change of `source`; attention, layer norms and gates are not, and are errors.
    "gradient": the average over `inputs` of the true gradient, which heeds all of them.

    Voss et al., "Visualizing weights", Distill 2021; activation functions at the end of `layer` are left out as well.

    Args:
        inputs: "linear" needs their size only: the larger, the less is cut off by the border. None takes the size of
            the model's preprocessing.
        source: the earlier layer. What reaches `layer` on ways around it does not count.
        layer: the later one.
        units, source_units: of the two layers; None takes all.
    """
    if how not in ("linear", "gradient"):
        raise BadInput(f"no weights by '{how}'.", "There are 'linear' and 'gradient'.")
    images = blank(model) if inputs is None and how == "linear" else checked_images(inputs)
    images = images[:1] if how == "linear" else images
    with borrow(model, images, [source, layer]) as network:
        stretch = Stretch.of(network, images, source, layer, linear=how == "linear")
        to, of = chosen_units(units, stretch.layer), chosen_units(source_units, stretch.source)
        parts = in_chunks(lambda rows: stretch.jacobian(images[rows], to), len(images), CHUNK, images.device)
        weights = torch.stack([part for _, part in parts]).sum(0) / len(images)
        if how == "linear":
            stretch.check(images, to, weights)
    weights = weights.cpu()[:, of]
    rows, columns = support(weights)
    ends = zip((rows, columns), stretch.source.grid, strict=True)
    return ExpandedWeights(
        source,
        layer,
        of,
        to,
        weights[:, :, rows, columns],
        position=stretch.centre,
        origin=(rows.start, columns.start),
        at_border=any(size > 1 and (part.start == 0 or part.stop == size) for part, size in ends),
        how=how,
        settings={"n_images": len(images), "size": tuple(images.shape[-2:])},
    )


def blank(model: Model | nn.Module) -> Images:
    """One input of noise of the size that the model is made for."""
    known = model.preprocessing if isinstance(model, Model) else None
    if known is None:
        raise BadInput("the size of inputs is unknown: this model has no preprocessing.", "Pass inputs `n c h w`.")
    noise = torch.rand(1, len(known.mean), *known.size, generator=generator(0))
    weights = (weight for weight in module_of(model).parameters() if weight.is_floating_point())
    return known.normalise(noise).to(next(weights, noise))


def support(weights: Float[Tensor, "u v i j"]) -> tuple[slice, slice]:
    """The rows and the columns from the first to the last in which any weight is not 0."""
    sizes = weights.abs().amax((0, 1))
    live = sizes > torch.finfo(weights.dtype).eps * sizes.max()
    rows, columns = live.any(1).nonzero()[:, 0].tolist() or [0], live.any(0).nonzero()[:, 0].tolist() or [0]
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _row(numbers: Int[Tensor, " u"], unit: int) -> int:
    found = (numbers == unit).nonzero()
    if not len(found):
        raise NotFound(f"unit {unit} is not among the {len(numbers)} units of this result.")
    return int(found[0])
