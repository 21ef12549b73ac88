"""A network of curve detectors that a program wrote: its weights, and how its sixteen units answer to curves."""

import colorsys
import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import dissect

QUICK = int(os.environ.get("GLASSHOUSE_STEPS", "100")) < 100

# --8<-- [start:call]
detectors = dissect.curve_detectors(16)  # nothing is trained
tuning = dissect.judge_curves(detectors, radii=(12.0,) if QUICK else (12.0, 15.0), n_steps=1 if QUICK else 2)

print(tuning)
print(tuning.preferred[0, 0])  # degrees, for quarter circles of the first radius
print(tuning.accepted.all())
# --8<-- [end:call]

FONT, SMALL = ImageFont.load_default(16), ImageFont.load_default(13)
sheet = Image.new("RGB", (1040, 790), "white")
draw = ImageDraw.Draw(sheet)

# Above: what each unit says to quarter circles of all orientations.
fine = tuning if QUICK else dissect.judge_curves(detectors, radii=(12.0,), n_steps=4)
left, top, width, height = 60, 44, 950, 230
draw.text((left, 12), "response of the sixteen units to a quarter circle, by its orientation", "#1a1a1a", font=FONT)
scale = float(fine.response[0, 0].max())
for unit, curve in enumerate(fine.response[0, 0].T.tolist()):
    red, green, blue = (round(215 * part) for part in colorsys.hsv_to_rgb(unit / 16, 0.85, 0.95))
    steps = [*curve, curve[0]]
    points = [
        (left + width * step / (len(steps) - 1), top + height * (1 - value / scale)) for step, value in enumerate(steps)
    ]
    draw.line(points, fill=(red, green, blue), width=2)
most = float(fine.straight[0].max()) / scale
y = top + height * (1 - most)
draw.line((left, y, left + width, y), fill="#1a1a1a", width=2)
words = f"black: the most that any unit says to a straight line, {most:.0%}"
draw.text((left + width, 15), words, "#1a1a1a", font=SMALL, anchor="ra")
draw.line((left, top, left, top + height, left + width, top + height), fill="#c8c8c8")
for degrees in range(0, 361, 45):
    draw.text((left + width * degrees / 360 - 10, top + height + 6), f"{degrees}°", "#5a5a5a", font=SMALL)


def paste(weights: torch.Tensor, place: tuple[int, int], side: int) -> None:
    """A kernel of weights in -1…1: red is positive, blue negative, white 0."""
    ends = torch.where(weights[..., None] > 0, torch.tensor([179.0, 38, 30]), torch.tensor([11.0, 90, 138]))
    shade = 255 - (255 - ends) * weights.abs()[..., None]
    picture = Image.fromarray(shade.round().to(torch.uint8).numpy()).resize((side, side), Image.Resampling.NEAREST)
    sheet.paste(picture, place)
    draw.rectangle((*place, place[0] + side, place[1] + side), outline="#e6e6e6")


# Below: weights of one unit in each layer, one kernel for each input, all to the scale of its largest.
weights = {name: layer.weight.detach() for name, layer in detectors.named_children() if hasattr(layer, "weight")}
rows = (
    ("Gabor filters: eight orientations, first phase", weights["gabors"][::4, 0]),
    ("line 0, from eight proto-lines", weights["lines"][0]),
    ("early curve 0, from eight lines", weights["early_curves"][0]),
    ("curve 0, from every second early curve", weights["curves"][0, ::2]),
)
for row, (words, kernels) in enumerate(rows):
    x, y, side = 60 + 490 * (row % 2), 330 + 232 * (row // 2), 98
    draw.text((x, y - 6), words, "#1a1a1a", font=FONT)
    for place, kernel in enumerate(kernels):
        paste(kernel / kernels.abs().max(), (x + 114 * (place % 4), y + 18 + 104 * (place // 4)), side)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.save(folder / "curve_detectors.png", optimize=True)

assert tuning.accepted.all()
assert tuning.straight_share.max() < 0.5
