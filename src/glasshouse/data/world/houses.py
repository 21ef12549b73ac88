"""`houses`: a building or a car, something beside it, something in the sky.

The category of a scene is its main thing together with its companion, so that a classifier needs units for both.
Every labelled part is at least 3 % of the image wide: it can be seen at 32 pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from glasshouse.data.world.colours import hsv, rgb
from glasshouse.data.world.factors import Factor
from glasshouse.data.world.raster import GRADIENT
from glasshouse.data.world.strokes import MATERIALS, TEXTURES, Sheet

MAINS = ("house", "church", "tower", "car")
COMPANIONS = ("tree", "lamp", "fence")
CATEGORIES = tuple(f"{main} and {companion}" for main in MAINS for companion in COMPANIONS)
SCENES = ("-", "meadow", "desert", "snow", "street")
OBJECTS = ("-", "sky", "ground", "hill", "sun", "moon", "cloud", *MAINS, *COMPANIONS)
PARTS = (
    *("-", "sky", "ground", "hill", "sun", "moon", "cloud", "wall", "roof", "door", "window", "chimney", "steeple"),
    *("spire", "car body", "cabin", "wheel", "headlight", "crown", "trunk", "pole", "lantern", "post", "rail"),
)

SCHEMA = (
    Factor("main", MAINS, group="content"),
    Factor("companion", COMPANIONS, group="content"),
    Factor("sky_item", ("sun", "moon", "cloud"), group="content"),
    Factor("hills", ("no", "yes"), group="content"),
    Factor("horizon", low=0.60, high=0.72, group="layout"),
    Factor("side", ("left", "right"), group="layout"),
    Factor("shift", low=-0.04, high=0.04, group="layout"),
    Factor("scale", low=0.85, high=1.1, group="layout"),
    Factor("sky_x", low=0.14, high=0.86, group="layout"),
    Factor("aspect", low=0.85, high=1.15, group="geometry"),
    Factor("companion_height", low=0.85, high=1.2, group="geometry"),
    Factor("roof", ("gable", "flat", "dome"), group="geometry"),
    Factor("door_side", ("left", "right"), group="geometry"),
    Factor("windows", ("one", "two"), group="geometry"),
    Factor("chimney", ("no", "yes"), group="geometry"),
    Factor("wall_hue", low=0.0, high=1.0, group="appearance"),
    Factor("roof_hue", low=0.0, high=1.0, group="appearance"),
    Factor("wall_material", ("plaster", "brick", "wood"), group="appearance"),
    Factor("ground", SCENES[1:], group="background"),
    Factor("ground_texture", ("plain", "stripes", "checker", "dots", "noise"), group="background"),
    Factor("time", ("day", "dusk", "night"), weights=(3.0, 1.0, 1.0), group="light"),
    Factor("fog", low=0.0, high=0.35, group="light"),
)

SKY = torch.tensor(
    [  # top and bottom colour by day, at dusk, by night
        [[0.28, 0.56, 0.92], [0.78, 0.90, 1.00]],
        [[0.36, 0.33, 0.66], [1.00, 0.68, 0.45]],
        [[0.03, 0.05, 0.16], [0.13, 0.18, 0.38]],
    ]
)
LIGHT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.86, 0.76], [0.46, 0.50, 0.66]])
GROUND = torch.tensor([[0.38, 0.66, 0.28], [0.88, 0.74, 0.46], [0.93, 0.95, 0.97], [0.46, 0.46, 0.50]])
GROUND_MATERIAL = torch.tensor([MATERIALS.index(name) for name in ("leaf", "earth", "earth", "earth")])
WALL_TEXTURE = torch.tensor([TEXTURES.index(name) for name in ("plain", "checker", "stripes")])
WALL_MATERIAL = torch.tensor([MATERIALS.index(name) for name in ("plaster", "brick", "wood")])
GROUND_TEXTURE = torch.tensor([TEXTURES.index(f) for f in ("plain", "stripes", "checker", "dots", "noise")])


def category(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in CATEGORIES."""
    return factors["main"] * len(COMPANIONS) + factors["companion"]


def scene(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in SCENES."""
    return factors["ground"] + 1


def draw_house_scene(factors: Mapping[str, Tensor], sheet: Sheet) -> Tensor:
    """All strokes of a scene; returns the colour of its light."""
    f = {name: value.float() if value.is_floating_point() else value for name, value in factors.items()}
    light = LIGHT[f["time"]]
    left = torch.where(f["side"] == 0, 1.0, -1.0)  # the companion stands where the main thing does not
    _background(f, sheet)
    x, base = 0.5 - left * 0.15 + f["shift"], f["horizon"] + 0.1
    beside = 0.5 + left * 0.33 + f["shift"]
    things = (f["main"] + OBJECTS.index("house"), f["companion"] + OBJECTS.index("tree"))
    for at, wide, thing in ((x, 0.30 * f["scale"], things[0]), (beside, 0.15, things[1])):
        sheet.add("ellipse", at + 0.02, base, wide, 0.035, rgb(0.02, 0.04, 0.08), soft=0.05, opacity=0.34, object=thing)
    _building(f, sheet, x, base)
    _church_tower(f, sheet, x, base)
    _openings(f, sheet, x, base)
    _car(f, sheet, x, base + 0.02)
    _companion(f, sheet, beside, base + 0.02)
    return light


def _background(f: Mapping[str, Tensor], sheet: Sheet) -> None:
    sky = SKY[f["time"]] / LIGHT[f["time"]][:, None]  # the light's colour is put on everything at the end
    sheet.add("box", 0.5, f["horizon"] / 2, 0.5, f["horizon"] / 2 + 0.02, sky[:, 0], second=sky[:, 1],
              texture=GRADIENT, part="sky", object="sky", material="air")  # fmt: skip
    item, night = f["sky_item"], f["time"] == 2
    at, y = f["sky_x"], 0.15
    glow = torch.where((item == 0)[:, None], rgb(1.0, 0.9, 0.55), rgb(0.75, 0.8, 1.0))
    sheet.add("ellipse", at, y, 0.16, 0.16, glow, soft=0.28, opacity=0.55, material="light", present=item < 2,
              object=item + OBJECTS.index("sun"))  # fmt: skip
    sheet.add("ellipse", at, y, 0.085, 0.085, rgb(1.0, 0.86, 0.25), present=item == 0,
              part="sun", object="sun", instance=3, material="light")  # fmt: skip
    sheet.add("crescent", at, y, 0.085, 0.085, rgb(0.95, 0.95, 0.86), extra=0.06, angle=-0.4, present=item == 1,
              part="moon", object="moon", instance=3, material="light")  # fmt: skip
    white = torch.where(night[:, None], rgb(0.75, 0.77, 0.85), rgb(0.97, 0.97, 0.98))
    for dx, dy, a, b in ((-0.09, 0.02, 0.09, 0.055), (0.09, 0.02, 0.10, 0.05), (0.0, -0.015, 0.10, 0.075)):
        sheet.add("ellipse", at + dx, y + dy, a, b, white, shade=0.25, present=item == 2,
                  part="cloud", object="cloud", instance=3, material="air")  # fmt: skip
    ground = GROUND[f["ground"]]
    hill = 0.55 * ground + 0.45 * torch.tensor([0.35, 0.5, 0.55])
    for dx, a, b, dark in ((-0.28, 0.42, 0.13, 0.86), (0.3, 0.5, 0.1, 1.0)):
        sheet.add("ellipse", 0.5 + dx + 2 * f["shift"], f["horizon"] + 0.01, a, b, hill * dark, shade=0.3,
                  present=f["hills"] == 1, part="hill", object="hill", material="earth")  # fmt: skip
    depth = (1 - f["horizon"]) / 2
    sheet.add("box", 0.5, 1 - depth, 0.5, depth, ground, second=ground * 0.8,
              texture=GROUND_TEXTURE[f["ground_texture"]], period=0.11, part="ground", object="ground",
              material=GROUND_MATERIAL[f["ground"]])  # fmt: skip
    sheet.add("box", 0.5, f["horizon"], 0.5, 0.12, SKY[f["time"], 1] / LIGHT[f["time"]], soft=0.2, opacity=f["fog"])


def _size(f: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Half width and height of the walls."""
    wide = torch.tensor([0.245, 0.17, 0.125, 0.2])[f["main"]] * f["scale"] * f["aspect"].sqrt()
    high = torch.tensor([0.29, 0.25, 0.48, 0.2])[f["main"]] * f["scale"] / f["aspect"].sqrt()
    return wide, high


def _nave(f: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Centre of the walls: a church's nave gives room to its steeple."""
    return torch.where(f["main"] == 1, x + 0.07 * f["scale"], x)


def _building(f: Mapping[str, Tensor], sheet: Sheet, x: Tensor, base: Tensor) -> None:
    main, (wide, high) = f["main"], _size(f)
    x, built = _nave(f, x), main < 3
    wall = hsv(f["wall_hue"], 0.42, 0.90)
    roof = hsv(f["roof_hue"], 0.72, 0.66)
    top = base - high
    owner = main + OBJECTS.index("house")
    sheet.add("box", x + 0.55 * wide, top - 0.13, 0.035, 0.08, rgb(0.55, 0.3, 0.25), shade=0.3,
              present=(main == 0) & (f["chimney"] == 1), part="chimney", object=owner, instance=1,
              material="brick")  # fmt: skip
    sheet.add("box", x, base - high / 2, wide, high / 2, wall, second=wall * 0.84,
              texture=WALL_TEXTURE[f["wall_material"]], period=0.075, shade=0.35, present=built,
              part="wall", object=owner, instance=1, material=WALL_MATERIAL[f["wall_material"]])  # fmt: skip
    kind = torch.where(main == 1, 0, f["roof"])
    rise = torch.tensor([0.085, 0.035, 0.075])[kind] * torch.where(main == 2, 1.1, 1.0)
    shape = torch.tensor([3, 1, 4])[kind]  # wedge, box, dome
    eaves = torch.tensor([1.16, 1.12, 1.0])[kind]
    sheet.add(shape, x, top - rise + 0.004, wide * eaves, rise, roof, shade=0.45,
              extra=torch.where(kind == 0, 0.22, 0.0), present=built, part="roof", object=owner, instance=1,
              material="wood")  # fmt: skip


def _church_tower(f: Mapping[str, Tensor], sheet: Sheet, x: Tensor, base: Tensor) -> None:
    church, scale = f["main"] == 1, f["scale"]
    wall, roof = hsv(f["wall_hue"], 0.42, 0.90), hsv(f["roof_hue"], 0.72, 0.66)
    at, high = x - 0.155 * scale, 0.38 * scale
    sheet.add("box", at, base - high / 2, 0.075 * scale, high / 2, wall * 0.96, second=wall * 0.8,
              texture=WALL_TEXTURE[f["wall_material"]], period=0.075, shade=0.35, present=church,
              part="steeple", object="church", instance=1, material=WALL_MATERIAL[f["wall_material"]])  # fmt: skip
    sheet.add("wedge", at, base - high - 0.085 * scale, 0.09 * scale, 0.09 * scale, roof, extra=0.0, shade=0.45,
              present=church, part="spire", object="church", instance=1, material="metal")  # fmt: skip


def _openings(f: Mapping[str, Tensor], sheet: Sheet, x: Tensor, base: Tensor) -> None:
    main, (wide, high) = f["main"], _size(f)
    x, built, narrow = _nave(f, x), main < 3, main > 0
    owner = main + OBJECTS.index("house")
    towards = torch.where(f["door_side"] == 0, -1.0, 1.0)
    offset = torch.where(main == 2, 0.0, 0.5) * wide * towards
    tall = torch.where(main == 2, 0.075, 0.088) * f["scale"]
    sheet.add("box", x + offset, base - tall, 0.058 * f["scale"], tall, rgb(0.42, 0.24, 0.12), shade=0.35,
              present=built, part="door", object=owner, instance=1, material="wood")  # fmt: skip
    night = f["time"] == 2
    lit = torch.where(night[:, None], rgb(1.0, 0.82, 0.4), rgb(0.62, 0.84, 0.95))
    glass = torch.where(night, MATERIALS.index("light"), MATERIALS.index("glass"))
    half = 0.058 * f["scale"]
    row = base - torch.where(main == 2, 0.56, 0.60) * high
    first = x - torch.where(main == 2, 0.0, 0.45) * wide * towards
    second = torch.where(main == 0, x + 0.0 * wide * towards, first)
    first = torch.where(main == 0, x - 0.68 * wide * towards, first)
    above = torch.where(main == 2, base - 0.84 * high, row)
    for at, y, shown in ((first, row, built), (second, above, built & (f["windows"] == 1) & (main != 1))):
        sheet.add("box", at, y, half, half, lit, present=shown, part="window", object=owner, instance=1, material=glass)
        for a, b in ((0.006, 1.0), (1.0, 0.006)):  # the bars are seen, and belong to the window
            wide_bar = half * a if a == 1 else a
            high_bar = half * b if b == 1 else b
            sheet.add("box", at, y, wide_bar, high_bar, rgb(0.95, 0.95, 0.95), present=shown & ~narrow,
                      opacity=0.9, owner="window", object=owner, instance=1)  # fmt: skip


def _car(f: Mapping[str, Tensor], sheet: Sheet, x: Tensor, base: Tensor) -> None:
    car, scale = f["main"] == 3, f["scale"]
    body = hsv(f["wall_hue"], 0.72, 0.86)
    to = torch.where(f["door_side"] == 0, -1.0, 1.0) * scale
    night = f["time"] == 2
    sheet.add("wedge", x - 0.02 * to, base - 0.235 * scale, 0.155 * scale, 0.075 * scale, rgb(0.62, 0.84, 0.95),
              extra=0.62, shade=0.3, present=car, part="cabin", object="car", instance=1, material="glass")  # fmt: skip
    sheet.add("box", x, base - 0.125 * scale, 0.265 * scale, 0.07 * scale, body, extra=0.035, shade=0.5,
              present=car, part="car body", object="car", instance=1, material="metal")  # fmt: skip
    lamp = torch.where(night, MATERIALS.index("light"), MATERIALS.index("glass"))
    sheet.add("ellipse", x + 0.225 * to, base - 0.135 * scale, 0.032 * scale, 0.032 * scale, rgb(1.0, 0.93, 0.6),
              present=car, part="headlight", object="car", instance=1, material=lamp)  # fmt: skip
    for side in (-1.0, 1.0):
        sheet.add("ellipse", x + side * 0.155 * scale, base - 0.055 * scale, 0.072 * scale, 0.072 * scale,
                  rgb(0.1, 0.1, 0.12), shade=0.3, present=car, part="wheel", object="car", instance=1,
                  material="metal")  # fmt: skip
        sheet.add("ellipse", x + side * 0.155 * scale, base - 0.055 * scale, 0.032 * scale, 0.032 * scale,
                  rgb(0.75, 0.75, 0.78), present=car, owner="wheel", object="car", instance=1)  # fmt: skip


def _companion(f: Mapping[str, Tensor], sheet: Sheet, x: Tensor, base: Tensor) -> None:
    high, which = f["companion_height"], f["companion"]
    tree, lamp, fence = (which == i for i in range(3))
    green = hsv(0.30 + 0.05 * (f["wall_hue"] - 0.5), 0.62, 0.56)
    sheet.add("box", x, base - 0.12 * high, 0.033, 0.12 * high, rgb(0.43, 0.28, 0.15), shade=0.5, present=tree,
              part="trunk", object="tree", instance=2, material="wood")  # fmt: skip
    for dx, dy, r in ((-0.055, 0.0, 0.095), (0.06, 0.01, 0.09), (0.0, -0.09, 0.105)):
        sheet.add("ellipse", x + dx, base - (0.27 - dy) * high, r, r * high, green, second=green * 0.82, shade=0.6,
                  texture=TEXTURES.index("noise"), period=0.07, present=tree, part="crown", object="tree", instance=2,
                  material="leaf")  # fmt: skip
    night = f["time"] == 2
    sheet.add("ellipse", x, base - 0.42 * high, 0.2, 0.2, rgb(1.0, 0.85, 0.5), soft=0.35, opacity=0.5,
              material="light", present=lamp & night, owner="lantern", object="lamp", instance=2)  # fmt: skip
    sheet.add("box", x, base - 0.19 * high, 0.024, 0.19 * high, rgb(0.24, 0.26, 0.3), shade=0.4, present=lamp,
              part="pole", object="lamp", instance=2, material="metal")  # fmt: skip
    sheet.add("ellipse", x, base - 0.42 * high, 0.065, 0.065, rgb(1.0, 0.92, 0.62), present=lamp, shade=0.2,
              part="lantern", object="lamp", instance=2, material="light")  # fmt: skip
    plank = rgb(0.72, 0.56, 0.38)
    for dy in (0.06, 0.15):
        sheet.add("box", x, base - dy * high, 0.15, 0.022, plank * 0.9, present=fence, part="rail",
                  object="fence", instance=2,
                  material="wood")  # fmt: skip
    for dx in (-0.12, 0.0, 0.12):
        sheet.add("box", x + dx, base - 0.1 * high, 0.025, 0.1 * high, plank, shade=0.4, present=fence, part="post",
                  object="fence", instance=2, material="wood")  # fmt: skip
