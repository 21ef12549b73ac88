"""What is drawn: for each image a list of shapes from back to front, as tensors over images and strokes.

A preset turns factors into strokes; the rasteriser turns strokes into pixels and labels. Lengths are fractions
of the image's side, y points down, angles are radians.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.data.world.colours import Value, name_colours

SHAPES = ("ellipse", "box", "capsule", "wedge", "dome", "ring", "cross", "star", "crescent")
"""What each one is, with a and b its half width and half height:

ellipse; box, its corners rounded with radius `extra`; capsule: all points nearer than a to a line of half length b
along y; wedge: a trapezoid whose upper side is `extra` times its lower one; dome: the upper half of an ellipse, 2a wide
and 2b high; ring: the outline of an ellipse, `extra` wide, inside it; cross: two bars, `extra` thick; star: a pentagram
of outer radius a, one tip up; crescent: an ellipse less the same one moved to the right by `extra`.
"""

TEXTURES = ("plain", "stripes", "checker", "dots", "rings", "noise")
MATERIALS = ("-", "air", "water", "earth", "plaster", "brick", "wood", "glass", "metal", "leaf", "skin", "light")

OVERLAYS = ("shortcut", "blotch")
"""Parts that are no part of the world, and that every preset has."""


@dataclass(frozen=True)
class Strokes:
    """All strokes of n images, from back to front.

    Attributes:
        shape: place in SHAPES, -1 where a stroke is absent.
        place: centre x, y; half width and half height; angle; the shape's `extra`; width of the soft edge (0: one
            pixel); opacity; shading 0…1.
        paint: colour, and the colour of the texture's other half, both rgb in 0…1.
        texture: place in TEXTURES; `grain`: the texture's period, and its phase.
        colour: names of both paints as they are in white light, places in COLOURS.
        slot: the part that each stroke belongs to, place in `parts`; -1 for what has no label, such as shadows.
        part, object, material: labels of each stroke; 0 for none.
        instance: which thing of the image it belongs to; 0 for none.
        owner: the part that a stroke comes and goes with; its own, or that of what throws the shadow.
    """

    shape: Int[Tensor, "n s"]
    place: Float[Tensor, "n s 9"]
    paint: Float[Tensor, "n s 2 3"]
    texture: Int[Tensor, "n s"]
    grain: Float[Tensor, "n s 2"]
    colour: Int[Tensor, "n s 2"]
    material: Int[Tensor, "n s"]
    slot: tuple[int, ...]
    part: tuple[int, ...]
    object: Int[Tensor, "n s"]
    instance: tuple[int, ...]
    owner: tuple[str, ...]
    parts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.shape)

    def rows(self, start: int, stop: int) -> "Strokes":
        """The same strokes of some of the images."""
        return replace(self, **{name: getattr(self, name)[start:stop] for name in TENSORS})

    def to(self, device: torch.device | str) -> "Strokes":
        """The same on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def without(
        self, name: str, where: Bool[Tensor, " n"], part_names: Sequence[str], object_names: Sequence[str]
    ) -> "Strokes":
        """The same, without what bears a name: a slot, a part or an object, in the images where asked."""
        by_part = [name in (owner, part_names[part]) for owner, part in zip(self.owner, self.part, strict=True)]
        hit = torch.tensor(by_part, device=self.shape.device).expand_as(self.shape)
        if name in object_names:
            hit = hit | (self.object == object_names.index(name))
        return replace(self, shape=self.shape.masked_fill(hit & where[:, None].to(hit.device), -1))


TENSORS = ("shape", "place", "paint", "texture", "grain", "colour", "material", "object")


@dataclass
class Sheet:
    """Strokes in the making: call `add` from back to front, then `strokes`.

    `parts` maps each part slot to (name of its part, name of its object), in the order they are first drawn.
    """

    n: int
    part_names: tuple[str, ...]
    object_names: tuple[str, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    columns: list[dict[str, Tensor]] = field(default_factory=list)
    fixed: list[tuple[int, int, int, str]] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)

    def add(
        self,
        shape: str | Tensor,
        x: Value,
        y: Value,
        a: Value,
        b: Value,
        colour: Tensor,
        *,
        angle: Value = 0,
        extra: Value = 0,
        soft: Value = 0,
        opacity: Value = 1,
        shade: Value = 0,
        second: Tensor | None = None,
        texture: Value = 0,
        period: Value = 0.1,
        phase: Value = 0,
        present: Tensor | None = None,
        part: str = "-",
        slot: str = "",
        object: str | Tensor = "-",
        material: str | Tensor = "-",
        instance: int = 0,
        owner: str = "",
    ) -> None:
        """One stroke in every image, in front of those before. Values are one for all images, or one each."""
        kind = self._long(SHAPES.index(shape) if isinstance(shape, str) else shape)
        if present is not None:
            kind = torch.where(present.to(self.device), kind, -1)
        place = [self._float(v) for v in (x, y, a, b, angle, extra, soft, opacity, shade)]
        paint = self._colour(colour)
        self.columns.append(
            {
                "shape": kind,
                "place": torch.stack(place, 1),
                "paint": torch.stack([paint, paint if second is None else self._colour(second)], 1),
                "colour": torch.zeros(self.n, 2, dtype=torch.long, device=self.device),
                "texture": self._long(texture),
                "grain": torch.stack([self._float(period), self._float(phase)], 1),
                "material": self._long(MATERIALS.index(material) if isinstance(material, str) else material),
                "object": self._long(self.object_names.index(object) if isinstance(object, str) else object),
            }
        )
        index = self.slots.setdefault(slot or part, len(self.slots)) if part != "-" else -1
        self.fixed.append((index, self.part_names.index(part), instance, owner or slot or part))

    def strokes(self, tint: Tensor | None = None) -> Strokes:
        """All that was added, in light of some colour (n 3). What shines or lies over the image stays as it is."""
        tensors = {name: torch.stack([column[name] for column in self.columns], 1) for name in TENSORS}
        tensors["colour"] = name_colours(tensors["paint"])
        if tint is not None:
            over = torch.tensor([owner in OVERLAYS for *_, owner in self.fixed], device=self.device)
            shines = ((tensors["material"] == MATERIALS.index("light")) | over)[..., None, None]
            lit = tensors["paint"] * tint.to(self.device, torch.float32)[:, None, None]
            tensors["paint"] = torch.where(shines, tensors["paint"], lit)
        slot, part, instance, owner = zip(*self.fixed, strict=True)
        return Strokes(**tensors, slot=slot, part=part, instance=instance, owner=owner, parts=tuple(self.slots))

    def _float(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self.device).expand(self.n)

    def _long(self, value: Value) -> Tensor:
        return torch.as_tensor(value, dtype=torch.long, device=self.device).expand(self.n)

    def _colour(self, value: Tensor) -> Tensor:
        return value.to(self.device, torch.float32).expand(self.n, 3)
