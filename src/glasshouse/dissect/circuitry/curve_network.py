"""A network of curve detectors whose weights were written by a program, and a judge for any curve detectors."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Model, Noun, registered
from glasshouse.core.lift import module_of
from glasshouse.core.plan import untouched
from glasshouse.dissect.circuitry import curve_stimuli as stimuli
from glasshouse.dissect.circuitry import curve_weights as written

CURVES, STRAIGHT, ANGLES = ("arc", "corner", "circle", "disc"), ("line", "edge"), ("angle", "wedge")
WIDTHS = (pi / 3, pi / 2, 2 * pi / 3)
SHIFTS = (0.0, 2 / 3)  # of straight lines and angles from the centre, in widths of a line


@registered("dissect", paper="Cammarata et al., Distill 2021", example={"n_orientations": 4, "radius": 6.0})
def curve_detectors(n_orientations: int = 16, *, radius: float = 12.0) -> nn.Sequential:
    """A network that detects curves, from weights that a program wrote: nothing was trained.

    Grey images `n 1 h w` in, maps `n k i j` out: unit k answers to arcs whose centre lies in direction
    k · 360° / `n_orientations`, anticlockwise from the right. Layers are `gabors`, `proto_lines`, `lines`,
    `early_curves` and `curves`, each with its ReLU. There are no biases and a filter sums to 0, so responses are
    proportional to contrast, and the same for any brightness. Convolutions do not pad: a unit answers where all that
    it sees is in the image, for 69 px at the default radius.

    After Cammarata et al., "Curve circuits", Distill 2021, the section on an artificial artificial neural network.
    Differs: what to inhibit is not tuned by hand. A unit's weights are the pattern of its own shape with the patterns
    of straight lines and opposite arcs projected out.

    Args:
        radius: of the arcs in pixels; up to 1.25 times as much passes every test of `judge_curves`. All sizes grow
            with it.
    """
    if n_orientations < 3:
        raise BadInput(f"{n_orientations} orientations are too few to tell curves apart.", "Ask for at least 3.")
    if not 4 <= radius <= 64:
        raise BadInput(f"radius {radius:g} px is not in 4…64.", "Resize the images instead.")
    normals, below = written.curve_normals(n_orientations), written.line_normals(n_orientations)
    scale = radius / written.DESIGN_RADIUS
    weights = {
        "gabors": written.gabors(below, scale),
        "proto_lines": written.proto_lines(below),
        "lines": written.lines(below, scale),
        "early_curves": written.early_curves(normals, below, radius),
        "curves": written.curves(normals, radius),
    }
    layers = OrderedDict[str, nn.Module]()
    for name, weight in weights.items():
        layers[name] = nn.utils.skip_init(nn.Conv2d, *weight.shape[1::-1], tuple(weight.shape[2:]), bias=False)
        layers[name].weight = nn.Parameter(weight.to(torch.get_default_dtype()))
        layers[f"{name}_relu"] = nn.ReLU()
    return nn.Sequential(layers).eval()


@dataclass(frozen=True, repr=False)
class CurveTuning(Noun):
    """How k units answer to curves in all orientations, and to what is no curve.

    Args:
        kinds: of curves: a quarter circle, a right angle with a round corner, a circle, a disc (a boundary).
        radii: of the curves, in pixels.
        orientations: of the curves, in degrees: the direction of their centre, anticlockwise from the right.
        due: the orientation that each unit should prefer.
        response: of each unit at the centre.
        straight: the largest response to a straight line, and to a straight edge, by unit.
        sharp: the largest response to an angle of 60°, 90° or 120° drawn as lines, and to one filled, by unit.
    """

    kinds: tuple[str, ...]
    radii: Float[Tensor, " r"]
    orientations: Float[Tensor, " o"]
    due: Float[Tensor, " k"]
    response: Float[Tensor, "s r o k"]
    straight: Float[Tensor, "2 k"]
    sharp: Float[Tensor, "2 k"]
    contrast: float

    def __repr__(self) -> str:
        n, passed = len(self.due), int(self.accepted.all((0, 1)).sum())
        return (
            f"CurveTuning({n} units, {passed} pass; off by {self.error.max():.1f}°, half width "
            f"{self.half_width.min():.0f}…{self.half_width.max():.0f}°, echo {self.echo.max():.0%}, "
            f"straight {self.straight_share.max():.0%}, angles {self.sharp_share.max():.0%})"
        )

    @property
    def peak(self) -> Float[Tensor, "s r k"]:
        """The largest response to each kind of curve."""
        return self.response.amax(2)

    @property
    def preferred(self) -> Float[Tensor, "s r k"]:
        """Direction of the vector mean of the responses, in degrees."""
        turns = torch.deg2rad(self.orientations)
        right, up = (torch.einsum("srok,o->srk", self.response, part) for part in (turns.cos(), turns.sin()))
        return torch.rad2deg(torch.atan2(up, right)) % 360

    @property
    def error(self) -> Float[Tensor, "s r k"]:
        """How far the preferred orientation is from the one due, in degrees."""
        return apart(self.preferred, self.due)

    @property
    def half_width(self) -> Float[Tensor, "s r k"]:
        """Half the width of the bump at half its height, in degrees."""
        above = self.response > self.peak[:, :, None] / 2
        return above.sum(2) * (180 / len(self.orientations))

    @property
    def echo(self) -> Float[Tensor, "s r k"]:
        """The largest response to a curve more than 90° from the one due, as a share of the peak."""
        far = apart(self.orientations[:, None], self.due) > 90
        return torch.where(far, self.response, 0).amax(2) / self.peak

    @property
    def straight_share(self) -> Float[Tensor, "s r k"]:
        """Response to straight lines by that to lines bent, and to straight edges by that to the boundary of a disc."""
        return self._alike(self.straight) / self.peak

    @property
    def sharp_share(self) -> Float[Tensor, "s r k"]:
        """The same for angles."""
        return self._alike(self.sharp) / self.peak

    @property
    def turned(self) -> Float[Tensor, "s r o"]:
        """Correlation of all responses with those to the curve one step on, moved back by one unit."""
        step, rest = divmod(len(self.orientations), len(self.due))
        if rest:
            raise BadInput(f"{len(self.orientations)} orientations are no multiple of {len(self.due)} units.")
        pair = torch.stack([self.response, self.response.roll(-step, 2).roll(-1, 3)])
        pair = nn.functional.normalize(pair - pair.mean(-1, keepdim=True), dim=-1)
        return (pair[0] * pair[1]).sum(-1)

    @property
    def accepted(self) -> Bool[Tensor, "s r k"]:
        """At most 15° off, a half width of 30…60°, echoes under 25 %, straight under 50 %, angles under 100 %."""
        width = (self.half_width >= 30) & (self.half_width <= 60)
        rejects = (self.echo < 0.25) & (self.straight_share < 0.5) & (self.sharp_share < 1)
        return (self.peak > 0) & (self.error <= 15) & width & rejects

    def _alike(self, rival: Tensor) -> Float[Tensor, "s 1 k"]:
        return torch.stack([rival[int(kind == "disc")] for kind in self.kinds])[:, None]


def apart(a: Float[Tensor, "*#s"], b: Float[Tensor, "*#s"]) -> Float[Tensor, "*s"]:
    """The angle between two directions, all in degrees."""
    return ((a - b + 180) % 360 - 180).abs()


def judge_curves(
    model: Model | nn.Module,
    *,
    radii: Sequence[float] = (12.0, 13.5, 15.0),
    due: Sequence[float] | None = None,
    n_steps: int = 2,
    line_px: float = 3.0,
    contrast: float = 1.0,
    image_size: int = 69,
    batch_size: int = 32,
) -> CurveTuning:
    """Whether the outputs `n k i j` of a network on grey images are curve detectors, from drawings.

    Curves of every kind, radius and orientation pass through the centre of an image, and the unit at the centre of the
    map is read; then straight lines, edges and angles, the most exciting of which counts.

    Cammarata et al., "Curve detectors", Distill 2020, the sections on synthetic curves and joint tuning.

    Args:
        due: the orientation each unit should prefer, in degrees; None spreads them evenly from 0.
        n_steps: orientations tried per unit.
        contrast: of the drawings, light on grey 0.5; -1 makes them dark.
        image_size: side of the drawings in pixels; an odd number has a pixel at the centre.
    """
    if not len(radii) or n_steps < 1:
        raise BadInput(f"radii={tuple(radii)} and n_steps={n_steps} leave nothing to draw.", "Give one of each.")
    net = module_of(model)
    read = partial(responses, net, batch_size=batch_size, side=image_size, contrast=contrast)
    wanted = None if due is None else torch.tensor(due, dtype=torch.float32)
    with untouched(net):
        n = read(stimuli.edge(0.0), [0.0]).shape[1] if wanted is None else len(wanted)
        if wanted is None:
            wanted = torch.arange(n) * (360 / n)
        turns = (torch.arange(n * n_steps) * (2 * pi / (n * n_steps))).tolist()
        response = torch.stack(
            [torch.stack([read(curve(kind, radius, line_px), turns) for radius in radii]) for kind in CURVES]
        )
        shifts = [shift * line_px for shift in SHIFTS]
        straight = torch.stack(
            [
                torch.cat([read(stimuli.line(line_px, shift), turns) for shift in shifts]).amax(0),
                torch.cat([read(stimuli.edge(shift), turns) for shift in shifts]).amax(0),
            ]
        )
        places = [(width, shift) for width in WIDTHS for shift in shifts]
        sharp = torch.stack(
            [
                torch.cat([read(stimuli.angle(width, line_px, shift), turns) for width, shift in places]).amax(0),
                torch.cat([read(stimuli.wedge(width, shift), turns) for width, shift in places]).amax(0),
            ]
        )
    orientations = torch.rad2deg(torch.tensor(turns))
    return CurveTuning(CURVES, torch.tensor(radii), orientations, wanted, response, straight, sharp, contrast)


def curve(kind: str, radius: float, line_px: float) -> stimuli.Region:
    """One of `CURVES` as a region."""
    return stimuli.disc(radius) if kind == "disc" else getattr(stimuli, kind)(radius, line_px)


@torch.no_grad()
def responses(
    net: nn.Module, region: stimuli.Region, normals: Sequence[float], *, batch_size: int, side: int, contrast: float
) -> Float[Tensor, "n k"]:
    """Of every unit at the centre of the map, to one region in several orientations."""
    images = stimuli.drawn(region, normals, side, contrast)
    like = next(net.parameters(), images)
    read = list[Tensor]()
    for batch in images.split(batch_size):
        try:
            maps = net(batch.to(like))
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise BadInput(f"the network does not take grey images of {side} px: {said}", "Set image_size.") from error
        if maps.ndim != 4:
            raise BadInput(f"the network's output is {tuple(maps.shape)}, not maps n k i j.", "Cut it at the layer.")
        read.append(maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2].cpu())
    return torch.cat(read).float()
