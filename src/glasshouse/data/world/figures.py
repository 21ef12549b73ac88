"""`shapes`: one to four plain figures on a quiet ground; the simplest world, for teaching and for counting.

The category is the kind of the first figure.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from glasshouse.data.world.colours import hsv, rgb
from glasshouse.data.world.factors import Factor
from glasshouse.data.world.raster import GRADIENT
from glasshouse.data.world.strokes import SHAPES, TEXTURES, Sheet

CATEGORIES = ("circle", "square", "triangle", "cross", "ring", "star")
HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey")
SCENES = ("-", "light", "dark")
OBJECTS = ("-", "ground", *CATEGORIES)
PARTS = ("-", "ground", "figure")

DRAWN_AS = torch.tensor([SHAPES.index(name) for name in ("ellipse", "box", "wedge", "cross", "ring", "star")])
EXTRA = torch.tensor([0.0, 0.0, 0.0, 0.09, 0.07, 0.0])
PAINTS = torch.tensor(
    [
        [0.86, 0.16, 0.16], [0.95, 0.55, 0.10], [0.95, 0.87, 0.20], [0.20, 0.65, 0.25],
        [0.16, 0.38, 0.86], [0.52, 0.22, 0.66], [0.94, 0.55, 0.74], [0.52, 0.52, 0.54],
    ]
)  # fmt: skip


def schema(n_objects: int) -> tuple[Factor, ...]:
    """The factors of a scene with so many figures; those of the second end in `_2`."""
    factors: list[Factor] = []
    columns = 1 if n_objects == 1 else 2
    for k in range(n_objects):
        mark, spread = f"_{k + 1}" if k else "", 0.15 / columns
        x = (k % columns + 0.5) / columns
        y = 0.5 if n_objects < 3 else (k // columns + 0.5) / 2
        factors += [
            Factor("kind" + mark, CATEGORIES, group="content"),
            Factor("colour" + mark, HUES, group="appearance"),
            Factor("texture" + mark, TEXTURES, group="appearance"),
            Factor("x" + mark, low=x - spread, high=x + spread, group="layout"),
            Factor("y" + mark, low=y - spread, high=y + spread, group="layout"),
            Factor("scale" + mark, low=0.75 / columns**0.5, high=1.2 / columns**0.5, group="layout"),
            Factor("angle" + mark, low=-25.0, high=25.0, group="layout"),
        ]
    factors += [
        Factor("ground", SCENES[1:], group="background"),
        Factor("ground_hue", low=0.0, high=1.0, group="background"),
    ]
    return tuple(factors)


def category(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in CATEGORIES of the first figure."""
    return factors["kind"]


def scene(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in SCENES."""
    return factors["ground"] + 1


def draw_figures(factors: Mapping[str, Tensor], sheet: Sheet) -> Tensor | None:
    """All strokes of a scene; the light is white."""
    f = {name: value.float() if value.is_floating_point() else value for name, value in factors.items()}
    bright = torch.tensor([0.96, 0.26])[f["ground"]]
    ground = hsv(f["ground_hue"], torch.tensor([0.10, 0.35])[f["ground"]], bright)
    sheet.add("box", 0.5, 0.5, 0.52, 0.52, ground, second=ground * 0.9, texture=GRADIENT, part="ground",
              object="ground", material="plaster")  # fmt: skip
    marks = ["", *(f"_{k}" for k in range(2, 9) if f"kind_{k}" in f)]
    for k, mark in enumerate(marks):
        kind, paint = f["kind" + mark], PAINTS[f["colour" + mark]]
        x, y, half = f["x" + mark], f["y" + mark], 0.2 * f["scale" + mark]
        turn = f["angle" + mark] * (torch.pi / 180)
        owner = f"figure{mark}"
        sheet.add("ellipse", x + 0.01, y + 0.02, half * 1.05, half * 1.05, rgb(0, 0, 0), soft=0.09, opacity=0.22,
                  object=kind + OBJECTS.index("circle"), owner=owner)  # fmt: skip
        size = half * torch.tensor([1.0, 0.88, 1.05, 1.0, 1.0, 1.15])[kind]
        sheet.add(DRAWN_AS[kind], x, y, size, size, paint, second=paint * 0.62, texture=f["texture" + mark],
                  period=0.105, angle=turn, extra=EXTRA[kind] * f["scale" + mark], shade=0.3, part="figure",
                  slot=owner, object=kind + OBJECTS.index("circle"), material="plaster", instance=k + 1)  # fmt: skip
