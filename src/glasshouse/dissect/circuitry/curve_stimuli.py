"""Drawings of curves, lines, edges and angles through the centre of an image, for measuring curve detectors."""

from collections.abc import Callable, Sequence
from math import cos, pi, sin
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Region: TypeAlias = Callable[[Float[Tensor, "*p"], Float[Tensor, "*p"]], Bool[Tensor, "*p"]]
"""Which points are light, by their place along the normal (inwards) and across it, in pixels from the centre."""

SUBPIXELS = 4
ARC = pi / 2


def drawn(region: Region, normals: Sequence[float], side: int, contrast: float) -> Float[Tensor, "n 1 s s"]:
    """The region turned to each normal (radians), light on grey 0.5, each pixel the mean of sixteen points."""
    steps = (torch.arange(side * SUBPIXELS) + 0.5) / SUBPIXELS - side / 2
    up, right = torch.meshgrid(-steps, steps, indexing="ij")
    turned = [
        region(right * cos(normal) + up * sin(normal), up * cos(normal) - right * sin(normal)) for normal in normals
    ]
    return 0.5 + contrast / 2 * F.avg_pool2d(torch.stack(turned).float()[:, None], SUBPIXELS)


def arc(radius: float, line_px: float) -> Region:
    """A quarter of a circle, with round ends."""

    def inside(inward: Tensor, across: Tensor) -> Tensor:
        turn = torch.atan2(across, radius - inward).clamp(-ARC / 2, ARC / 2)
        return torch.hypot(inward - radius * (1 - turn.cos()), across - radius * turn.sin()) < line_px / 2

    return inside


def circle(radius: float, line_px: float) -> Region:
    """A whole circle."""
    return lambda inward, across: (torch.hypot(inward - radius, across) - radius).abs() < line_px / 2


def disc(radius: float) -> Region:
    """What lies within the circle: a boundary in place of a line."""
    return lambda inward, across: torch.hypot(inward - radius, across) < radius


def corner(radius: float, line_px: float) -> Region:
    """A right angle with a round corner: the quarter circle goes on as two straight lines."""

    def inside(inward: Tensor, across: Tensor) -> Tensor:
        across = across.abs()
        bent = torch.hypot(inward - radius, across) - radius
        straight = (across - inward) / 2**0.5 - radius * (2**0.5 - 1)
        on_arc = torch.atan2(across, radius - inward) < ARC / 2
        return torch.where(on_arc, bent, straight).abs() < line_px / 2

    return inside


def line(line_px: float, offset: float) -> Region:
    """A straight line that passes beside the centre."""
    return lambda inward, across: (inward - offset + 0 * across).abs() < line_px / 2


def edge(offset: float) -> Region:
    """The straight boundary of a half plane."""
    return lambda inward, across: inward - offset + 0 * across > 0


def angle(width: float, line_px: float, offset: float) -> Region:
    """Two rays that leave a sharp corner `offset` in front of the centre, `width` radians apart."""

    def inside(inward: Tensor, across: Tensor) -> Tensor:
        inward, across = inward + offset, across.abs()
        beside = across * cos(width / 2) - inward * sin(width / 2)
        along = inward * cos(width / 2) + across * sin(width / 2)
        return torch.where(along > 0, beside.abs(), torch.hypot(inward, across)) < line_px / 2

    return inside


def wedge(width: float, offset: float) -> Region:
    """What lies between the rays of an angle."""
    return lambda inward, across: across.abs() * cos(width / 2) < (inward + offset) * sin(width / 2)
