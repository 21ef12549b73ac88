"""Are units special among directions? A network whose units were set by hand, and one that learnt them."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glasshouse import data, dissect, zoo
from glasshouse.data import glass

N = int(os.environ.get("GLASSHOUSE_IMAGES", "240"))
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if N >= 100 else (0.0, 1.0)
ROTATIONS = 8 if N >= 100 else 2

# --8<-- [start:call]
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", N, seed=3, size=model.preprocess.size[0])
labelled = data.inputs(data.with_labels(scenes), model.preprocess)

learnt = dissect.rotation_test(model, labelled, alphas=ALPHAS, n_rotations=ROTATIONS)

print(learnt)
print(learnt.interval())  # 95 % limits of the mean number over rotations
print(learnt.detectors.double().mean(1))  # units that are detectors of anything
# --8<-- [end:call]

# A network whose units were set by hand: each is one paint of the `shapes` preset, and knows where it is.
planted = glass.colour_detector(half=0, soft=0.12)
shapes = data.scenes("shapes", 240, seed=3, size=32)


def paint(images: Tensor) -> Tensor:
    """The number of the paint that each pixel has, 0 for none."""
    found = planted.truth.regions(images)
    return torch.where(found.any(1), found.long().argmax(1) + 1, 0)


painted = data.segmented(shapes, paint, planted.class_names, category="color")
by_hand = dissect.rotation_test(planted, painted, layer="inside_on", alphas=ALPHAS, n_rotations=ROTATIONS)
print(by_hand)

SCALE, WIDTH, HEIGHT, LEFT, TOP = 2, 330, 190, 46, 58
INK, FAINT, LINE, BAND, GRID = "#1a1a1a", "#767676", "#3b6ea5", "#d3e0ee", "#e6e6e6"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


def panel(draw: ImageDraw.ImageDraw, left: int, title: str, seen: dissect.Rotations) -> None:
    """Unique detectors over the angle with their interval, and below the title how many units are detectors."""
    mean, limits = seen.unique.double().mean(1), seen.interval()
    high = max(float(limits.nan_to_num().max()), float(mean.max())) * 1.1
    step = next(step for step in (1, 2, 5, 10, 20, 50) if high / step <= 6)

    def at(alpha: float, value: float) -> tuple[float, float]:
        return (left + WIDTH * alpha) * SCALE, (TOP + HEIGHT * (1 - value / high)) * SCALE

    draw.text((left * SCALE, 8 * SCALE), title, INK, font=font(14))
    share = seen.detectors.double().mean(1)
    words = f"detecting anything: {share[0]:.0f} of {seen.n_units} units, {share[-1]:.0f} when turned"
    draw.text((left * SCALE, 29 * SCALE), words, FAINT, font=font(12))
    for value in range(0, int(high) + 1, step):
        draw.line([at(0, value), at(1, value)], GRID, SCALE)
        x, y = at(0, value)
        draw.text((x - 8 * SCALE, y), str(value), FAINT, font=font(12), anchor="rm")
    band = [at(a, float(v)) for a, v in zip(seen.alphas, limits[:, 0], strict=True)]
    band += [at(a, float(v)) for a, v in zip(seen.alphas, limits[:, 1], strict=True)][::-1]
    draw.polygon(band, BAND)
    points: Sequence[tuple[float, float]] = [at(a, float(v)) for a, v in zip(seen.alphas, mean, strict=True)]
    draw.line(points, LINE, 2 * SCALE, joint="curve")
    for x, y in points:
        draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), LINE)
    for alpha in seen.alphas:
        x, y = at(alpha, 0)
        draw.text((x, y + 6 * SCALE), f"{alpha:g}", FAINT, font=font(12), anchor="ma")


sheet = Image.new("RGB", ((2 * (WIDTH + LEFT) + 60) * SCALE, (TOP + HEIGHT + 52) * SCALE), "white")
drawing = ImageDraw.Draw(sheet)
panel(drawing, LEFT, "Units set by hand, one for each paint", by_hand)
panel(drawing, 2 * LEFT + WIDTH + 40, "Units of houses_cnn", learnt)
caption = "unique detectors, by share of a random rotation; the band is the 95 % interval over rotations"
drawing.text((LEFT * SCALE, (TOP + HEIGHT + 28) * SCALE), caption, FAINT, font=font(12))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize(dither=Image.Dither.NONE).save(folder / "rotation_test.png", optimize=True)

assert by_hand.unique[0, 0] == len(planted.class_names)
assert bool((by_hand.unique[-1] < by_hand.unique[0]).all())
assert float(by_hand.iou[-1].mean()) < float(by_hand.iou[0].mean())
