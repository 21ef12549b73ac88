"""A generator whose units are masks of classes, so that what dissection and intervention should find is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.generative import GeneratorSpec, LayerInfo
from glasshouse.core.types import Images
from glasshouse.data.glass.little_scene import (
    BLOTCH,
    CLASSES,
    FACTORS,
    PAINT,
    factor_values,
    nearest_paint,
    painted,
    scene_covers,
    visible,
)

UnitKind: TypeAlias = Literal["class", "artifact", "noise", "mixture", "duplicate", "negated", "dilated"]
SPARE = ("noise", "fault", "blotch_x", "blotch_y")
N_CLASSES = {"class": 1, "mixture": 2, "duplicate": 1, "negated": 1, "dilated": 1}
BLOTCH_RADIUS = 0.09


@dataclass(frozen=True)
class GlassUnit:
    """What a unit of a `MaskGenerator` is. o_c is what is seen of class c, 0…1.

    Only units of kind `class` and `artifact` have an effect on the image; the others merely look as if they had.

    Args:
        kind: `class`, o_c; `duplicate`, the same; `negated`, -o_c; `mixture`, o_c + o_d; `dilated`, o_c grown by
            `px` pixels to all sides; `noise`, evenly spread over 0…1 and independent of the scene; `artifact`,
            a blotch.
        classes: which classes it shows.
    """

    kind: UnitKind
    classes: tuple[str, ...] = ()
    px: int = 0

    def __post_init__(self) -> None:
        for name in self.classes:
            if name not in CLASSES:
                raise not_found("class", name, CLASSES)
        if len(self.classes) != N_CLASSES.get(self.kind, 0) or (self.kind == "dilated") != (self.px > 0):
            raise BadInput(
                f"a unit of kind {self.kind} with classes {self.classes} and px={self.px}.",
                'Try GlassUnit("mixture", ("sun", "tree")) or GlassUnit("dilated", ("house",), px=2).',
            )


DISTRACTORS = (
    GlassUnit("noise"),
    GlassUnit("noise"),
    GlassUnit("mixture", ("sun", "tree")),
    GlassUnit("mixture", ("house", "roof")),
    GlassUnit("duplicate", ("tree",)),
    GlassUnit("duplicate", ("ground",)),
    GlassUnit("negated", ("house",)),
    GlassUnit("dilated", ("house",), px=2),
)


class MaskGenerator(nn.Module):
    """z → factors → one unit per class, among others that do nothing → paint.

        y = diag(scales) Q z,    factor_i = low_i + (high_i - low_i) Φ(y_i / scale_i)

    Φ is the normal distribution's, so factors are independent and evenly spread. A step of z along row i of Q changes
    factor i and no other. Layer `occupancy` holds what is seen of each class, and the distractors, in an order drawn
    from the seed; `units` says which unit is what. Switching a class's unit off leaves a grey hole where the class was.

    Args:
        rotation: Q, orthogonal; none leaves each factor its own coordinate of z.
        scales: one per factor; the singular values of the first layer.
        distractors: what other units there are.
        n_artifacts: units that show a magenta blotch each, in a share of `artifact_rate` of the images.
        sharpness: of outlines; 1 is one pixel, less is softer.
    """

    order: Tensor
    scales: Tensor
    pattern: Tensor

    def __init__(
        self,
        resolution: int = 32,
        *,
        rotation: Float[Tensor, "d d"] | None = None,
        scales: Sequence[float] = (),
        distractors: Sequence[GlassUnit] = DISTRACTORS,
        n_artifacts: int = 0,
        artifact_rate: float | int = 0.25,
        sharpness: float | int = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.factor_names = (*(factor.name for factor in FACTORS), *SPARE)
        d = len(self.factor_names)
        turn = torch.eye(d, dtype=torch.float64) if rotation is None else rotation.double()
        if turn.shape[0] != d or not torch.allclose(turn @ turn.T, torch.eye(d).double(), atol=1e-5):
            raise BadInput(f"rotation is no orthogonal matrix of {d} × {d}.", f"Try random_rotation({d}, seed=0).")
        if scales and (len(scales) != d or min(scales) <= 0):
            raise BadInput(f"{len(scales)} scales: there are {d} factors, and scales are above 0.")
        if not (sharpness > 0 and n_artifacts >= 0 and 0 <= artifact_rate <= 1 and resolution >= 16):
            raise BadInput(
                f"resolution={resolution}, sharpness={sharpness}, n_artifacts={n_artifacts}, rate={artifact_rate}.",
                "At least 16; above 0; 0 or more; a share in 0…1.",
            )
        self.resolution, self.sharpness = resolution, float(sharpness)
        self.artifact_rate = float(artifact_rate)
        listed = [GlassUnit("class", (name,)) for name in CLASSES]
        listed += [GlassUnit("artifact")] * n_artifacts + list(distractors)
        draws = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(listed), generator=draws)
        self.listed = tuple(listed)
        self.units = tuple(listed[i] for i in order.tolist())
        self.register_buffer("order", order)
        self.register_buffer("scales", torch.tensor(list(scales) or [1.0] * d, dtype=torch.float32))
        n_noise = sum(unit.kind == "noise" for unit in listed)
        self.register_buffer("pattern", torch.rand(n_noise, resolution, resolution, generator=draws))
        self.turn = nn.Linear(d, d, bias=False)
        with torch.no_grad():
            self.turn.weight.copy_(self.scales.double()[:, None] * turn)
        self.occupancy = nn.Identity()
        self.spec = GeneratorSpec(
            ("z",), d, resolution, (LayerInfo("occupancy", len(listed), (resolution, resolution)),)
        )

    # What is true

    @property
    def directions(self) -> Float[Tensor, "d d"]:
        """Q: row i is the direction of z that changes factor i, of length 1."""
        return self.turn.weight.detach() / self.scales[:, None]

    def units_of(self, kind: UnitKind, class_name: str = "") -> tuple[int, ...]:
        """The units of a kind, and of a class if one is named."""
        if class_name and class_name not in CLASSES:
            raise not_found("class", class_name, CLASSES)
        return tuple(
            u
            for u, unit in enumerate(self.units)
            if unit.kind == kind and (not class_name or class_name in unit.classes)
        )

    def shares(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Where each factor lies in its range, 0…1; evenly spread and independent for z from the prior."""
        return torch.special.ndtr(self.turn(z) / self.scales)

    def factors(self, z: Float[Tensor, "n d"]) -> dict[str, Tensor]:
        """Each factor's value by name; the spare ones, which the scene does not depend on, as shares."""
        share = self.shares(z)
        values = torch.cat([factor_values(share[:, : len(FACTORS)]), share[:, len(FACTORS) :]], 1)
        return dict(zip(self.factor_names, values.unbind(1), strict=True))

    def latents(self, factors: Mapping[str, float | Tensor]) -> Float[Tensor, "n d"]:
        """z that draws what is asked; factors that are not named are at the middle of their range."""
        n = max([len(value) for value in factors.values() if isinstance(value, Tensor)], default=1)
        share = self.scales.new_full((n, len(self.factor_names)), 0.5, dtype=torch.float64)
        bounds = {factor.name: (factor.low, factor.high) for factor in FACTORS}
        for name, value in factors.items():
            if name not in self.factor_names:
                raise not_found("factor", name, self.factor_names)
            low, high = bounds.get(name, (0.0, 1.0))
            share[:, self.factor_names.index(name)] = (torch.as_tensor(value).to(share) - low) / (high - low)
        if not bool(((share > 0) & (share < 1)).all()):
            raise BadInput("a factor lies at or beyond the end of its range.", f"Ranges are {bounds}.")
        weight = self.turn.weight.double()
        return torch.linalg.solve(weight, (torch.special.ndtri(share) * self.scales).T).T.to(self.turn.weight)

    def seen(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k h w"]:
        """What is seen of each class, in the order of CLASSES, blotches left out; sums to 1."""
        values = factor_values(self.shares(z)[:, : len(FACTORS)])
        return visible(scene_covers(values, self.resolution, self.sharpness))

    def labels(self, z: Float[Tensor, "n d"]) -> Int[Tensor, "n h w"]:
        """The class of each pixel, place in CLASSES + 1; 0 where none covers more than half, or a blotch does."""
        value, label = self.seen(z).max(1)
        return (label + 1) * ((value > 0.5) & ~self.blotches(z))

    def segment(self, images: Images) -> Int[Tensor, "n h w"]:
        """The same from an image, edited or not, by the nearest paint. Exact but for soft pixels on outlines."""
        return nearest_paint(images)

    def faulty(self, z: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Which images have blotches: a share of `artifact_rate`, independent of the scene."""
        share = self.shares(z)[:, self.factor_names.index("fault")]
        return (share < self.artifact_rate) & bool(self.units_of("artifact"))

    def blotches(self, z: Float[Tensor, "n d"]) -> Bool[Tensor, "n h w"]:
        """The pixels that a blotch covers by more than half."""
        return (self._artifacts(self.shares(z)) > 0.5).any(1)

    # The network

    def forward(self, z: Float[Tensor, "n d"]) -> Images:
        share = self.shares(z)
        scene = visible(scene_covers(factor_values(share[:, : len(FACTORS)]), self.resolution, self.sharpness))
        listed = torch.cat([scene, self._artifacts(share), *self._distractors(scene, share)], 1)
        maps = self.occupancy(listed[:, self.order])
        k, a = len(CLASSES), len(self.units_of("artifact"))
        shown = maps[:, self.order.argsort()[: k + a]]
        return painted(shown, (*PAINT, *[BLOTCH] * a))

    def draw(self, data: Float[Tensor, "n d"]) -> Images:
        return self(data)

    def _artifacts(self, share: Tensor) -> Float[Tensor, "n a h w"]:
        """One disc per artifact unit, the next 3/8 of the image further on in both directions; 0 in sound images."""
        fault, x, y = (share[:, self.factor_names.index(name)] for name in SPARE[1:])
        steps = 0.375 * torch.arange(len(self.units_of("artifact"))).to(share)
        at = (torch.arange(self.resolution).to(share) + 0.5) / self.resolution
        right = at - ((x[:, None] + steps) % 1)[:, :, None]
        down = at - ((y[:, None] + steps) % 1)[:, :, None]
        distance = (right[:, :, None, :].square() + down[..., None].square() + 1e-12).sqrt() - BLOTCH_RADIUS
        cover = (0.5 - self.sharpness * self.resolution * distance).clamp(0, 1)
        return cover * (fault < self.artifact_rate)[:, None, None, None]

    def _distractors(self, scene: Tensor, share: Tensor) -> list[Tensor]:
        # a fixed pattern shifted, modulo 1, by a number that is evenly spread is evenly spread itself at every pixel
        noise = iter(((self.pattern + share[:, len(FACTORS), None, None, None]) % 1).unbind(1))
        found = list[Tensor]()
        for unit in self.listed:
            own = [scene[:, CLASSES.index(name)] for name in unit.classes]
            if unit.kind == "noise":
                own = [next(noise)]
            elif unit.kind == "negated":
                own = [-own[0]]
            elif unit.kind == "mixture":
                own = [own[0] + own[1]]
            elif unit.kind == "dilated":
                own = [F.max_pool2d(own[0], 2 * unit.px + 1, stride=1, padding=unit.px)]
            if unit.kind not in ("class", "artifact"):
                found.append(own[0][:, None])
        return found
