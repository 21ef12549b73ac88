"""Weights of curve detectors, written from geometry alone: no image is seen and nothing is trained.

Five layers, each a convolution without bias: Gabor filters, proto-lines (a filter pair in any phase), lines, early
curves, curves. From the third on, one rule gives every connection. A unit stands for a shape, a straight line or an
arc through its centre; the weight of an input unit at an offset says how well that unit's own orientation fits the
shape there and how far the shape passes from it, and the same patterns of the shapes to be rejected are projected out.

Angles are those of normals, in radians, anticlockwise from the right; an arc's normal points at its centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, gcd, pi, sin

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

PHASES = 4  # cosine, sine and their negatives, since a ReLU passes one sign only
LEAST_LINES = 8
DESIGN_RADIUS = 12.0  # the lengths below are in pixels at this radius, and grow with it


@dataclass(frozen=True)
class Shape:
    """A line, or an arc of `curvature` (1 / radius), that passes `offset` from a unit's centre along its normal."""

    normal: float
    curvature: float = 0.0
    offset: float = 0.0


@dataclass(frozen=True)
class Tile:
    """How a unit gathers its inputs: across the shape, along it, and how sharply by their orientation.

    Args:
        width, length: standard deviations of two Gaussians, in pixels.
        sharpness: of the von Mises bump over orientations.
    """

    width: float
    length: float
    sharpness: float

    @property
    def side(self) -> int:
        """Of the kernel, an odd number: twice the standard deviation to each side."""
        return 2 * int(2 * self.length) + 1


def offsets(side: int) -> tuple[Float[Tensor, "s s"], Float[Tensor, "s s"]]:
    """How far each weight of a kernel lies to the right of its centre, and above it."""
    steps = torch.arange(side, dtype=torch.float64) - side // 2
    up, right = torch.meshgrid(-steps, steps, indexing="ij")
    return right, up


def nearest_point(
    shape: Shape, right: Float[Tensor, "*p"], up: Float[Tensor, "*p"]
) -> tuple[Float[Tensor, "*p"], Float[Tensor, "*p"], Float[Tensor, "*p"]]:
    """For points of the plane: distance to the shape, length along it to the nearest point, and its normal there."""
    inward = right * cos(shape.normal) + up * sin(shape.normal) - shape.offset
    along = up * cos(shape.normal) - right * sin(shape.normal)
    if not shape.curvature:
        return inward, along, torch.full_like(inward, shape.normal)
    radius = 1 / shape.curvature
    turned = torch.atan2(along, radius - inward)
    return radius - torch.hypot(inward - radius, along), radius * turned, shape.normal - turned


def template(shape: Shape, normals: Float[Tensor, " u"], period: float, tile: Tile) -> Float[Tensor, "u s s"]:
    """What inputs with these normals say where the shape is: the pattern that a unit for it looks for.

        k(normal_in - normal of the shape there) exp(-distance² / 2 width²) exp(-length² / 2 length²)

    Args:
        period: pi for inputs that do not tell the two sides of a line apart, 2 pi for curves.
    """
    distance, length, there = nearest_point(shape, *offsets(tile.side))
    gap = (rearrange(normals, "u -> u 1 1") - there) * (2 * pi / period)
    fit = torch.exp(tile.sharpness * (torch.cos(gap) - 1))
    return fit * torch.exp(-((distance / tile.width) ** 2 + (length / tile.length) ** 2) / 2)


def without(
    pattern: Float[Tensor, "u s s"], rivals: Sequence[Float[Tensor, "u s s"]], ridge: float = 1e-3
) -> Float[Tensor, "u s s"]:
    """The part of a pattern that none of its rivals shares: its residual after they are projected out.

    Args:
        ridge: share of a rival's energy added to its own, so that rivals much alike do not fight.
    """
    rows = torch.stack([rival.flatten() for rival in rivals])
    gram = rows @ rows.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return pattern - (torch.linalg.solve(gram, rows @ pattern.flatten()) @ rows).view_as(pattern)


def normalised(weights: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Scaled so that the positive weights sum to 1: inputs of 1 where they are positive give 1."""
    return weights / weights.clamp(min=0).sum()


def curve_normals(n: int) -> Float[Tensor, " n"]:
    """Directions in which the curves' centres lie."""
    return torch.arange(n, dtype=torch.float64) * (2 * pi / n)


def line_normals(n: int) -> Float[Tensor, " m"]:
    """Of the lines under n curves: at least eight, and so many that a step of the curves is whole steps of lines."""
    least = n // gcd(n, 2)
    count = least * -(-LEAST_LINES // least)
    return torch.arange(count, dtype=torch.float64) * (pi / count)


def gabors(normals: Float[Tensor, " m"], scale: float) -> Float[Tensor, "u 1 s s"]:
    """Filters for stripes across each normal, in four phases; they give 0 for an even surface."""
    spread, wavelength = GABOR_SPREAD * scale, GABOR_WAVELENGTH * scale
    right, up = offsets(2 * int(2.5 * spread) + 1)
    window = torch.exp(-(right**2 + up**2) / (2 * spread**2))
    filters = list[Tensor]()
    for normal in normals.tolist():
        across = right * cos(normal) + up * sin(normal)
        for phase in range(PHASES):
            wave = window * torch.cos(2 * pi * across / wavelength + phase * pi / 2)
            filters.append(normalised(wave - window * wave.sum() / window.sum()))
    return torch.stack(filters)[:, None]


def proto_lines(normals: Float[Tensor, " m"]) -> Float[Tensor, "m u 1 1"]:
    """Any phase of a unit's own orientation, less the mean over the others."""
    count = len(normals)
    own = torch.eye(count, dtype=torch.float64)
    weights = own - CROSS_INHIBITION * (1 - own) / (count - 1)
    return weights.repeat_interleave(PHASES, 1)[:, :, None, None]


def lines(normals: Float[Tensor, " m"], scale: float) -> Float[Tensor, "m m s s"]:
    """Proto-lines in a row along a line; what lies across it counts against it."""
    tile = scaled(LINE, scale)

    def weights(normal: float) -> Tensor:
        fit = template(Shape(normal), normals, pi, tile)
        flat = template(Shape(normal), normals, pi, Tile(tile.width, tile.length, 0.0))
        return normalised(fit - MISFIT * flat)

    return torch.stack([weights(normal) for normal in normals.tolist()])


def early_curves(normals: Float[Tensor, " n"], inputs: Float[Tensor, " m"], radius: float) -> Float[Tensor, "n m s s"]:
    """Lines tangent to an arc; rejected are the arc bent the other way and lines, some oblique or beside the centre."""
    scale = radius / DESIGN_RADIUS
    tile = scaled(EARLY_CURVE, scale)

    def weights(normal: float) -> Tensor:
        straight = [Shape(normal + turn, 0.0, scale * shift) for turn in LINE_TURNS for shift in LINE_SHIFTS]
        rivals = [template(shape, inputs, pi, tile) for shape in (*straight, Shape(normal + pi, 1 / radius))]
        return normalised(without(template(Shape(normal, 1 / radius), inputs, pi, tile), rivals))

    return torch.stack([weights(normal) for normal in normals.tolist()])


def curves(normals: Float[Tensor, " n"], radius: float) -> Float[Tensor, "n n s s"]:
    """Early curves in a row along an arc; rejected are those bent the other way."""
    tile = scaled(CURVE, radius / DESIGN_RADIUS)

    def weights(normal: float) -> Tensor:
        wanted, *rivals = (
            template(Shape(normal + turn, 1 / radius), normals, 2 * pi, tile) for turn in (0.0, *CURVE_TURNS)
        )
        return normalised(without(wanted, rivals))

    return torch.stack([weights(normal) for normal in normals.tolist()])


def scaled(tile: Tile, scale: float) -> Tile:
    """The same tile for larger or smaller shapes."""
    return Tile(scale * tile.width, scale * tile.length, tile.sharpness)


GABOR_SPREAD, GABOR_WAVELENGTH = 2.4, 6.0
CROSS_INHIBITION = 0.5  # of a proto-line by all other orientations together
MISFIT = 0.35  # fit below which a proto-line counts against a line
LINE = Tile(1.5, 2.0, 4.0)
EARLY_CURVE = Tile(2.4, 6.4, 5.0)
CURVE = Tile(0.8, 6.4, 2.2)
LINE_TURNS = (-pi / 6, 0.0, pi / 6)
LINE_SHIFTS = (-2.5, 0.0, 2.5)
CURVE_TURNS = (pi - pi / 6, pi, pi + pi / 6)
