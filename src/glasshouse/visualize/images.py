"""Ways to write a picture as free numbers: the same objective climbs to very different pictures in each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images

Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of one picture."""

Colours: TypeAlias = Literal["natural", "plain"] | Tensor
"""How free channels mix into red, green and blue: as in photographs, not at all, or by a matrix `c c`."""

IMAGENET_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""A square root of ImageNet's colour covariance: a column each for light, red-blue and green-purple."""


@dataclass(frozen=True)
class Canvas:
    """A parameterization: where a picture starts, and which pixels its free numbers stand for.

    Args:
        start: from a shape and one generator per picture to the free numbers, one row per picture.
        pixels: from free numbers and a shape to pixels in 0…1, differentiably and row by row.
    """

    name: str
    start: Callable[[Shape, Sequence[torch.Generator]], Tensor]
    pixels: Callable[[Tensor, Shape], Images]

    def __repr__(self) -> str:
        return self.name


def pixel_image(*, std: float = 0.01, colours: Colours = "plain") -> Canvas:
    """Free numbers are the pixels themselves, before a sigmoid: ascent then favours high frequencies.

    pixels = sigmoid(M θ),   θ ~ N(0, std²)
    """

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        return noise(shape, generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        return mix(theta, colours).sigmoid()

    return Canvas(f"pixel_image(std={std}, colours={named(colours)})", start, pixels)


def fourier_image(*, decay: float = 1.0, std: float = 0.01, colours: Colours = "natural") -> Canvas:
    """Free numbers are a spectrum with the weights of natural images, so all scales are climbed at one speed.

        pixels = sigmoid(M irfft2(θ / max(f, 1 / max(h, w))^decay) / 4),   θ ~ N(0, std²)

    with the orthonormal inverse transform and f = √(f_y² + f_x²) in cycles per pixel. Olah, Mordvintsev and
    Schubert, "Feature visualization", Distill 2017, section "Preconditioning and parameterization".

    Args:
        decay: power of the frequency; 1 is the amplitude spectrum of photographs, 0 weighs all alike.
    """

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        channels, height, width = shape
        return noise((channels, height, width // 2 + 1, 2), generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        size = shape[1:]
        spectrum = torch.view_as_complex(theta) * amplitudes(size, decay).to(theta)
        return mix(torch.fft.irfft2(spectrum, s=size, norm="ortho") / 4, colours).sigmoid()

    return Canvas(f"fourier_image(decay={decay}, std={std}, colours={named(colours)})", start, pixels)


def sphere_image(radius: float | int, *, std: float = 0.01) -> Canvas:
    """Grey plus a pattern of fixed L2 norm: for a linear unit the best one is its own filter, scaled.

        pixels = 0.5 + radius θ / |θ|,   θ ~ N(0, std²)

    Erhan et al., "Visualizing higher-layer features of a deep network", 2009, sec. 3.1. Pixels outside 0…1
    are clipped, which cannot happen up to a radius of 0.5.
    """
    if not radius > 0:
        raise BadInput(f"radius {radius} is not above 0.", "Try 0.5 times the square root of the number of pixels.")

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        return noise(shape, generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        length = theta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (0.5 + radius * theta / length).clamp(0, 1)

    return Canvas(f"sphere_image({radius}, std={std})", start, pixels)


def natural_colours() -> Float[Tensor, "3 3"]:
    """Mixes three decorrelated channels as photographs mix their colours: M over its longest column."""
    matrix = torch.tensor(IMAGENET_COLOURS, dtype=torch.float64)
    return matrix / matrix.norm(dim=0).max()


def fit_colours(pixels: Images) -> Float[Tensor, "c c"]:
    """The same for images of another kind or number of channels: a square root of their channels' covariance.

    M = U √S over its longest column,   U S Uᵀ = covariance of the channels
    """
    values = rearrange(pixels.double(), "n c h w -> c (n h w)")
    variance, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov(values)))
    matrix = (axes * variance.clamp(min=0).sqrt()).flip(1)
    longest = matrix.norm(dim=0).max()
    if not longest > 0:
        raise BadInput("the channels of these images do not vary.", "Give images with more than one colour.")
    return matrix / longest


def mix(values: Images, colours: Colours) -> Images:
    """Free channels as correlated ones. Natural colours are for three channels; others stay unmixed."""
    channels = values.shape[1]
    if isinstance(colours, Tensor):
        matrix = colours
    elif colours == "natural" and channels == 3:
        matrix = natural_colours()
    elif colours in ("natural", "plain"):
        return values
    else:
        raise BadInput(f"no colours '{colours}'.", "Use 'natural', 'plain', or a matrix from fit_colours(pixels).")
    if matrix.shape != (channels, channels):
        raise BadInput(
            f"colours of shape {tuple(matrix.shape)} for {channels} channels.",
            f"Give a {channels} x {channels} matrix.",
        )
    return einsum(matrix.to(values), values, "d c, n c h w -> n d h w")


def amplitudes(size: tuple[int, int], decay: float) -> Float[Tensor, "h f"]:
    """Weight of each frequency of a half spectrum; the lowest ones share that of one cycle per picture."""
    rows = torch.fft.fftfreq(size[0], dtype=torch.float64)
    cols = torch.fft.rfftfreq(size[1], dtype=torch.float64)
    frequency = (rows[:, None].square() + cols.square()).sqrt()
    return frequency.clamp(min=1 / max(size)) ** -decay


def noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Float[Tensor, "n ..."]:
    """Standard normal numbers, each row from its own generator, the same in every number type."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def named(colours: Colours) -> str:
    return f"{tuple(colours.shape)} matrix" if isinstance(colours, Tensor) else colours
