"""`creatures`: animals whose category is decided by which parts they are made of, and by nothing else.

A body plan chooses one of three heads and, for crown, tail, legs and back, one of three variants or none. The
plans are words of the [5, 2, 4] extended Reed-Solomon code over GF(4): two categories agree in at most one place,
so any two visible parts tell the category and a missing one never turns it into another. Colour, texture, size,
pose and surroundings are drawn independently of it. Parts are left out at random (the FunnyBirds principle, Hesse,
Schaub-Meyer and Roth, ICCV 2023), so that a scene without a part is nothing new to a model trained here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glasshouse.data.world.colours import Value, hsv, rgb
from glasshouse.data.world.factors import Factor
from glasshouse.data.world.raster import GRADIENT
from glasshouse.data.world.strokes import MATERIALS, TEXTURES, Sheet

CATEGORIES = ("alka", "borin", "celto", "dovik", "emura", "fipo", "golun", "hespa", "ibrik", "jurna", "kepto", "lumit")
PLAN_PARTS = ("head", "crown", "tail", "legs", "back")
VARIANTS = {
    "head": ("-", "round head", "square head", "long head"),
    "crown": ("-", "ears", "horns", "antennae"),
    "tail": ("-", "whip", "brush", "fin"),
    "legs": ("-", "stilts", "paws", "flippers"),
    "back": ("-", "wing", "spikes", "shell"),
}
SCENES = ("-", "meadow", "desert", "snow", "lake")
CLUTTER = ("rock", "mushroom", "flower")
OBJECTS = ("-", "sky", "ground", *CATEGORIES, *CLUTTER, "bush", "post")
PARTS = (
    *("-", "sky", "ground", "body", *(name for names in VARIANTS.values() for name in names[1:]), "eye"),
    *("rock", "stem", "cap", "petals", "bush", "post"),
)
SHOWN = (0.85, 0.15)  # how often a part is drawn and left out


def body_plans() -> Tensor:
    """The variant of each of PLAN_PARTS in each category, 12 × 5; 0 for none."""
    log, exp = {1: 0, 2: 1, 3: 2}, (1, 2, 3)  # GF(4) with 2 = ω, 3 = ω + 1; its sum is exclusive or

    def times(a: int, b: int) -> int:
        return exp[(log[a] + log[b]) % 3] if a and b else 0

    words = [[a, b, a ^ b, a ^ times(2, b), a ^ times(3, b)] for a in (1, 2, 3) for b in range(4)]
    return torch.tensor(words)


def schema(creatures: int) -> tuple[Factor, ...]:
    """The factors of a scene with so many animals; those of the second end in `_2`."""
    many = creatures > 1
    factors: list[Factor] = []
    for k in range(creatures):
        mark = f"_{k + 1}" if k else ""
        at = (k + 0.5) / creatures
        factors += [
            Factor("category" + mark, CATEGORIES, group="content"),
            *(Factor(f"{part}_shown{mark}", ("yes", "no"), weights=SHOWN, group="parts") for part in PLAN_PARTS[1:]),
            Factor("x" + mark, low=at - 0.1 / creatures, high=at + 0.1 / creatures, group="layout"),
            Factor("y" + mark, low=0.52, high=0.64, group="layout"),
            Factor("scale" + mark, low=0.8 * (0.62 if many else 1), high=1.15 * (0.62 if many else 1), group="layout"),
            Factor("tilt" + mark, low=-18.0, high=18.0, group="pose"),
            Factor("facing" + mark, ("right", "left"), group="pose"),
            Factor("nod" + mark, low=-20.0, high=20.0, group="pose"),
            Factor("wag" + mark, low=-25.0, high=25.0, group="pose"),
            Factor("stride" + mark, low=-18.0, high=18.0, group="pose"),
            Factor("length" + mark, low=0.85, high=1.2, group="geometry"),
            Factor("hue" + mark, low=0.0, high=1.0, group="appearance"),
            Factor("part_hue" + mark, low=0.0, high=1.0, group="appearance"),
            Factor("texture" + mark, TEXTURES, group="appearance"),
        ]
    factors += [
        Factor("scene", SCENES[1:], group="background"),
        Factor("horizon", low=0.45, high=0.7, group="background"),
        Factor("background_hue", low=-0.06, high=0.06, group="background"),
        Factor("ground_texture", TEXTURES, group="background"),
        *(Factor(f"{thing}_there", ("no", "yes"), group="clutter") for thing in CLUTTER),
        *(Factor(f"{thing}_x", low=0.06, high=0.94, group="clutter") for thing in CLUTTER),
        Factor("occluder", ("none", "bush", "post"), weights=(0.7, 0.15, 0.15), group="occlusion"),
        Factor("occluder_x", low=0.2, high=0.8, group="occlusion"),
    ]
    return tuple(factors)


def category(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in CATEGORIES of the first animal."""
    return factors["category"]


def scene(factors: Mapping[str, Tensor]) -> Tensor:
    """Place in SCENES."""
    return factors["scene"] + 1


@dataclass(frozen=True)
class _Body:
    """An animal's own axes: x ahead, y down, one unit half the length of its trunk; mirrored, turned and scaled."""

    x: Tensor
    y: Tensor
    scale: Tensor
    mirror: Tensor
    turn: Tensor

    def at(self, ahead: Value, down: Value) -> tuple[Tensor, Tensor]:
        cos, sin, ahead = self.turn.cos(), self.turn.sin(), ahead * self.mirror
        return self.x + self.scale * (ahead * cos - down * sin), self.y + self.scale * (ahead * sin + down * cos)

    def angle(self, degrees: Value) -> Tensor:
        return self.turn + self.mirror * torch.as_tensor(degrees) * (math.pi / 180)


def draw_creature_scene(factors: Mapping[str, Tensor], sheet: Sheet) -> Tensor | None:
    """All strokes of a scene; the light is white."""
    f = {name: value.float() if value.is_floating_point() else value for name, value in factors.items()}
    _background(f, sheet)
    _clutter(f, sheet)
    marks = ["", *(f"_{k}" for k in range(2, 9) if f"category_{k}" in f)]
    for k, mark in enumerate(marks):
        own = {name: f[name + mark] for name in CREATURE_FACTORS}
        _creature(own, sheet, k + 1, "" if not k else mark)
    _occluder(f, sheet)
    return None


CREATURE_FACTORS = tuple(
    factor.name
    for factor in schema(1)
    if factor.group in ("content", "parts", "layout", "pose", "geometry", "appearance")
)
SKY_HUE, SKY_SATURATION = torch.tensor([0.57, 0.10, 0.60, 0.55]), torch.tensor([0.35, 0.28, 0.12, 0.30])
GROUND_HUE = torch.tensor([0.30, 0.11, 0.58, 0.53])
GROUND_SATURATION, GROUND_VALUE = torch.tensor([0.55, 0.45, 0.06, 0.50]), torch.tensor([0.62, 0.85, 0.92, 0.70])
GROUND_MATERIAL = torch.tensor([MATERIALS.index(name) for name in ("leaf", "earth", "earth", "glass")])


def _background(f: Mapping[str, Tensor], sheet: Sheet) -> None:
    which, shift = f["scene"], f["background_hue"]
    sky = [hsv((SKY_HUE[which] + shift) % 1, SKY_SATURATION[which] * s, v) for s, v in ((1.3, 0.88), (0.5, 0.99))]
    sheet.add("box", 0.5, f["horizon"] / 2, 0.5, f["horizon"] / 2 + 0.02, sky[0], second=sky[1],
              texture=GRADIENT, part="sky", object="sky", material="air")  # fmt: skip
    ground = hsv((GROUND_HUE[which] + shift) % 1, GROUND_SATURATION[which], GROUND_VALUE[which])
    depth = (1 - f["horizon"]) / 2
    sheet.add("box", 0.5, 1 - depth, 0.5, depth, ground, second=ground * 0.87, texture=f["ground_texture"], period=0.14,
              part="ground", object="ground", material=GROUND_MATERIAL[which])  # fmt: skip
    sheet.add("box", 0.5, f["horizon"], 0.5, 0.03, sky[1], soft=0.12, opacity=0.45)


def _clutter(f: Mapping[str, Tensor], sheet: Sheet) -> None:
    ground = f["horizon"] + 0.06
    there = {thing: f[f"{thing}_there"] == 1 for thing in CLUTTER}
    x, y = f["rock_x"], ground + 0.07
    sheet.add("dome", x, y, 0.08, 0.045, rgb(0.55, 0.54, 0.52), shade=0.6, present=there["rock"], part="rock",
              object="rock", instance=11, material="earth")  # fmt: skip
    x, y = f["mushroom_x"], ground + 0.14
    sheet.add("box", x, y - 0.03, 0.018, 0.035, rgb(0.95, 0.92, 0.85), shade=0.3, present=there["mushroom"],
              part="stem", object="mushroom", instance=12, material="skin")  # fmt: skip
    sheet.add("dome", x, y - 0.085, 0.055, 0.03, rgb(0.82, 0.2, 0.18), shade=0.4, present=there["mushroom"],
              part="cap", object="mushroom", instance=12, material="skin")  # fmt: skip
    x, y = f["flower_x"], ground + 0.22
    sheet.add("box", x, y - 0.04, 0.014, 0.05, rgb(0.2, 0.5, 0.2), present=there["flower"], part="stem",
              object="flower", instance=13, material="leaf")  # fmt: skip
    for i in range(5):
        turn = 2 * math.pi * i / 5
        sheet.add("ellipse", x + 0.026 * math.sin(turn), y - 0.1 - 0.026 * math.cos(turn), 0.02, 0.02,
                  rgb(0.95, 0.75, 0.2), present=there["flower"], part="petals", object="flower", instance=13,
                  material="leaf")  # fmt: skip


def _occluder(f: Mapping[str, Tensor], sheet: Sheet) -> None:
    x, kind = f["occluder_x"], f["occluder"]
    for dx, y, r in ((-0.08, 0.9, 0.1), (0.07, 0.91, 0.11), (0.0, 0.82, 0.1)):
        sheet.add("ellipse", x + dx, y, r, r, rgb(0.2, 0.42, 0.2), second=rgb(0.14, 0.33, 0.15), shade=0.6,
                  texture=TEXTURES.index("noise"), period=0.06, present=kind == 1, part="bush", object="bush",
                  instance=14,
                  material="leaf")  # fmt: skip
    sheet.add("box", x, 0.68, 0.035, 0.34, rgb(0.52, 0.38, 0.25), second=rgb(0.42, 0.3, 0.2), shade=0.4, period=0.05,
              texture=TEXTURES.index("noise"), present=kind == 2, part="post", object="post", instance=14,
              material="wood")  # fmt: skip


def _creature(f: Mapping[str, Tensor], sheet: Sheet, instance: int, mark: str) -> None:
    mirror = torch.where(f["facing"] == 0, 1.0, -1.0)
    body = _Body(f["x"], f["y"], 0.19 * f["scale"], mirror, mirror * f["tilt"] * (math.pi / 180))
    plan = body_plans()[f["category"]]
    shown = {part: plan[:, i] for i, part in enumerate(PLAN_PARTS)}
    for part in PLAN_PARTS[1:]:
        shown[part] = torch.where(f[f"{part}_shown"] == 0, shown[part], 0)
    pen = _Pen(sheet, body, OBJECTS.index(CATEGORIES[0]) + f["category"], instance, mark, f)
    foot = body.y + body.scale * 1.25
    sheet.add("ellipse", body.x, foot, 1.15 * body.scale, 0.16 * body.scale, rgb(0.03, 0.05, 0.08), soft=0.05,
              opacity=0.3, object=pen.object, owner="body" + mark)  # fmt: skip
    _tail(pen, shown["tail"], f)
    _legs(pen, shown["legs"], f)
    if_shell = shown["back"] == 3
    pen.draw("dome", "back", "shell", (-0.12, -0.62), (0.74, 0.42), where=if_shell, second=True)
    for ahead, high in ((-0.62, 0.2), (-0.12, 0.27), (0.38, 0.2)):
        pen.draw("wedge", "back", "spikes", (ahead, -0.5 - high), (0.23, 0.3), where=shown["back"] == 2)
    pen.draw("ellipse", "body", "body", (0, 0), (f["length"], 0.62), colour="body", textured=True)
    pen.draw("ellipse", "back", "wing", (-0.2, -0.34), (0.62, 0.27), 28, where=shown["back"] == 1, second=True)
    _head(pen, shown, f)


@dataclass(frozen=True)
class _Pen:
    """Draws strokes in an animal's own axes, in its own colours."""

    sheet: Sheet
    body: _Body
    object: Tensor
    instance: int
    mark: str
    f: Mapping[str, Tensor]

    def draw(
        self,
        shape: str,
        slot: str,
        part: str,
        at: tuple[Value, Value],
        half: tuple[Value, Value],
        degrees: Value = 0,
        *,
        where: Tensor | None = None,
        extra: float | int = 0,
        colour: str = "part",
        textured: bool = False,
        second: bool = False,
        shade: float | int = 0.75,
    ) -> None:
        x, y = self.body.at(*at)
        hue = self.f["hue"] if colour == "body" else self.f["part_hue"]
        paint = hsv(hue, 0.55, 0.9) if colour == "body" else hsv(hue, 0.66, 0.76)
        if colour in FIXED_COLOURS:
            paint = FIXED_COLOURS[colour]
        texture = self.f["texture"] if textured else TEXTURES.index("stripes") if second else 0
        self.sheet.add(
            shape, x, y, half[0] * self.body.scale, half[1] * self.body.scale, paint,
            angle=self.body.angle(degrees), extra=extra * self.body.scale if shape in ("box", "crescent") else extra,
            shade=shade, second=paint * 0.66 if textured or second else None, texture=texture,
            period=(0.44 if textured else 0.3) * self.body.scale, present=where, part=part,
            slot=slot + self.mark, object=self.object, material="skin", instance=self.instance,
        )  # fmt: skip


FIXED_COLOURS = {"white": rgb(0.98, 0.98, 0.98), "dark": rgb(0.08, 0.08, 0.1)}


def _tail(pen: _Pen, kind: Tensor, f: Mapping[str, Tensor]) -> None:
    wag = f["wag"]
    root_x, root_y = -0.85 * f["length"], -0.15

    def along(reach: float, degrees: Tensor) -> tuple[Tensor, Tensor]:
        turn = degrees * (math.pi / 180)
        return root_x - reach * turn.cos(), root_y - reach * turn.sin()

    lean = 35 + wag
    pen.draw("capsule", "tail", "whip", along(0.5, lean), (0.1, 0.5), lean - 90, where=kind == 1)
    pen.draw("ellipse", "tail", "whip", along(1.05, lean), (0.21, 0.21), where=kind == 1)
    pen.draw("ellipse", "tail", "brush", along(0.5, lean), (0.55, 0.3), lean, where=kind == 2, second=True)
    pen.draw("wedge", "tail", "fin", along(0.42, wag), (0.52, 0.42), 90 + wag, where=kind == 3)


def _legs(pen: _Pen, kind: Tensor, f: Mapping[str, Tensor]) -> None:
    for ahead, sense in ((-0.42, 1.0), (0.42, -1.0)):
        swing = f["stride"] * sense
        turn = swing * (math.pi / 180)
        foot = (ahead - 0.78 * turn.sin(), 0.35 + 0.78 * turn.cos())
        middle = (ahead - 0.42 * turn.sin(), 0.35 + 0.42 * turn.cos())
        pen.draw("capsule", "legs", "stilts", middle, (0.1, 0.4), swing, where=kind == 1)
        pen.draw("ellipse", "legs", "stilts", foot, (0.2, 0.11), where=kind == 1)
        pen.draw("ellipse", "legs", "flippers", (ahead * 1.35, 0.66), (0.5, 0.17), 32 * sense + swing, where=kind == 3)
    for ahead, sense in ((-0.62, 1.0), (-0.22, -1.0), (0.22, 1.0), (0.62, -1.0)):
        pen.draw("capsule", "legs", "paws", (ahead, 0.62), (0.16, 0.17), f["stride"] * sense, where=kind == 2)


def _head(pen: _Pen, shown: Mapping[str, Tensor], f: Mapping[str, Tensor]) -> None:
    kind, crown = shown["head"], shown["crown"]
    x, y = 0.98 * f["length"], -0.55
    nod = f["nod"]
    turn = nod * (math.pi / 180)

    def on(ahead: float, down: float) -> tuple[Tensor, Tensor]:
        return x + ahead * turn.cos() - down * turn.sin(), y + ahead * turn.sin() + down * turn.cos()

    for ahead in (-0.22, 0.24):
        pen.draw("ellipse", "crown", "ears", on(ahead * 1.2, -0.48), (0.17, 0.3), nod + 40 * ahead, where=crown == 1)
        pen.draw("wedge", "crown", "horns", on(ahead, -0.62), (0.15, 0.3), nod + 80 * ahead, where=crown == 2)
        pen.draw(
            "capsule", "crown", "antennae", on(ahead * 1.2, -0.6), (0.055, 0.3), nod + 70 * ahead, where=crown == 3
        )
        pen.draw("ellipse", "crown", "antennae", on(ahead * 1.9, -0.92), (0.14, 0.14), where=crown == 3)
    pen.draw("ellipse", "head", "round head", (x, y), (0.46, 0.46), nod, where=kind == 1, colour="body")
    pen.draw("box", "head", "square head", (x, y), (0.42, 0.42), nod, where=kind == 2, extra=0.08, colour="body")
    pen.draw("ellipse", "head", "long head", on(0.16, 0.04), (0.68, 0.33), nod + 12, where=kind == 3, colour="body")
    there = kind > 0
    pen.draw("ellipse", "eye", "eye", on(0.14, -0.08), (0.15, 0.15), where=there, colour="white", shade=0.2)
    pen.draw("ellipse", "eye", "eye", on(0.18, -0.08), (0.075, 0.075), where=there, colour="dark", shade=0)
