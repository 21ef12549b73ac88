"""A generator with styles whose every slice of w drives one group of factors."""

from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.generative import GeneratorSpec, LayerInfo, Space, StyleAffine
from glasshouse.core.types import Images, Units
from glasshouse.data.glass.little_scene import (
    CLASSES,
    FACTORS,
    GROUPS,
    PAINT,
    factor_values,
    group_covers,
    painted,
    visible,
)
from glasshouse.data.glass.truth import linear


class Group(nn.Module):
    """Draws one group's classes from its own styles."""

    def __init__(self, name: str, resolution: int, sharpness: float):
        super().__init__()
        self.name, self.resolution, self.sharpness = name, resolution, sharpness
        self.columns = [i for i, factor in enumerate(FACTORS) if factor.group == name]

    def forward(self, style: Float[Tensor, "n s"]) -> Units:
        share = style.new_full((len(style), len(FACTORS)), 0.5)
        share = share.index_copy(1, torch.tensor(self.columns, device=style.device), torch.special.ndtr(style))
        return group_covers(self.name, factor_values(share)[:, self.columns], self.resolution, self.sharpness)


class StyleGlassBox(nn.Module):
    """z → w = Q z → slices → styles → groups of classes → paint.

        style_i = q_i · w_(slice of factor i),    factor_i = low_i + (high_i - low_i) Φ(style_i)

    Slice 0 drives the layout (the horizon), 1 the sun, 2 the house, 3 the tree, and no slice anything else: to change
    it moves the group's outlines only. Within slice l, w along row i of `directions` changes factor i of that group
    and leaves the others, so the affine map of a slice has those rows as its right singular vectors; w across them
    changes nothing. Each layer `groups.l` holds its classes as if nothing were in front, `occupancy` what is seen.

    Args:
        mapping: Q, orthogonal; none leaves w = z.
        basis: orthonormal rows q_i that the styles read; none takes the coordinates of w.
    """

    w_mean: Tensor

    def __init__(
        self,
        resolution: int = 32,
        *,
        mapping: Float[Tensor, "d d"] | None = None,
        basis: Float[Tensor, "d d"] | None = None,
        sharpness: float | int = 1.0,
    ):
        super().__init__()
        d = len(FACTORS)
        one = torch.eye(d, dtype=torch.float64)
        for name, matrix in (("mapping", mapping), ("basis", basis)):
            if matrix is not None and not torch.allclose(matrix.double() @ matrix.double().T, one, atol=1e-5):
                raise BadInput(f"{name} is no orthogonal matrix of {d} × {d}.", f"Try random_rotation({d}, seed=0).")
        if not (sharpness > 0 and resolution >= 16):
            raise BadInput(f"resolution={resolution} must be 16 or more, sharpness={sharpness} above 0.")
        self.factor_names = tuple(factor.name for factor in FACTORS)
        self.mapping = linear(one if mapping is None else mapping)
        rows = one if basis is None else basis
        groups = [Group(name, resolution, float(sharpness)) for name in GROUPS]
        self.groups = nn.ModuleList(groups)
        self.affines = nn.ModuleList(linear(rows[group.columns], torch.zeros(len(group.columns))) for group in groups)
        self.occupancy = nn.Identity()
        self.register_buffer("w_mean", torch.zeros(d))
        grid = (resolution, resolution)
        infos = [LayerInfo(f"groups.{i}", len(names), grid, i) for i, names in enumerate(GROUPS.values())]
        infos.append(LayerInfo("occupancy", len(CLASSES), grid))
        spaces: tuple[Space, ...] = ("z", "w", "wplus", "style")
        self.spec = GeneratorSpec(spaces, d, resolution, tuple(infos), w_dim=d, n_w=len(groups), n_styles=d)

    @property
    def directions(self) -> Float[Tensor, "d d"]:
        """Row i is the direction of w, in the slice of its group, that changes factor i and no other."""
        return torch.cat([cast(nn.Linear, affine).weight.detach() for affine in self.affines])

    def slice_of(self, factor: str) -> int:
        """Which slice of `wplus` drives a factor."""
        return list(GROUPS).index(FACTORS[self.factor_names.index(factor)].group)

    def factors(self, style: Float[Tensor, "n s"]) -> dict[str, Tensor]:
        """Each factor's value by name, from the styles."""
        values = factor_values(torch.special.ndtr(style))
        return dict(zip(self.factor_names, values.unbind(1), strict=True))

    def forward(self, z: Float[Tensor, "n d"]) -> Images:
        for space in self.spec.spaces[:-1]:
            z = self.advance(z, space)
        return self.draw(z)

    def advance(self, data: Tensor, space: Space) -> Tensor:
        if space == "z":
            return self.mapping(data)
        if space == "w":
            return data[:, None].expand(-1, self.spec.n_w, -1)
        return torch.cat([affine(data[:, i]) for i, affine in enumerate(self.affines)], 1)

    def draw(self, data: Float[Tensor, "n s"]) -> Images:
        covers = dict[str, Tensor]()
        styles = data.split([cast(nn.Linear, affine).out_features for affine in self.affines], 1)
        for group, names, style in zip(self.groups, GROUPS.values(), styles, strict=True):
            covers.update(zip(names, group(style).unbind(1), strict=True))
        seen = self.occupancy(visible(torch.stack([covers[name] for name in CLASSES], 1)))
        return painted(seen, PAINT)

    def style_affines(self) -> tuple[StyleAffine, ...]:
        sizes = [cast(nn.Linear, affine).out_features for affine in self.affines]
        ends = pairwise([sum(sizes[:i]) for i in range(len(sizes) + 1)])
        return tuple(
            StyleAffine(
                f"groups.{i}",
                i,
                columns,
                cast(nn.Linear, affine).weight.detach(),
                cast(nn.Linear, affine).bias.detach(),
            )
            for i, (affine, columns) in enumerate(zip(self.affines, ends, strict=True))
        )
