"""Families of regularisers by the papers that introduced them."""

from dataclasses import dataclass

from glasshouse.core.errors import not_found
from glasshouse.visualize.ascent import Optimiser, adam, plain
from glasshouse.visualize.images import Canvas, clipped_image, fourier_image, pixel_image, sphere_image
from glasshouse.visualize.objectives import l2
from glasshouse.visualize.regularisers import (
    Filter,
    alpha_norm,
    bilateral,
    blurred,
    box,
    drop_small_norms,
    even,
    even_bands,
    penalised,
    roughness,
)
from glasshouse.visualize.spectra import phase_image
from glasshouse.visualize.transforms import Transform, jitter, none, pad, robust


@dataclass(frozen=True)
class Preset:
    """A family of regularisers: how a picture is written, how it is moved, and how it climbs.

    Args:
        gradients: what is done to the gradient before the optimiser has it, in this order.
        filters: what is done to the picture after each step; with `gradients`, for pictures written in pixels.
    """

    image: Canvas
    transforms: tuple[Transform, ...] = ()
    gradients: tuple[Filter, ...] = ()
    filters: tuple[Filter, ...] = ()
    optimiser: Optimiser = adam
    learning_rate: float | int = 0.05

    @property
    def in_pixels(self) -> bool:
        """Whether it is only for pictures whose free numbers are pixels."""
        return bool(self.gradients or self.filters)


STEP = 1.5 / 255  # of the mean pixel, "Inceptionism" (Mordvintsev et al., 2015)
LONG_STEP = 4 * STEP  # where a filter takes much of it back
SHIFT = (pad(8), jitter(16))  # up to 8 px each way; the picture keeps its size and is not interpolated
DISTILL = Preset(fourier_image(), robust())


def by_pixels(
    *filters: Filter,
    start: float | int = 0.01,
    shift: bool = False,
    gradients: tuple[Filter, ...] = (),
    momentum: float | int = 0,
    step: float = STEP,
) -> Preset:
    """Plain ascent on pixels between black and white, each step of one mean size."""
    return Preset(
        clipped_image(std=start),
        SHIFT if shift else none(),
        (*gradients, even()),
        (*filters, box()),
        plain(momentum),
        step * (1 - momentum),
    )


PRESETS: dict[str, Preset] = {
    "unregularised": Preset(pixel_image(), none()),
    "transforms": Preset(pixel_image(), robust()),
    "fourier": Preset(fourier_image(), none()),
    "distill": DISTILL,
    "erhan2009": Preset(sphere_image(), gradients=(even(),), optimiser=plain(), learning_rate=STEP),
    "szegedy2013": by_pixels(),
    "simonyan2013": by_pixels(penalised(l2(), 0.01), start=0, step=LONG_STEP),
    "mahendran2015": by_pixels(
        penalised(roughness(2), 0.02), penalised(alpha_norm(6), 0.1), momentum=0.9, step=LONG_STEP
    ),
    "nguyen2015": by_pixels(blurred(0.5, every=4), drop_small_norms(0.5), step=LONG_STEP),
    "mordvintsev2015": by_pixels(shift=True),
    "oygard2015": by_pixels(gradients=(blurred(2, 0.5),), shift=True),
    "tyka2016": by_pixels(bilateral(1, 0.3), shift=True, step=LONG_STEP),
    "mordvintsev2016": by_pixels(gradients=(even_bands(4),), shift=True),
    "distill2017": DISTILL,
    "fel2023": Preset(phase_image(), robust(), learning_rate=0.2),
}
"""Regulariser families by name, after the table of "Feature visualization" (Olah et al., Distill 2017).

Differs: papers before 2017 give their step sizes and weights in units of their own network, so here each step has one
mean size, and weights are in units of that step. Learned priors are images: `render(…, image=…)`.
"""


def preset_of(preset: str | Preset) -> Preset:
    """A preset by name; one of your own as it is."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise not_found("preset", preset, PRESETS)
    return PRESETS[preset]
