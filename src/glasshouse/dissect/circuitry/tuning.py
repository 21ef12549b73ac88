"""How units respond to synthetic pictures whose orientation, curvature, frequency or colour is varied."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, LayerGeometry, Model, NotFound, Preprocess, in_chunks, registered
from glasshouse.core.errors import nearest
from glasshouse.core.lift import module_of
from glasshouse.core.shards import Data
from glasshouse.core.stats import Moments
from glasshouse.dissect.circuitry import stimuli
from glasshouse.dissect.circuitry.responses import Tuning
from glasshouse.dissect.circuitry.stimuli import Stimulus
from glasshouse.dissect.passes import Course, reading, run

TURN, HALF_TURN = range(0, 360, 10), range(0, 180, 10)
RADII, FREQUENCIES = (4, 6, 8, 12, 16, 24, 32), (0.03125, 0.0625, 0.09375, 0.125, 0.1875, 0.25, 0.375)

STIMULI: dict[str, tuple[Callable[..., Stimulus], Mapping[str, Sequence[float | int]]]] = {
    "edge": (stimuli.edge, {"orientation": TURN}),
    "curved_edge": (stimuli.curved_edge, {"orientation": TURN, "radius": RADII}),
    "line": (stimuli.line, {"orientation": HALF_TURN, "width": (1, 2, 3, 4, 6, 8)}),
    "curve": (stimuli.curve, {"orientation": TURN, "radius": RADII}),
    "angle": (stimuli.angle, {"orientation": TURN, "opening": (30, 60, 90, 120, 150, 180)}),
    "circle": (stimuli.circle, {"radius": RADII}),
    "disc": (stimuli.disc, {"radius": RADII}),
    "grating": (stimuli.grating, {"orientation": HALF_TURN, "frequency": FREQUENCIES, "phase": range(0, 360, 45)}),
    "gabor": (stimuli.gabor, {"orientation": HALF_TURN, "frequency": FREQUENCIES, "phase": range(0, 360, 45)}),
    "high_low": (stimuli.high_low, {"orientation": TURN}),
    "checker": (stimuli.checker, {"orientation": HALF_TURN, "side": (2, 3, 4, 6, 8, 12)}),
    "colour_patch": (stimuli.colour_patch, {"hue": range(0, 360, 15)}),
    "colour_pair": (stimuli.colour_pair, {"orientation": TURN, "hue": range(0, 360, 30)}),
}
"""Stimuli by name, with what is varied where nothing else is asked for."""

PERIODS = {"orientation": 360.0, "phase": 360.0, "hue": 360.0}
HALF_PERIODS = {"line", "grating", "gabor", "checker"}  # of orientation: half a turn gives the same, or another phase


@registered(
    "dissect",
    paper="Cammarata et al., Distill 2020",
    warning="what was not drawn cannot be found: a unit that prefers curves to lines may prefer faces to both.",
    example={"over": {"orientation": (0, 90, 180, 270)}},
)
def tuning_curves(
    model: Model | nn.Module,
    stimulus: str | Callable[..., Stimulus] = "edge",
    over: Mapping[str, Sequence[float | int]] | None = None,
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    preprocess: Preprocess | None = None,
    data: Data | None = None,
    batch_size: int = 16,
) -> Tuning:
    """How strongly each unit of `layer` responds to a stimulus, for every combination of its properties.

        r_u(θ, …) = A_u,ij(stimulus(θ, …) centred on the receptive field of ij),   ij the middle of the grid

    Cammarata, Goh, Carter, Schubert, Petrov and Olah, "Curve detectors", Distill 2020, section "Synthetic stimuli".

    Differs: pixels are averaged over a regular grid of cells, not over random points, so that quarter turns are exact.

    Args:
        stimulus: a name, or a function of named properties such as those in `dissect.stimuli`.
        over: the values of each property that is varied, all combinations of which are shown; the others keep their
            defaults. None takes a grid for the stimulus.
        layer: None takes the last one with positions.
        units: numbers of output channels; None takes all.
        size: of the picture in pixels; None takes the input size of the preprocessing. A layer with a small window
            needs no large picture.
        channels: None takes the preprocessing's, or 3.
        preprocess: turns pixels (0…1) into inputs; None takes the model's own, or leaves pixels as they are.
        data: images as `exemplars` takes them, from which `Tuning.deviations` takes mean and standard deviation.
    """
    draw, axes, name = _design(stimulus, over)
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    paper = Paper.of(preprocess or known.preprocessing, size, channels)
    drawn = [_drawn(draw, dict(zip(axes, point, strict=True))) for point in product(*axes.values())]
    shown = [*drawn, drawn[0].emptied()]
    kind = next(weight for weight in (*known.module.parameters(), torch.empty(0)) if weight.is_floating_point())
    with reading(model, paper.inputs(shown[:1], None).to(kind.dtype), [layer], units) as read:
        (layer, place), chosen = next(iter(read.places.items())), next(iter(read.units.values()))
        row, column, centre = middle(place)

        def respond(rows: Int[Tensor, " r"]) -> Float[Tensor, "r u"]:
            images = paper.inputs([shown[index] for index in rows.tolist()], centre)
            return read(images.to(read.first), rows)[place.name][:, :, row, column].cpu()

        rows = torch.cat([part for _, part in in_chunks(respond, len(shown), batch_size)])
    mean = std = None
    if data is not None:
        mean, std = spread_of(model, data, place.name, units, batch_size)
    lengths = [len(values) for values in axes.values()]
    periods = {axis: PERIODS[axis] for axis in axes if axis in PERIODS}
    if "orientation" in periods and name in HALF_PERIODS:
        periods["orientation"] = 180.0
    return Tuning(
        place.name,
        chosen,
        name,
        {axis: tuple(float(value) for value in values) for axis, values in axes.items()},
        rows[:-1].T.unflatten(1, lengths),
        rows[-1],
        periods,
        mean=mean,
        std=std,
        window=(round(place.rows.size), round(place.cols.size)),
        settings={"size": paper.size, "channels": paper.channels, "position": (row, column)},
    )


@dataclass(frozen=True)
class Paper:
    """What stimuli are drawn on, and how that becomes an input."""

    size: tuple[int, int]
    channels: int
    preprocess: Preprocess | None

    @classmethod
    def of(cls, preprocess: Preprocess | None, size: int | tuple[int, int] | None, channels: int | None) -> "Paper":
        if size is None:
            if preprocess is None:
                raise BadInput(
                    "the size of the pictures is unknown: this model has no preprocessing.",
                    "Pass size=64, or whatever size the network takes.",
                )
            size = preprocess.size
        channels = channels or (3 if preprocess is None else len(preprocess.mean))
        return cls((size, size) if isinstance(size, int) else size, channels, preprocess)

    def inputs(self, shown: Sequence[Stimulus], centre: tuple[float, float] | None) -> Images:
        """The stimuli as the network is fed them, centred on a pixel; None is the middle of the picture."""
        pixels = torch.stack([one.pixels(self.size, channels=self.channels, centre=centre) for one in shown])
        return pixels if self.preprocess is None else self.preprocess.normalise(pixels)


def middle(place: LayerGeometry) -> tuple[int, int, tuple[float, float]]:
    """The position in the middle of a layer's grid, and the pixel at the centre of what it sees."""
    row, column = ((length - 1) // 2 for length in place.grid)
    if not place.spatial:
        return row, column, ((place.image[0] - 1) / 2, (place.image[1] - 1) / 2)
    return row, column, (place.rows.start + row * place.rows.jump, place.cols.start + column * place.cols.jump)


def spread_of(
    model: Model | nn.Module, data: Data, layer: str, units: Sequence[int] | None, batch_size: int
) -> tuple[Float[Tensor, " u"], Float[Tensor, " u"]]:
    """Mean and standard deviation of each unit over all positions of all images, in one pass."""
    with reading(model, data, [layer], units) as read:
        seen = run(read, data, {layer: {"spread": Spread()}}, Course(batch_size))
    moments: Moments = seen[layer]["spread"]["moments"]
    return moments.mean, moments.std


@dataclass(frozen=True)
class Spread:
    """Mean and variance over positions: what is counted of a data set's activations."""

    def stats(self) -> dict[str, Moments]:
        return {"moments": Moments()}

    def count(self, maps: Tensor, batch: Any, ids: Tensor) -> dict[str, tuple[Tensor, ...]]:
        return {"moments": (maps.transpose(0, 1).flatten(1).T,)}


def _design(
    stimulus: str | Callable[..., Stimulus], over: Mapping[str, Sequence[float | int]] | None
) -> tuple[Callable[..., Stimulus], dict[str, list[float | int]], str]:
    """What draws a stimulus, what is varied, and what it is called."""
    if isinstance(stimulus, str):
        if stimulus not in STIMULI:
            raise NotFound(f"no stimulus '{stimulus}'.", nearest(stimulus, STIMULI))
        draw, usual = STIMULI[stimulus]
    else:
        draw = stimulus
        usual = next((axes for known, axes in STIMULI.values() if known is draw), {})
    axes = {axis: list(values) for axis, values in (over or usual).items()}
    if not axes or not all(axes.values()):
        raise BadInput("nothing is varied.", "Pass over={'orientation': range(0, 360, 10)}, or other properties.")
    return draw, axes, getattr(draw, "__name__", type(draw).__name__)


def _drawn(draw: Callable[..., Stimulus], properties: Mapping[str, float | int]) -> Stimulus:
    try:
        return draw(**properties)
    except TypeError as error:
        raise BadInput(f"this stimulus cannot be drawn from {dict(properties)}: {error}.") from error
