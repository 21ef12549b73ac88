"""Small random moves of the picture before the network sees it: what survives hangs on no single pixel.

Moves are composed first and applied in one bilinear interpolation; each picture draws from its own generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images

GREY = 0.5
SCALES = tuple(1 + step / 50 for step in range(-5, 6))
ANGLES = (*range(-10, 11), 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Frame:
    """Where the network looks: a rectangle of `size` pixels; its point u shows `turn u + shift`.

    Points are (x, y) in pixels, counted from the centre of the frame and of the picture.
    """

    size: tuple[int, int]
    turn: Float[Tensor, "n 2 2"]
    shift: Float[Tensor, "n 2"]

    def moved(self, turn: Tensor, shift: Tensor) -> "Frame":
        """The frame that looks at this one: point u shows this one's point `turn u + shift`."""
        return replace(self, turn=self.turn @ turn, shift=self.shift + (self.turn @ shift[..., None])[..., 0])


Transform: TypeAlias = Callable[[Frame, Sequence[torch.Generator]], Frame]
"""From a frame to a moved one, drawing for each picture from its own generator."""


def pad(pixels: int) -> Transform:
    """Show `pixels` more on each side. What lies beyond the picture is grey."""

    def padded(frame: Frame, generators: Sequence[torch.Generator]) -> Frame:
        return replace(frame, size=(frame.size[0] + 2 * pixels, frame.size[1] + 2 * pixels))

    return titled(f"pad({pixels})", padded)


def jitter(pixels: int) -> Transform:
    """Show a random crop that is `pixels` smaller in height and width."""

    def jittered(frame: Frame, generators: Sequence[torch.Generator]) -> Frame:
        size = (frame.size[0] - pixels, frame.size[1] - pixels)
        if min(size) < 1:
            raise BadInput(f"jitter of {pixels} px leaves nothing of {frame.size[0]} x {frame.size[1]} px.")
        offsets = [torch.randint(0, pixels + 1, (2,), generator=generator) for generator in generators]
        shift = torch.stack(offsets).double() - pixels / 2
        return replace(frame.moved(torch.eye(2, dtype=torch.float64), shift), size=size)

    return titled(f"jitter({pixels})", jittered)


def scale(factors: Sequence[float | int]) -> Transform:
    """Enlarge about the centre by a factor drawn from a list; the frame keeps its size."""
    choices = torch.tensor(factors, dtype=torch.float64)
    if not (choices > 0).all() or not len(choices):
        raise BadInput(f"scale factors {tuple(factors)} are not all above 0.", "Try scale([0.9, 1.0, 1.1]).")

    def scaled(frame: Frame, generators: Sequence[torch.Generator]) -> Frame:
        factor = pick(choices, generators)
        return frame.moved(
            torch.eye(2, dtype=torch.float64) / factor[:, None, None], torch.zeros(len(factor), 2).double()
        )

    return titled(f"scale([{listed(factors)}])", scaled)


def rotate(degrees: Sequence[float | int]) -> Transform:
    """Turn about the centre, counter-clockwise, by an angle in degrees drawn from a list."""
    choices = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    if not len(choices):
        raise BadInput("rotate was given no angles.", "Try rotate([-5, 0, 5]).")

    def rotated(frame: Frame, generators: Sequence[torch.Generator]) -> Frame:
        angle = pick(choices, generators)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        return frame.moved(turn, torch.zeros(len(angle), 2).double())

    return titled(f"rotate([{listed(degrees)}])", rotated)


def robust() -> tuple[Transform, ...]:
    """The transforms of "Feature visualization" (Olah et al., Distill 2017), in their order.

    Differs: one interpolation instead of three; scaling crops or shows grey rather than resizing the whole,
    so that pictures of a batch keep one size.
    """
    return pad(12), jitter(8), scale(SCALES), rotate(ANGLES), jitter(4)


def none() -> tuple[Transform, ...]:
    """No transform: the network sees the picture as it is."""
    return ()


def move(pixels: Images, transforms: Sequence[Transform], generators: Sequence[torch.Generator]) -> Images:
    """Pixels after random transforms, in their first size; without transforms, the very same tensor.

    Args:
        generators: one per picture.
    """
    if not transforms:
        return pixels
    n, _, height, width = pixels.shape
    still = torch.eye(2, dtype=torch.float64).expand(n, 2, 2)
    frame = Frame((height, width), still, torch.zeros(n, 2, dtype=torch.float64))
    for transform in transforms:
        frame = transform(frame, generators)
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    reach = torch.tensor([frame.size[1], frame.size[0]], dtype=torch.float64) / 2
    turn = frame.turn * reach / half[:, None]  # in units of half a side, as affine_grid counts
    theta = torch.cat([turn, (frame.shift / half)[..., None]], 2).to(pixels)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels - GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + GREY


def pick(choices: Float[Tensor, " m"], generators: Sequence[torch.Generator]) -> Float[Tensor, " n"]:
    """One of the choices for each generator, all equally likely."""
    drawn = [torch.randint(len(choices), (), generator=generator) for generator in generators]
    return choices[torch.stack(drawn)]


def titled(name: str, transform: Transform) -> Transform:
    """The transform under the name it is recorded by."""
    transform.__name__ = name
    return transform


def listed(values: Sequence[float | int]) -> str:
    return ", ".join(f"{value:g}" for value in values)
