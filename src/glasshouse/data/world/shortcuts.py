"""Shortcuts: something in the image that gives the category away without being the reason for it.

A scene's shortcut shows one category, its signal. While training, the signal is the true category with
probability `strength`, else any category at random; for two categories that is agreement in (1 + strength) / 2 of
the images. A test split is `aligned` (signal = category), `conflicting` (another category) or `absent`. A model's
reliance is its accuracy on aligned less that on conflicting scenes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.result import Noun
from glasshouse.data.world.chance import between, uniform
from glasshouse.data.world.colours import Value, hsv, rgb
from glasshouse.data.world.factors import Factor, Grid
from glasshouse.data.world.strokes import SHAPES, Sheet

ShortcutKind: TypeAlias = Literal["watermark", "border", "background", "hue", "position", "distractor", "pattern"]
Split: TypeAlias = Literal["train", "aligned", "conflicting", "absent"]

DRAWN = ("watermark", "border", "distractor")  # as strokes, with labels of their own
EVERYWHERE = ("hue", "pattern")
PLATE, MARGIN = 0.085, 0.03  # half width of a watermark, distance to the corner
FRAME = 0.022
CAST = 0.22
PATTERN_AMPLITUDE = 2 / 255


@dataclass(frozen=True, repr=False)
class Shortcut(Noun):
    """What gives the category away.

    Args:
        kind: `watermark`, a plate of 2 × 2 dark or light cells in the lower right corner; `border`, a coloured frame;
            `background`, the kind of ground; `hue`, a colour cast; `position` of the main thing; `distractor`,
            a badge somewhere in the upper half; `pattern`, a fine wave of amplitude 2/255, which nobody sees.
        strength: 0…1, how reliably it tells the category while training.
    """

    kind: ShortcutKind
    strength: float | int = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ShortcutKind):
            raise not_found("shortcut", self.kind, get_args(ShortcutKind))
        if not 0 <= self.strength <= 1:
            raise BadInput(f"a shortcut's strength is 0…1, and {self.strength} was given.")

    def __repr__(self) -> str:
        return f"Shortcut({self.kind}, strength {self.strength:g})"

    def signal(
        self, categories: Int[Tensor, " n"], n_categories: int, index: Int[Tensor, " n"], seed: int, split: Split
    ) -> Int[Tensor, " n"]:
        """The category that the shortcut shows in each scene; -1 for none."""
        if split not in get_args(Split):
            raise not_found("split", split, get_args(Split))
        if split == "absent":
            return torch.full_like(categories, -1)
        if split == "aligned":
            return categories.clone()
        shift = uniform(index, seed, "shortcut/other")
        if split == "conflicting":
            if n_categories < 2:
                raise BadInput("with a single category no shortcut can conflict.")
            return (categories + 1 + (shift * (n_categories - 1)).long()) % n_categories
        tells = uniform(index, seed, "shortcut/tells") < self.strength
        return torch.where(tells, categories, (shift * n_categories).long())

    def override(
        self, factors: Mapping[str, Tensor], signal: Int[Tensor, " n"], carriers: Sequence[Factor], n_categories: int
    ) -> dict[str, Tensor]:
        """The factors with those that carry the signal set to it (kinds `background` and `position`)."""
        sizes = [len(factor.values) for factor in carriers]
        spare = -(-n_categories // math.prod(size for size in sizes if size))
        levels = tuple(size or spare for size in sizes)
        code = Grid(tuple(carriers), levels).values(signal.clamp(min=0))
        return {
            **factors,
            **{name: torch.where(signal >= 0, value, factors[name]) for name, value in code.items()},
        }

    def draw(self, sheet: Sheet, signal: Int[Tensor, " n"], n_categories: int, index: Tensor, seed: int) -> None:
        """Add the strokes that show the signal."""
        there, hue = signal >= 0, hsv(signal.clamp(min=0) / n_categories, 0.85, 0.9)
        if self.kind == "hue":
            sheet.add("box", 0.5, 0.5, 0.52, 0.52, hue, opacity=CAST, present=there, owner="shortcut")
        if self.kind == "border":
            for x, y, a, b in ((0.5, 0, 0.5, FRAME), (0.5, 1, 0.5, FRAME), (0, 0.5, FRAME, 0.5), (1, 0.5, FRAME, 0.5)):
                _labelled(sheet, "box", x, y, a * 2, b * 2, hue, there)
        if self.kind == "watermark":
            at = 1 - MARGIN - PLATE
            _labelled(sheet, "box", at, at, PLATE, PLATE, rgb(0.5, 0.5, 0.5), there)
            for bit in range(4):
                lit = ((signal + 1) >> bit & 1)[:, None].float()
                dx, dy = (bit % 2 - 0.5) * PLATE * 0.94, (bit // 2 - 0.5) * PLATE * 0.94
                _labelled(sheet, "box", at + dx, at + dy, PLATE * 0.42, PLATE * 0.42, lit.expand(-1, 3), there)
        if self.kind == "distractor":
            shapes = torch.tensor([SHAPES.index(name) for name in ("ellipse", "box", "wedge", "star")])
            x, y = between(index, seed, "shortcut/x", 0.12, 0.88), between(index, seed, "shortcut/y", 0.1, 0.3)
            kind = shapes[signal.clamp(min=0) % len(shapes)]
            _labelled(sheet, kind, x, y, 0.07, 0.07, hue, there)

    def imprint(self, images: Float[Tensor, "n 3 h w"], signal: Int[Tensor, " n"], n_categories: int) -> Tensor:
        """The images with the invisible pattern: a plane wave whose direction and period tell the category."""
        if self.kind != "pattern":
            return images
        at = torch.arange(images.shape[-1], device=images.device, dtype=torch.float32)
        turn = math.pi * signal.to(images.device)[:, None, None] / n_categories
        wave = (2.2 * (turn.cos() * at[None, None, :] + turn.sin() * at[None, :, None])).sin()
        strength = PATTERN_AMPLITUDE * (signal >= 0).to(images)[:, None, None, None]
        return (images + strength * wave[:, None]).clamp(0, 1)


def _labelled(
    sheet: Sheet,
    shape: str | Tensor,
    x: Value,
    y: Value,
    a: float,
    b: float,
    paint: Tensor,
    there: Tensor,
) -> None:
    sheet.add(shape, x, y, a, b, paint, present=there, part="shortcut", object="shortcut", instance=20)
