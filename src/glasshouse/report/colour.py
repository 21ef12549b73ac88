"""Colour maps, made here from a few anchors, and the scale that says which number a colour stands for.

Unsigned maps use viridis (van der Walt & Smith, 2015), signed ones a diverging map centred on zero. Both grow or fall
evenly in lightness, so they survive print, grey screens and colour-blind eyes. Colours are mixed in OKLab (Ottosson,
2020).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from glasshouse.core import BadInput

Table = Float[np.ndarray, "k 3"]

VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6dcd59", "b4de2c", "fde725"]
BLUE, RED = (0.48, 0.16, 258.0), (0.48, 0.16, 27.0)  # OKLCh: lightness, chroma, hue in degrees
N_LEVELS = 127  # on each side of zero, so that 0 has a colour of its own
PERCENTILE = 99.0

LINEAR_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(colours: Table) -> Table:
    """sRGB in 0…1 to OKLab."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ LINEAR_TO_LMS.T) @ LMS_TO_LAB.T


def from_oklab(lab: Table) -> Table:
    """OKLab to sRGB in 0…1, clipped to what a screen can show."""
    linear = ((lab @ np.linalg.inv(LMS_TO_LAB).T) ** 3 @ np.linalg.inv(LINEAR_TO_LMS).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clip(0, 1)


@cache
def sequential() -> Table:
    """256 colours from dark to bright: viridis."""
    anchors = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in VIRIDIS]) / 255
    places = np.linspace(0, len(VIRIDIS) - 1, 2 * N_LEVELS + 1)
    lab = to_oklab(anchors)
    return from_oklab(np.stack([np.interp(places, np.arange(len(VIRIDIS)), lab[:, i]) for i in range(3)], 1))


@cache
def diverging() -> Table:
    """Blue for negative, white for zero, red for positive; both arms equally light at equal distance from zero."""
    places = np.linspace(-1, 1, 2 * N_LEVELS + 1)[:, None]
    ends = [
        (light, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue)))
        for light, chroma, hue in (BLUE, RED)
    ]
    end = np.where(places < 0, *np.array(ends)[:, None])
    return from_oklab(np.array([1.0, 0.0, 0.0]) * (1 - abs(places)) + end * abs(places))


@cache
def veiled(signed: bool) -> UInt8[np.ndarray, "k 4"]:
    """The colour map as paint: the thinnest RGBA that gives it back over the colour of zero.

    Laid over the colour of zero it is the colour map; laid over a photograph it hides least where values are small.
    """
    table = colours(signed)
    ground = table[zero_level(signed)]
    room = np.where(table > ground, 1 - ground, ground)
    alpha = (abs(table - ground) / room.clip(1e-6)).max(1, keepdims=True)
    alpha = np.ceil(alpha.clip(0, 1) * 255) / 255
    paint = (ground + (table - ground) / alpha.clip(1 / 255)).clip(0, 1)
    return np.rint(255 * np.concatenate([paint, alpha], 1)).astype(np.uint8)


def colours(signed: bool) -> Table:
    """The colour map for values with or without a sign."""
    return diverging() if signed else sequential()


def zero_level(signed: bool) -> int:
    """Which row of `colours` stands for zero."""
    return N_LEVELS if signed else 0


@dataclass(frozen=True)
class Scale:
    """Which number a colour stands for.

    Attributes:
        signed: whether colours run from `-end` to `end`; else from 0 to `end`.
        end: the size of the values that get the last colour.
        percentile: of the sizes of all values, which gave `end`; 100 where `end` is the largest.
        beyond: share of values larger than `end`, which are drawn as if they were `end`.
    """

    signed: bool
    end: float
    percentile: float
    beyond: float

    def levels(self, values: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """The row of `colours` for each value."""
        part = (values.detach().cpu().double() / self.end).clamp(-1 if self.signed else 0, 1).numpy()
        steps = N_LEVELS if self.signed else 2 * N_LEVELS
        return (np.rint(part * steps) + zero_level(self.signed)).astype(np.uint8)


def scale(values: Float[Tensor, "h w"], percentile: float = PERCENTILE) -> Scale:
    """The scale of one heat map: its ends are a percentile of the sizes of its values, so that no speck rules it."""
    if not 0 < percentile <= 100:
        raise BadInput(f"percentile {percentile} is not in (0, 100].", "Try 99.")
    sizes = values.detach().cpu().double().abs().flatten()
    largest = float(sizes.max())
    end = float(np.percentile(sizes.numpy(), percentile, method="higher"))
    if end <= 1e-3 * largest:
        end, percentile = largest, 100.0
    beyond = float((sizes > end).double().mean())
    return Scale(bool((values < 0).any()), end or 1.0, 100.0 if not beyond else percentile, beyond)
