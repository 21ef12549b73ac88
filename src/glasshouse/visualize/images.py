"""Ways to write a picture as free numbers: the same objective climbs to very different pictures in each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, PerImage, resize

Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of one picture."""

Colours: TypeAlias = Literal["natural", "plain"] | Tensor
"""How free channels mix into red, green and blue: as in photographs, not at all, or by a matrix `c c`."""

IMAGENET_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""A square root of ImageNet's colour covariance: a column each for light, red-blue and green-purple."""

NATURAL_CONTRAST = 0.234
"""Root mean square distance of pixels from grey, by ImageNet's usual means and standard deviations."""

FINE = 0.25
"""Cycles per pixel above which a pattern is fine: it repeats within four pixels."""


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


def clipped_image(*, std: float | int = 0.01) -> Canvas:
    """Free numbers are the pixels, measured from grey and cut off at black and white: the image of papers up to 2016.

    pixels = min(max(0.5 + θ, 0), 1),   θ ~ N(0, std²)

    A number beyond black or white no longer follows the objective; the filter `box` keeps it from going there.
    """

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        return noise(shape, generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        return (theta + 0.5).clamp(0, 1)

    return Canvas(f"clipped_image(std={std:g})", start, pixels)


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
        return mix(waves(theta, shape, decay), colours).sigmoid()

    return Canvas(f"fourier_image(decay={decay}, std={std}, colours={named(colours)})", start, pixels)


def shared_image(
    *, shared_px: float | int = 16, decay: float = 1.0, std: float = 0.01, colours: Colours = "natural"
) -> Canvas:
    """Pictures that share their coarse structure, so that what differs between them lies in the same place.

        pixels_n = sigmoid(M (waves(θ_n) + mean_m coarse waves(φ_m)))

    with the waves of `fourier_image`. For steps from one unit to another. Mordvintsev et al., "Differentiable image
    parameterizations", Distill 2018, section "Aligned feature visualization interpolation".

    Differs: coarse is a bound on wavelength, not an image of low resolution. The pictures of a batch depend on each
    other; alone, a picture is drawn with both parts of its own.

    Args:
        shared_px: shortest wavelength that is shared, in pixels.
    """

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        channels, height, width = shape
        return noise((2, channels, height, width // 2 + 1, 2), generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        own, common = theta.unbind(1)
        coarse = (frequencies(shape[1:]) <= 1 / shared_px).to(theta)[..., None]
        together = waves(common * coarse, shape, decay).mean(0, keepdim=True)
        return mix(waves(own, shape, decay) + together, colours).sigmoid()

    name = f"shared_image(shared_px={shared_px:g}, decay={decay}, std={std}, colours={named(colours)})"
    return Canvas(name, start, pixels)


def laplacian_image(*, levels: int = 4, std: float = 0.01, colours: Colours = "natural") -> Canvas:
    """Free numbers are pixels at several resolutions, each half of the one before, enlarged and added.

        pixels = sigmoid(M Σ_l enlarge(θ_l)),   θ_l of size h / 2^l x w / 2^l, rounded up

    Lucid, `laplacian pyramid` of `lowres_tensor` (Olah et al., Distill 2017).
    """

    def sizes(shape: Shape) -> list[tuple[int, int]]:
        return [(-(-shape[1] // 2**level), -(-shape[2] // 2**level)) for level in range(levels)]

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        return noise((shape[0], sum(height * width for height, width in sizes(shape))), generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        parts = theta.split([height * width for height, width in sizes(shape)], 2)
        layers = [resize(part.unflatten(2, size), shape[1:]) for part, size in zip(parts, sizes(shape), strict=True)]
        return mix(torch.stack(layers).sum(0), colours).sigmoid()

    return Canvas(f"laplacian_image(levels={levels}, std={std}, colours={named(colours)})", start, pixels)


def sphere_image(radius: float | int | None = None, *, std: float = 0.01) -> Canvas:
    """Grey plus a pattern of fixed L2 norm: for a linear unit the best one is its own filter, scaled.

        pixels = 0.5 + radius θ / |θ|,   θ ~ N(0, std²)

    Erhan et al., "Visualizing higher-layer features of a deep network", 2009, sec. 3.1. Pixels outside 0…1
    are clipped, which cannot happen up to a radius of 0.5.

    Args:
        radius: None takes that of photographs: 0.234 times the root of the number of values.
    """
    if radius is not None and not radius > 0:
        raise BadInput(f"radius {radius} is not above 0.", "Try 0.5 times the square root of the number of pixels.")

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        return noise(shape, generators) * std

    def pixels(theta: Tensor, shape: Shape) -> Images:
        length = theta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        reach = NATURAL_CONTRAST * math.sqrt(math.prod(shape)) if radius is None else radius
        return (0.5 + reach * theta / length).clamp(0, 1)

    return Canvas(f"sphere_image({'natural' if radius is None else radius}, std={std})", start, pixels)


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


def waves(theta: Float[Tensor, "n c h f 2"], shape: Shape, decay: float) -> Images:
    """What a weighted spectrum looks like, before colours and sigmoid."""
    spectrum = torch.view_as_complex(theta) * amplitudes(shape[1:], decay).to(theta)
    return torch.fft.irfft2(spectrum, s=shape[1:], norm="ortho") / 4


def amplitudes(size: tuple[int, int], decay: float) -> Float[Tensor, "h f"]:
    """Weight of each frequency of a half spectrum; the lowest ones share that of one cycle per picture."""
    return frequencies(size).clamp(min=1 / max(size)) ** -decay


def frequencies(size: tuple[int, int]) -> Float[Tensor, "h f"]:
    """Cycles per pixel of each wave of a half spectrum."""
    rows = torch.fft.fftfreq(size[0], dtype=torch.float64)
    cols = torch.fft.rfftfreq(size[1], dtype=torch.float64)
    return (rows[:, None].square() + cols.square()).sqrt()


def fineness(pixels: Images) -> PerImage:
    """Share of a picture's power above a quarter of a cycle per pixel, its mean colour left out."""
    power = torch.fft.fft2(pixels - pixels.mean((2, 3), keepdim=True)).abs().square()
    rows, columns = (torch.fft.fftfreq(side) for side in pixels.shape[2:])
    fine = (rows[:, None].square() + columns.square()).sqrt().to(pixels.device) > FINE
    total = power.sum((1, 2, 3))
    return torch.where(total > 0, (power * fine).sum((1, 2, 3)) / total, 0)


def noise(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Float[Tensor, "n ..."]:
    """Standard normal numbers, each row from its own generator, the same in every number type."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def named(colours: Colours) -> str:
    return f"{tuple(colours.shape)} matrix" if isinstance(colours, Tensor) else colours
