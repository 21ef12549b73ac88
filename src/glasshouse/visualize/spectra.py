"""Pictures of fixed amplitudes, in which only phases are free, and the amplitudes of natural images."""

import math
from collections.abc import Sequence

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images
from glasshouse.core.image import resize
from glasshouse.visualize.images import Canvas, Colours, Shape, amplitudes, mix, named, natural_colours

LEAST_PIXEL = 0.02
NATURAL_DECAY = 1.1
NATURAL_STD = 1.0


def phase_image(
    spectrum: Float[Tensor, "c h f"] | None = None, *, decay: float | int = NATURAL_DECAY, colours: Colours = "natural"
) -> Canvas:
    """Free numbers are phases; how strong each wave is stays as in natural images.

        pixels = sigmoid(M irfft2(A exp(i φ))),   φ ~ U(-π, π)

    No contrast can be gained by exaggerating a frequency, so the objective has to arrange what natural images are
    made of: MACO. Fel et al., "Unlocking feature visualization for deeper networks with magnitude constrained
    optimization", NeurIPS 2023, eqs. 3-4.

    Differs: phases are moved by Adam as they are, not standardised first; amplitudes are of images before the
    sigmoid, so that an image's own phases give it back.

    Args:
        spectrum: A, from `fit_spectrum(pixels)`, for pictures of the same size. None takes `1 / f^decay` with the
            contrast of photographs, an image that is known to no data set.
        colours: those that the spectrum was fitted with.
    """

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        channels, height, width = shape
        drawn = [torch.rand(channels, height, width // 2 + 1, generator=generator) for generator in generators]
        return (torch.stack(drawn) * 2 - 1) * math.pi

    def pixels(theta: Tensor, shape: Shape) -> Images:
        strength = natural_spectrum(shape, decay) if spectrum is None else spectrum
        wanted = (*shape[:2], shape[2] // 2 + 1)
        if tuple(strength.shape) != wanted:
            raise BadInput(
                f"a spectrum of {tuple(strength.shape)} for a picture of {tuple(shape)}: {wanted} is needed.",
                f"Use fit_spectrum(pixels, size={tuple(shape[1:])}) on images of {shape[0]} channels.",
            )
        waves = torch.polar(strength.to(theta).expand_as(theta).contiguous(), theta)
        return mix(torch.fft.irfft2(waves, s=shape[1:], norm="ortho"), colours).sigmoid()

    source = f"decay={decay:g}" if spectrum is None else f"{tuple(spectrum.shape)} spectrum"
    return Canvas(f"phase_image({source}, colours={named(colours)})", start, pixels)


def fit_spectrum(
    pixels: Images, *, size: tuple[int, int] | None = None, colours: Colours = "natural"
) -> Float[Tensor, "c k f"]:
    """How strong each wave is in these images on average, in colours without correlation.

        A = mean_n |rfft2(M⁻¹ logit(p_n))|

    Fel et al., NeurIPS 2023, sec. 3.1. Pixels are first kept within 0.02…0.98, where the logit is finite.

    Args:
        size: of the pictures to be drawn; None takes that of the images, others are resized to it.
    """
    shown = (pixels if size is None else resize(pixels, size)).double().clamp(LEAST_PIXEL, 1 - LEAST_PIXEL)
    values = unmix(shown.logit(), colours)
    return reduce(torch.fft.rfft2(values, norm="ortho").abs(), "n c k f -> c k f", "mean")


def natural_spectrum(shape: Shape, decay: float | int = NATURAL_DECAY) -> Float[Tensor, "c h f"]:
    """Amplitudes `1 / f^decay`, alike in all channels, of a picture that has grey for its mean and a spread of 1.

    The power spectrum of photographs falls with about the second power of frequency (Field, JOSA A 1987).
    """
    height, width = shape[1:]
    weight = amplitudes((height, width), decay)
    weight[0, 0] = 0
    both = torch.full((weight.shape[1],), 2.0, dtype=torch.float64)  # waves of the half spectrum stand for two,
    both[0] = 1
    if width % 2 == 0:
        both[-1] = 1  # except the slowest and, in even widths, the fastest
    power = (weight.square() * both).sum() / (height * width)
    scale = NATURAL_STD / power.sqrt() if power > 0 else 0
    return (weight * scale).expand(shape[0], -1, -1)


def unmix(values: Images, colours: Colours) -> Images:
    """The inverse of `mix`."""
    channels = values.shape[1]
    if isinstance(colours, str) and (colours == "plain" or channels != 3):
        return mix(values, colours)
    matrix = natural_colours() if isinstance(colours, str) else colours
    inverse = torch.linalg.inv(matrix.to(values))
    return einsum(inverse, values, "d c, n c h w -> n d h w")
