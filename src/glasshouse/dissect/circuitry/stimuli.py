"""Pictures whose every property is known: edges, lines, curves, gratings and colours, drawn from formulas.

At orientation 0, what a stimulus points to lies to its right; other orientations turn it counterclockwise, in degrees.
Lengths are pixels, frequencies cycles per pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, radians, sin
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput

Number: TypeAlias = float | int
Colour: TypeAlias = Number | tuple[Number, ...]
"""Of pixels in 0…1: one number for all channels, or one for each."""

Shade: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""How bright a stimulus is, 0…1, at points (x to the right, y up), averaged over cells of a given side."""

GRAIN = 2**20  # brightness is counted in these parts, so that sums do not depend on their order


@dataclass(frozen=True)
class Stimulus:
    """A picture before it has pixels.

    Args:
        shade: where it is `figure` (1) and where `ground` (0).
        blank: the shade of a field that holds no such thing.
    """

    name: str
    shade: Shade
    figure: Colour = 1.0
    ground: Colour = 0.0
    blank: float = 0.0

    def __repr__(self) -> str:
        return self.name

    def pixels(
        self,
        size: tuple[int, int],
        *,
        channels: int = 3,
        centre: tuple[Number, Number] | None = None,
        samples: int = 4,
    ) -> Float[Tensor, "{channels} {size[0]} {size[1]}"]:
        """The stimulus in 0…1, float32. A pixel is the mean of `samples`² cells; quarter turns are exact.

        Args:
            centre: row and column of its centre, 0 being the middle of the first pixel; None takes the image's.
        """
        height, width = size
        if min(height, width, channels, samples) < 1:
            raise BadInput(f"{channels} channels, {height} x {width} px and {samples} samples draw nothing.")
        row, column = centre or ((height - 1) / 2, (width - 1) / 2)
        within = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
        y = (row - torch.arange(height, dtype=torch.float64))[:, None] - within
        x = (torch.arange(width, dtype=torch.float64) - column)[:, None] + within
        shade = self.shade(x[None, None], y[:, :, None, None], 1 / samples).expand(height, samples, width, samples)
        share = (shade * GRAIN).round().mean((1, 3)) / GRAIN
        figure, ground = (_colour(colour, channels) for colour in (self.figure, self.ground))
        return (ground + (figure - ground) * share).float()

    def emptied(self) -> "Stimulus":
        """The field without the figure."""
        return Stimulus(f"blank of {self.name}", _even(self.blank), self.figure, self.ground, self.blank)


def edge(orientation: Number = 0.0, *, blur_px: Number = 0.0, figure: Colour = 1.0, ground: Colour = 0.0) -> Stimulus:
    """A straight border. It points to its figure, the bright side.

    Args:
        blur_px: width of the ramp from ground to figure.
    """
    return Stimulus("edge", _turned(orientation, lambda u, v, cell: _inside(-u, cell, blur_px)), figure, ground, 0.5)


def curved_edge(
    orientation: Number = 0.0,
    radius: Number = 16.0,
    *,
    blur_px: Number = 0.0,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """The border of a large disc. It points to the disc's centre; a straight edge is its limit."""
    _positive(radius=radius)

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        return _inside(torch.hypot(u - radius, v) - radius, cell, blur_px)

    return Stimulus("curved_edge", _turned(orientation, shade), figure, ground, 0.5)


def line(orientation: Number = 0.0, width: Number = 2.0, *, figure: Colour = 1.0, ground: Colour = 0.0) -> Stimulus:
    """A straight line without end. It points across itself: at orientation 0 the line is upright."""
    _positive(width=width)
    shade = _turned(orientation, lambda u, v, cell: _inside(u.abs() - width / 2, cell))
    return Stimulus("line", shade, figure, ground)


def curve(
    orientation: Number = 0.0,
    radius: Number = 16.0,
    width: Number = 2.0,
    *,
    span: Number = 120.0,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """An arc with round ends through the centre. It points to the middle of its circle; a line is its limit.

    Args:
        span: degrees of the circle that it covers.
    """
    _positive(radius=radius, width=width, span=span)
    half = radians(min(span, 360.0) / 2)
    end_u, end_v = radius - radius * cos(half), radius * sin(half)

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        beside = v.abs()
        along = torch.atan2(beside, radius - u) <= half
        arc = (torch.hypot(u - radius, v) - radius).abs()
        return _inside(torch.where(along, arc, torch.hypot(u - end_u, beside - end_v)) - width / 2, cell)

    return Stimulus("curve", _turned(orientation, shade), figure, ground)


def angle(
    orientation: Number = 0.0,
    opening: Number = 90.0,
    width: Number = 2.0,
    *,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """Two lines that leave the centre, `opening` degrees apart. It points into the opening."""
    _positive(width=width)
    ray_u, ray_v = cos(radians(opening / 2)), sin(radians(opening / 2))

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        beside = v.abs()
        along = (u * ray_u + beside * ray_v).clamp(min=0)
        return _inside(torch.hypot(u - along * ray_u, beside - along * ray_v) - width / 2, cell)

    return Stimulus("angle", _turned(orientation, shade), figure, ground)


def circle(radius: Number = 8.0, width: Number = 2.0, *, figure: Colour = 1.0, ground: Colour = 0.0) -> Stimulus:
    """A ring around the centre."""
    _positive(radius=radius, width=width)
    return Stimulus(
        "circle", lambda x, y, cell: _inside((torch.hypot(x, y) - radius).abs() - width / 2, cell), figure, ground
    )


def disc(radius: Number = 8.0, *, figure: Colour = 1.0, ground: Colour = 0.0) -> Stimulus:
    """A filled circle."""
    _positive(radius=radius)
    return Stimulus("disc", lambda x, y, cell: _inside(torch.hypot(x, y) - radius, cell), figure, ground)


def grating(
    orientation: Number = 0.0,
    frequency: Number = 0.125,
    phase: Number = 0.0,
    *,
    contrast: Number = 1.0,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """Waves: 0.5 + contrast / 2 cos(2π frequency u + phase), u across the bars. At orientation 0 these are upright.

    Args:
        phase: in degrees; 0 is brightest at the centre.
    """
    return gabor(orientation, frequency, phase, sigma=None, contrast=contrast, figure=figure, ground=ground)


def gabor(
    orientation: Number = 0.0,
    frequency: Number = 0.125,
    phase: Number = 0.0,
    *,
    sigma: Number | None = 4.0,
    contrast: Number = 1.0,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """Waves under a Gaussian window of standard deviation `sigma`; without one, a grating."""
    if sigma is not None:
        _positive(sigma=sigma)

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        wave = (2 * pi * frequency * u + radians(phase)).cos()
        window = 1.0 if sigma is None else (-(u.square() + v.square()) / (2 * sigma**2)).exp()
        return 0.5 + contrast / 2 * wave * window

    name = "grating" if sigma is None else "gabor"
    return Stimulus(name, _turned(orientation, shade), figure, ground, 0.5)


def high_low(
    orientation: Number = 0.0,
    high: Number = 0.25,
    low: Number = 0.0625,
    *,
    figure: Colour = 1.0,
    ground: Colour = 0.0,
) -> Stimulus:
    """A border between a fine plaid and a coarse one. It points to the fine one.

    A plaid is 0.5 + 0.5 cos(2π f u) cos(2π f v). Schubert et al., "High-low frequency detectors", Distill 2021.
    """

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        fine, coarse = ((2 * pi * f * u).cos() * (2 * pi * f * v).cos() for f in (high, low))
        return 0.5 + 0.5 * torch.lerp(coarse, fine, _inside(-u, cell).expand_as(fine))

    return Stimulus("high_low", _turned(orientation, shade), figure, ground, 0.5)


def checker(orientation: Number = 0.0, side: Number = 8.0, *, figure: Colour = 1.0, ground: Colour = 0.0) -> Stimulus:
    """A chessboard with a corner of four squares at the centre; the one to the upper right is bright."""
    _positive(side=side)

    def shade(u: Tensor, v: Tensor, cell: float) -> Tensor:
        to_u, to_v = (side * (0.5 - ((at / side + 0.5).remainder(2) - 1).abs()) for at in (u, v))
        return _inside(-(to_u * to_v).sign() * torch.minimum(to_u.abs(), to_v.abs()), cell)

    return Stimulus("checker", _turned(orientation, shade), figure, ground, 0.5)


def colour_patch(hue: Number = 0.0, *, saturation: Number = 1.0, radius: Number | None = None) -> Stimulus:
    """A colour: the whole field, or a disc of it on grey.

        rgb = 0.5 + 0.5 saturation (cos hue, cos(hue - 120°), cos(hue - 240°))

    All hues have the same mean of channels, and opposite ones average to grey.
    """
    shade = _even(1.0) if radius is None else disc(radius).shade
    return Stimulus("colour_patch", shade, hued(hue, saturation), 0.5)


def colour_pair(orientation: Number = 0.0, hue: Number = 0.0, *, saturation: Number = 1.0) -> Stimulus:
    """An edge between a hue and the opposite one. It points to the hue."""
    figure, ground = hued(hue, saturation), hued(hue + 180, saturation)
    return Stimulus("colour_pair", edge(orientation).shade, figure, ground, 0.5)


def hued(hue: Number, saturation: Number = 1.0) -> tuple[float, float, float]:
    """Red, green and blue of a hue in degrees, see `colour_patch`."""
    red, green, blue = (0.5 + 0.5 * saturation * cos(radians(hue - turn)) for turn in (0, 120, 240))
    return red, green, blue


def turn_of(degrees: Number) -> tuple[float, float]:
    """Cosine and sine of an angle; a quarter turn more swaps them exactly."""
    quarters, rest = divmod(degrees, 90)
    c, s = cos(radians(rest)), sin(radians(rest))
    return ((c, s), (-s, c), (-c, -s), (s, -c))[int(quarters) % 4]


def _turned(degrees: Number, shade: Shade) -> Shade:
    """The same, turned counterclockwise about the centre."""
    c, s = turn_of(degrees)
    return lambda x, y, cell: shade(x * c + y * s, y * c - x * s, cell)


def _inside(distance: Tensor, cell: float, blur_px: Number = 0.0) -> Tensor:
    """Share of each cell on the negative side of a border, from the distance of its middle: exact where it is upright.

    Args:
        blur_px: a ramp of this width instead, where it is wider than a cell.
    """
    return (0.5 - distance / max(cell, blur_px)).clamp(0, 1)


def _even(value: float) -> Shade:
    return lambda x, y, cell: torch.full((), value, dtype=x.dtype)


def _colour(colour: Colour, channels: int) -> Float[Tensor, "c 1 1"]:
    values = colour if isinstance(colour, tuple) else (colour,) * channels
    if len(values) != channels:
        raise BadInput(
            f"a colour of {len(values)} numbers for an image of {channels} channels.",
            "Give one number for all channels, or one for each.",
        )
    return torch.tensor([float(value) for value in values], dtype=torch.float64)[:, None, None]


def _positive(**lengths: Number) -> None:
    for name, value in lengths.items():
        if not value > 0:
            raise BadInput(f"{name}={value} is not above 0.")
