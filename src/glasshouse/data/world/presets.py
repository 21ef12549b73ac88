"""The worlds that can be rendered, each a schema of factors and a way to draw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from glasshouse.data.world import creatures, figures, houses
from glasshouse.data.world.colours import COLOURS
from glasshouse.data.world.factors import Factor
from glasshouse.data.world.strokes import MATERIALS, OVERLAYS, TEXTURES, Sheet

PresetName: TypeAlias = Literal["houses", "creatures", "shapes"]


@dataclass(frozen=True)
class Preset:
    """A world.

    Attributes:
        schema: the factors of a scene with so many main things.
        draw: adds a scene's strokes to a sheet, and returns the colour of its light or None for white.
        category, scene: the label of each scene, and its kind of place, from its factors.
        content: the factors that decide the category; their combinations are in the order of `categories`.
        ground: the factors that a background shortcut sets, and those that `do(background=…)` names.
        place: the factors that a position shortcut sets; `right`, `down`: those that move the main thing.
        most: how many main things there can be.
    """

    schema: Callable[[int], tuple[Factor, ...]]
    draw: Callable[[Mapping[str, Tensor], Sheet], Tensor | None]
    category: Callable[[Mapping[str, Tensor]], Tensor]
    scene: Callable[[Mapping[str, Tensor]], Tensor]
    categories: tuple[str, ...]
    parts: tuple[str, ...]
    objects: tuple[str, ...]
    scenes: tuple[str, ...]
    content: tuple[str, ...]
    ground: tuple[str, ...]
    place: tuple[str, ...]
    right: str
    down: str = ""
    most: int = 1

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        return {
            "object": (*self.objects, *OVERLAYS),
            "part": (*self.parts, *OVERLAYS),
            "material": MATERIALS,
            "color": COLOURS,
            "texture": ("-", *TEXTURES),
            "scene": self.scenes,
        }


PRESETS: dict[str, Preset] = {
    "houses": Preset(
        *(lambda n_objects: houses.SCHEMA, houses.draw_house_scene, houses.category, houses.scene),
        *(houses.CATEGORIES, houses.PARTS, houses.OBJECTS, houses.SCENES),
        content=("main", "companion"),
        ground=("ground", "ground_texture"),
        place=("side", "shift"),
        right="shift",
    ),
    "creatures": Preset(
        *(creatures.schema, creatures.draw_creature_scene, creatures.category, creatures.scene),
        *(creatures.CATEGORIES, creatures.PARTS, creatures.OBJECTS, creatures.SCENES),
        content=("category",),
        ground=("scene", "ground_texture"),
        place=("x",),
        right="x",
        down="y",
        most=2,
    ),
    "shapes": Preset(
        *(figures.schema, figures.draw_figures, figures.category, figures.scene),
        *(figures.CATEGORIES, figures.PARTS, figures.OBJECTS, figures.SCENES),
        content=("kind",),
        ground=("ground", "ground_hue"),
        place=("x",),
        right="x",
        down="y",
        most=4,
    ),
}
