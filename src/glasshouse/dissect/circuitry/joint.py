"""Natural images turned in small steps, and how a whole family of units hands the response on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, in_chunks, registered
from glasshouse.core.shards import Data
from glasshouse.dissect.circuitry.families import Families, from_shifts, shifted_correlation
from glasshouse.dissect.circuitry.stimuli import turn_of
from glasshouse.dissect.exhibits import Exemplars, image_of
from glasshouse.dissect.passes import reading


@dataclass(frozen=True, repr=False)
class JointTuning(Noun):
    """Responses of u units to k images that excite one of them, as these are turned about what it saw.

    Args:
        anchor: the unit that the images were chosen for.
        angles: in degrees counterclockwise, evenly over full circle.
        responses: at the position at which the anchor answered.
        ids: the images.
    """

    layer: str
    anchor: int
    units: Int[Tensor, " u"]
    angles: Float[Tensor, " a"]
    responses: Float[Tensor, "u k a"]
    ids: Int[Tensor, " k"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        shape = f"{len(self.units)} units on {len(self.ids)} images of unit {self.anchor}"
        return f"JointTuning({self.layer}, {shape}, {len(self.angles)} angles)"

    @property
    def mean(self) -> Float[Tensor, "u a"]:
        """Over images, each unit's curve."""
        return self.responses.mean(1)

    @property
    def offset(self) -> Float[Tensor, " u"]:
        """How far images must be turned for a unit to answer them as the anchor answers them upright, in degrees.

        The shift at which its mean curve correlates best with the anchor's.
        """
        return self.angles[self._shift()[1]]

    @property
    def likeness(self) -> Float[Tensor, " u"]:
        """The correlation of each unit's mean curve with the anchor's, at the best shift: 1 for the same shape."""
        return self._shift()[0]

    def families(self, threshold: float = 0.8) -> Families:
        """Units whose mean curves are the same but for a shift."""
        similarity, shift = shifted_correlation(self.mean[:, None])
        return from_shifts(self.layer, self.units, similarity, shift, self.angles.tolist(), threshold, 360.0)

    def _shift(self) -> tuple[Tensor, Tensor]:
        similarity, shift = shifted_correlation(self.mean[:, None])
        row = self.units.tolist().index(self.anchor)
        return similarity[row], shift[row]


@registered(
    "dissect",
    paper="Cammarata et al., Distill 2020",
    warning="turning a photograph turns everything in it; beyond its border stands its mirror image.",
)
def joint_tuning(
    model: Model | nn.Module,
    data: Data,
    seen: Exemplars,
    *,
    unit: int,
    units: Sequence[int] | None = None,
    k: int | None = None,
    n_angles: int = 36,
    batch_size: int = 16,
) -> JointTuning:
    """How the units of a layer respond while the images that excite one of them most are turned.

        r_u(x, θ) = A_u,ij(x turned by θ about the centre of what ij sees),   ij where the unit answers x most

    Cammarata et al., "Curve detectors", Distill 2020, section "Joint tuning curves". In a family of rotated copies all
    curves have one shape, shifted by the difference of their orientations: natural images say what synthetic ones
    do, or they do not.

    Differs: 36 angles by default, the paper takes 360.

    Args:
        data: the data set that `seen` was made from.
        seen: `exemplars` of a layer, with this unit among them.
        units: whose responses are recorded, the unit itself always; None takes all of the layer.
        k: how many of the strongest images; None takes all that were kept.
    """
    one = seen.unit(unit)
    if n_angles < 2:
        raise BadInput(f"n_angles={n_angles} turns nothing.", "Take 36, or 360.")
    ids, positions = one.strongest.ids[0][:k], one.strongest.positions[0][:k]
    wanted = None if units is None else list(dict.fromkeys([unit, *units]))
    angles = torch.arange(n_angles, dtype=torch.float64) * (360 / n_angles)
    with reading(model, data, [seen.layer], wanted) as read:
        place = read.places[seen.layer]
        rows, columns = place.rows, place.cols
        images = torch.stack([image_of(data[index]) for index in ids.tolist()]).to(read.first)

        def respond(pairs: Int[Tensor, " p"]) -> Float[Tensor, "p u"]:
            which, angle = pairs // n_angles, pairs % n_angles
            at = positions[which]
            centres = torch.stack([rows.start + at[:, 0] * rows.jump, columns.start + at[:, 1] * columns.jump], 1)
            maps = read(turned(images[which], angles[angle], centres), ids[which])[seen.layer]
            return maps[torch.arange(len(pairs)), :, at[:, 0], at[:, 1]].cpu()

        parts = [part for _, part in in_chunks(respond, len(ids) * n_angles, batch_size)]
        responses = torch.cat(parts).T.unflatten(1, (len(ids), n_angles))
        return JointTuning(seen.layer, unit, read.units[seen.layer], angles, responses, ids)


def turned(images: Images, degrees: Float[Tensor, " n"], centres: Float[Tensor, "n 2"]) -> Images:
    """Each image turned counterclockwise about a point (row, column), bilinearly; its border is a mirror."""
    height, width = images.shape[-2:]
    row, column = (axis[:, None, None] for axis in centres.double().unbind(1))
    y = row - torch.arange(height, dtype=torch.float64)[:, None]
    x = torch.arange(width, dtype=torch.float64) - column
    c, s = torch.tensor([turn_of(angle) for angle in degrees.tolist()], dtype=torch.float64).T[:, :, None, None]
    from_x, from_y = column + x * c + y * s, row - (y * c - x * s)
    grid = torch.stack([2 * from_x / max(width - 1, 1) - 1, 2 * from_y / max(height - 1, 1) - 1], 3)
    exact = torch.nn.functional.grid_sample(images.double().cpu(), grid, padding_mode="reflection", align_corners=True)
    return exact.to(images)
