"""What keeps a drawn picture from turning to noise: penalties, and filters of the picture or of its gradient.

Penalties are objectives, to be subtracted. Filters belong to a `Preset`: they work on the pixels that the picture is
written in, of which 0 is grey.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, PerImage, blur
from glasshouse.visualize.objectives import Objective, Sight, Term, Value

RIM = ((0.5, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 0.5))
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
LEAST_POWER = 1e-10


class Moment(NamedTuple):
    """Which of how many steps a climb is at, counted from 0, and the objective's gradient there."""

    step: int
    steps: int
    gradient: Tensor

    @property
    def done(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(self.steps - 1, 1)


Filter: TypeAlias = Callable[[Tensor, Moment], Tensor]
"""What is done at every step to the gradient before it, or to the picture after it, row by row."""


def l1() -> Objective:
    """How far the picture is from grey, to subtract: `y = Σ |p - 0.5|` (Olah et al., Distill 2017)."""
    return penalty("l1()", lambda sight: (sight.pixels - 0.5).abs().flatten(1).sum(1))


def alpha_norm(power: float | int = 6) -> Objective:
    """How far the picture leaves the range of natural ones, to subtract: `y = Σ |p - 0.5|^α`.

    Mahendran and Vedaldi, "Understanding deep image representations by inverting them", CVPR 2015, sec. 2.
    """
    return penalty(f"alpha_norm({power:g})", lambda sight: (sight.pixels - 0.5).abs().pow(power).flatten(1).sum(1))


def roughness(power: float | int = 2) -> Objective:
    """How rough the picture is, to subtract: `y = Σ ((p_i,j+1 - p_ij)² + (p_i+1,j - p_ij)²)^(β/2)`.

    Mahendran and Vedaldi, CVPR 2015, sec. 2, where β is 1 for sharp edges and 2 against spikes. A difference across
    the border counts as 0.
    """

    def value(sight: Sight) -> PerImage:
        down = F.pad(sight.pixels.diff(dim=2), (0, 0, 0, 1)).square()
        across = F.pad(sight.pixels.diff(dim=3), (0, 1)).square()
        squares = (down + across).flatten(1)
        return (squares if power == 2 else (squares + LEAST_POWER) ** (power / 2)).sum(1)

    return penalty(f"roughness({power:g})", value)


def blur_penalty() -> Objective:
    """How far the picture is from its own blur, to subtract: `y = ½ Σ (p - blur(p))²`, the blur held still.

    Its gradient step of size w is `p ← (1 - w) p + w blur(p)`. The blur weighs a pixel 1 and its eight neighbours
    0.5 each, over the sum of those inside the picture. Lucid, `blur_input_each_step` (Olah et al., Distill 2017).
    """

    def value(sight: Sight) -> PerImage:
        return (sight.pixels - softened(sight.pixels).detach()).square().flatten(1).sum(1) / 2

    return penalty("blur_penalty()", value)


def penalised(objective: Objective, weight: float | int) -> Filter:
    """Take a step of the picture down a penalty: `x ← x - w dR/dx`.

    Beside a gradient of fixed size (`even`), the weight means the same for all units, however large their
    activations; a penalty inside the objective competes with those.
    """

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        with torch.enable_grad():
            pixels = (values.detach() + 0.5).requires_grad_()
            value = objective(Sight(pixels, {}, None, int)).sum()
            (slope,) = torch.autograd.grad(value, pixels)
        return values - weight * slope

    return titled(f"penalised({objective!r}, {weight:g})", filtered)


def blurred(sigma: float | int, end: float | int | None = None, *, every: int = 1) -> Filter:
    """Gaussian blur of `sigma` pixels.

    Args:
        end: reached at the last step, from `sigma` in equal parts; None keeps it constant.
        every: leave out all but one in so many steps.
    """
    last = sigma if end is None else end
    to, rarely = f", {end:g}" if end is not None else "", f", every={every}" if every > 1 else ""

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        if (moment.step + 1) % every:
            return values
        return blur(values, sigma + (last - sigma) * moment.done)

    return titled(f"blurred({sigma:g}{to}{rarely})", filtered)


def bilateral(sigma_px: float | int = 1, sigma_range: float | int = 0.3) -> Filter:
    """Average each pixel with near ones of like colour, which smooths surfaces and keeps edges.

        x_p ← Σ_q w_pq x_q / Σ_q w_pq,   w_pq = exp(-|p - q|² / 2 σ_px² - |x_p - x_q|² / 2 σ_range²)

    over q within 2 σ_px in rows and in columns. Tomasi and Manduchi, ICCV 1998; for pictures of units, Tyka,
    "Class visualization with bilateral filters", 2016.

    Args:
        sigma_range: length of a difference of colours, all channels together, in units of 0…1.
    """
    if not (sigma_px > 0 and sigma_range > 0):
        raise BadInput(f"bilateral({sigma_px}, {sigma_range}) averages nothing.", "Both widths must be above 0.")
    reach = math.ceil(2 * sigma_px)
    offsets = [(i, j) for i in range(reach + 1) for j in range(-reach, reach + 1) if i or j > 0]  # q after p

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        height, width = values.shape[2:]
        total, weights = values.clone(), torch.ones_like(values[:, :1])
        for i, j in offsets:
            if i >= height or abs(j) >= width:
                continue
            here = (..., slice(0, height - i), slice(max(0, -j), width - max(0, j)))
            there = (..., slice(i, height), slice(max(0, j), width + min(0, j)))
            apart = (values[here] - values[there]).square().sum(1, keepdim=True)
            weight = torch.exp(-(i * i + j * j) / (2 * sigma_px**2) - apart / (2 * sigma_range**2))
            total[here] += weight * values[there]
            total[there] += weight * values[here]
            weights[here] += weight
            weights[there] += weight
        return total / weights

    return titled(f"bilateral({sigma_px:g}, {sigma_range:g})", filtered)


def drop_small_norms(share: float) -> Filter:
    """Turn the share of pixels that are nearest to grey wholly grey (Yosinski et al., 2015, sec. 3)."""

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        return largest(values, values.square().sum(1, keepdim=True), share)

    return titled(f"drop_small_norms({share:g})", filtered)


def drop_small_contributions(share: float) -> Filter:
    """Turn the share of pixels grey that would cost the objective least: `|Σ_c x_c dy/dx_c|` (Yosinski et al.)."""

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        return largest(values, (values * moment.gradient).sum(1, keepdim=True).abs(), share)

    return titled(f"drop_small_contributions({share:g})", filtered)


def box() -> Filter:
    """Keep the picture between black and white."""
    return titled("box()", lambda values, moment: values.clamp(-0.5, 0.5))


def even() -> Filter:
    """Divide by the mean absolute value, so that steps do not depend on how large activations are.

    Mordvintsev, Olah and Tyka, "Inceptionism", 2015.
    """

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        size = values.flatten(1).abs().mean(1).clamp(min=torch.finfo(values.dtype).tiny)
        return values / size.view(-1, *[1] * (values.ndim - 1))

    return titled("even()", filtered)


def even_bands(levels: int = 4) -> Filter:
    """Divide each octave of spatial frequencies by its own root mean square: coarse and fine grow at one speed.

    The octaves are those of a Laplacian pyramid. Mordvintsev, "DeepDreaming with TensorFlow", 2016,
    `lap_normalize`, whose number of levels is the default.
    """

    def filtered(values: Tensor, moment: Moment) -> Tensor:
        bands = [band / root_mean_square(band) for band in laplacian_pyramid(values, levels)]
        return collapsed(bands)

    return titled(f"even_bands({levels})", filtered)


def laplacian_pyramid(images: Images, levels: int) -> list[Float[Tensor, "n c ..."]]:
    """Octaves of an image, the finest first and what remains last, each at half the size of the one before."""
    bands: list[Tensor] = []
    for _ in range(levels):
        smaller = halved(images)
        bands.append(images - doubled(smaller, images))
        images = smaller
    return [*bands, images]


def collapsed(bands: Sequence[Float[Tensor, "n c ..."]]) -> Images:
    """The image that a Laplacian pyramid is of."""
    image = bands[-1]
    for band in reversed(bands[:-1]):
        image = band + doubled(image, band)
    return image


def root_mean_square(images: Images) -> Float[Tensor, "n 1 1 1"]:
    return images.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=LEAST_POWER)


def halved(images: Images) -> Float[Tensor, "n c ..."]:
    """Blurred with the binomial of five taps, every other pixel kept; beyond the border lies 0."""
    return F.conv2d(images, binomial(images), stride=2, padding=2, groups=images.shape[1])


def doubled(images: Images, like: Tensor) -> Float[Tensor, "n c ..."]:
    """The adjoint of `halved`, four times as bright: images of the size that was halved."""
    odd = (1 - like.shape[2] % 2, 1 - like.shape[3] % 2)
    taps = 4 * binomial(images)
    return F.conv_transpose2d(images, taps, stride=2, padding=2, output_padding=odd, groups=images.shape[1])


def binomial(images: Images) -> Float[Tensor, "c 1 5 5"]:
    taps = images.new_tensor(BINOMIAL) / sum(BINOMIAL)
    return (taps[:, None] * taps).expand(images.shape[1], 1, 5, 5)


def softened(pixels: Images) -> Images:
    """A blur over 3 x 3 pixels, of those that lie inside."""
    channels = pixels.shape[1]
    kernel = pixels.new_tensor(RIM).expand(channels, 1, 3, 3)
    inside = F.conv2d(torch.ones_like(pixels[:1]), kernel, padding=1, groups=channels)
    return F.conv2d(pixels, kernel, padding=1, groups=channels) / inside


def largest(values: Tensor, size: Float[Tensor, "n 1 h w"], share: float) -> Tensor:
    """Values with the given share of places, those of least size, set to 0 in each picture."""
    if not 0 <= share < 1:
        raise BadInput(f"a share of {share} of the pixels cannot be dropped.", "Give a share in 0…1, below 1.")
    places = size.flatten(1)
    dropped = int(share * places.shape[1])
    if not dropped:
        return values
    rank = places.argsort(dim=1, stable=True)[:, :dropped]
    kept = torch.ones_like(places).scatter(1, rank, 0)
    return values * kept.view_as(size)


def penalty(name: str, value: Value) -> Objective:
    """An objective that judges the picture, not the network."""
    return Objective(((1.0, Term(name, value, penalty=True)),))


def titled(name: str, filter_: Filter) -> Filter:
    """The filter under the name it is recorded by."""
    filter_.__name__ = name
    return filter_
