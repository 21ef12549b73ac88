"""Glass models that see colour: one unit per colour, then the area that each covers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.core.errors import BadInput, not_found
from glasshouse.data.glass.truth import Glass, Truth, chain, glass, linear, point_conv, random_rotation
from glasshouse.data.world.figures import HUES, PAINTS

PALETTE: dict[str, tuple[float, float, float]] = {
    name: (paint[0], paint[1], paint[2]) for name, paint in zip(HUES, PAINTS.tolist(), strict=True)
}
"""The paints of the `shapes` preset."""


@dataclass(frozen=True)
class Boxes:
    """Boxes around colours, that a unit is 1 in and falls off outside of.

        m_i(x) = relu(1 - d_i(x) / soft),    d_i(x) = Σ_channels relu(|x - colour_i| - half)

    Args:
        colours: the middles of the boxes, `k 3`.
        half: half a box's side.
        soft: L1 distance from the box at which the unit is silent.
    """

    colours: Tensor
    half: float
    soft: float

    def __post_init__(self) -> None:
        if not (self.half >= 0 and self.soft > 0):
            raise BadInput(f"half={self.half} must not be negative, and soft={self.soft} must be above 0.")
        gaps = (self.colours[:, None] - self.colours).abs().sub(2 * self.half).clamp(min=0).sum(2)
        gaps.fill_diagonal_(2 * self.soft)
        if bool((gaps < 2 * self.soft).any()):
            raise BadInput("some colours' boxes meet.", f"Take half and soft below {self.half} and {self.soft}.")
        if bool((self.member(torch.zeros(1, 3, 1, 1)) > 0).any()):
            raise BadInput("black lies in a colour's box; it stands for nothing at all.", "Choose brighter colours.")

    def member(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k h w"]:
        """m_i of each pixel."""
        middle = self.colours.to(images)[:, :, None, None]
        outside = ((images[:, None] - middle).abs() - self.half).clamp(min=0).sum(2)
        return (1 - outside / self.soft).clamp(min=0)

    def layers(self) -> dict[str, nn.Module]:
        """The same from two 1×1 convolutions: distances beyond the six sides of a box, then 1 less their sum."""
        k, one = len(self.colours), torch.eye(3)
        sides = torch.stack([one, -one], 1).reshape(6, 3).repeat(k, 1)
        middle = self.colours.repeat_interleave(2, 1).flatten()
        bias = -middle * torch.tensor([1.0, -1.0]).repeat(3 * k) - self.half
        own = torch.eye(k).repeat_interleave(6, 1)
        return {
            "sides": point_conv(sides, bias),
            "sides_on": nn.ReLU(),
            "inside": point_conv(-own / self.soft, torch.ones(k)),
            "inside_on": nn.ReLU(),
        }


def colour_detector(
    colours: Mapping[str, tuple[float, float, float]] | None = None,
    *,
    half: float | int = 0.06,
    soft: float | int = 0.06,
) -> Glass:
    """Class score = share of the image whose colour lies in the class's box.

        score_i = mean over pixels of m_i,    m_i = relu(1 - Σ_channels relu(|x - colour_i| - half) / soft)

    Regions: the pixels with m_i > 0, one region per colour. Removal and Shapley value of region i: score_i for class
    i, 0 for all others. Within a box the unit is saturated: there the gradient is 0, though the pixel counts.

    Args:
        colours: by class name; the eight paints of `shapes` when left out.
        half: half the side of a box.
        soft: distance from the box (sum over channels) at which a pixel no longer counts.
    """
    chosen = dict(colours or PALETTE)
    boxes = Boxes(torch.tensor(list(chosen.values())), float(half), float(soft))
    return _seen_colours("colour_detector", boxes, list(chosen), list(chosen), torch.eye(len(chosen)))


def wired_classifier(
    wiring: Float[Tensor, "c k"] | None = None,
    class_names: Sequence[str] = ("warm", "cold", "flag", "either"),
    *,
    half: float | int = 0.06,
    soft: float | int = 0.06,
) -> Glass:
    """Each class reads known units: one per paint of `shapes`, in their order.

        score_c = Σ_i wiring_ci · (share of the image in colour i)

    Region i is where colour i is; its removal and Shapley value are wiring_ci · share_i.

    Args:
        wiring: red, orange, yellow, green, blue, purple, pink, grey. By default warm = red + orange + yellow, cold =
            green + blue, flag = 2 red - 3 blue, either = warm less cold. Nothing reads purple, pink and grey.
    """
    if wiring is None:
        warm, cold = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1, 1, 0, 0, 0])
        wiring = torch.stack([warm, cold, torch.tensor([2.0, 0, 0, 0, -3, 0, 0, 0]), warm - cold])
    if tuple(wiring.shape) != (len(class_names), len(PALETTE)):
        raise BadInput(
            f"a wiring of shape {tuple(wiring.shape)} does not fit {len(class_names)} classes.",
            f"It has one row per class and {len(PALETTE)} columns.",
        )
    boxes = Boxes(PAINTS, float(half), float(soft))
    return _seen_colours("wired_classifier", boxes, list(PALETTE), class_names, wiring.float())


def planted_concept(
    concept: str = "red",
    unit: int = 5,
    *,
    shared: Sequence[int] = (),
    rotation: Float[Tensor, "m m"] | None = None,
    half: float | int = 0.06,
    soft: float | int = 0.06,
) -> Glass:
    """A concept at a known unit of layer `code`, or along a known direction of two or three units.

        code = R m,    score = wiring Rᵀ · mean over pixels of code

    m are the memberships of the eight paints, with the concept's at place `unit`; R turns the units `shared` by
    `rotation` and leaves the others. Rᵀ R = 1, so the network computes the same function whatever the rotation.
    Class 0 reads the concept, class 1 all other paints. The concept's direction is column `unit` of R: the sum
    Σ_u direction_u · code_u is its map.

    Args:
        concept: name of a paint of `shapes`.
        shared: units that carry the code together, `unit` among them; none leave it with `unit` alone.
        rotation: orthogonal; drawn from seed 0 when left out.
    """
    if concept not in PALETTE:
        raise not_found("paint", concept, PALETTE)
    k, units = len(PALETTE), list(shared)
    if not 0 <= unit < k or (units and unit not in units) or len(set(units)) != len(units):
        raise BadInput(f"unit {unit} with shared={tuple(units)}.", f"Units are 0…{k - 1}; `shared` has `unit` in it.")
    turn = torch.eye(k, dtype=torch.float64)
    if units:
        block = (random_rotation(len(units)) if rotation is None else rotation).double()
        if block.shape[0] != len(units) or not torch.allclose(block @ block.T, torch.eye(len(units)).double()):
            raise BadInput(f"rotation is no orthogonal matrix of {len(units)} × {len(units)}.")
        turn[torch.tensor(units)[:, None], torch.tensor(units)] = block
    others = [name for name in PALETTE if name != concept]
    names = [*others[:unit], concept, *others[unit:]]
    wiring = torch.eye(k)[unit] * torch.tensor([[1.0], [-1.0]]) + torch.tensor([[0.0], [1.0]])
    boxes = Boxes(torch.tensor([PALETTE[name] for name in names]), float(half), float(soft))
    found = _seen_colours("planted_concept", boxes, names, (concept, f"not {concept}"), wiring, turn)
    return found


def _seen_colours(
    name: str, boxes: Boxes, colours: Sequence[str], classes: Sequence[str], wiring: Tensor, turn: Tensor | None = None
) -> Glass:
    """Memberships, a change of basis, areas, and a head that undoes the change of basis."""
    turn = torch.eye(len(colours), dtype=torch.float64) if turn is None else turn
    head = wiring.double() @ turn.T
    module = chain(
        dict(
            **boxes.layers(),
            code=point_conv(turn),
            area=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=linear(head),
        )
    )

    def regions(images: Float[Tensor, "n 3 h w"]) -> Bool[Tensor, "n k h w"]:
        return boxes.member(images) > 0

    def worth(images: Float[Tensor, "n 3 h w"], kept: Bool[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        share = boxes.member(images).mean((2, 3)) * kept
        return share @ wiring.to(share).T

    read, coded = wiring != 0, head != 0
    truth = Truth(
        "score_c = Σ_i wiring_ci · mean(relu(1 - Σ_channels relu(|x - colour_i| - half) / soft))",
        tuple(colours),
        regions,
        worth,
        {
            "sides": read.repeat_interleave(6, 1),
            "inside": read,
            "inside_on": read,
            "code": coded,
            "area": coded,
        },
        tuple(colours),
        {"code": turn.T.float().contiguous()},
    )
    return glass(name, module, classes, truth)
