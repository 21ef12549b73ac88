"""Two units of EfficientNet-Lite0, drawn with every family of regularisers, and how they compare with photographs."""

import os
from importlib import metadata
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from glasshouse import report, visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "96"))
QUICK = STEPS < 64
SIZE, PRESETS = (32, ("unregularised", "distill")) if QUICK else (112, None)
model = zoo.load("efficientnet_lite0")
names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "brick.png", "grass.png")
found = {file.name: Path(str(file.locate())) for file in metadata.files("scikit-image") or [] if file.name in names}
photos = model.preprocess.normalise(report.tiles([found[name] for name in names if name in found][: 1 if QUICK else 9]))

# --8<-- [start:call]
seen = visualize.compare_presets(
    model,
    visualize.unit("blocks.4.2", [3, 8]),
    presets=PRESETS,  # None takes all
    size=SIZE,
    steps=STEPS,
    reference=photos,
)
print(seen)
for preset, excess, patch, fine in zip(
    seen.presets, seen.excess.mean(1), seen.patch_excess.mean(1), seen.fineness.mean(1), strict=True
):
    print(f"{preset:16} {excess:+8.1f} {patch:+8.1f} {fine:8.1%}")  # above the best photograph, and its best patch
# --8<-- [end:call]

gap, head, columns = 6, 22, 5
font = ImageFont.load_default(14)
framed = [nn.functional.pad(picture.pixels, (0, 2), value=1.0) for picture in seen.pictures]
cells = [to_image(torch.cat(list(pixels), 2)) for pixels in framed]
width, height = cells[0].width + 2 * gap, cells[0].height + head + gap
rows = -(-len(cells) // columns)
sheet = Image.new("RGB", (columns * width, rows * height), "white")
pen = ImageDraw.Draw(sheet)
for place, (preset, cell) in enumerate(zip(seen.presets, cells, strict=True)):
    left, top = place % columns * width + gap, place // columns * height
    pen.text((left, top + 2), preset, "#1a1a1a", font)
    sheet.paste(cell, (left, top + head))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "compare_presets.png", optimize=True)

assert seen["distill"].activation.shape == (2,)
if not QUICK:
    fine = dict(zip(seen.presets, seen.fineness.mean(1).tolist(), strict=True))
    assert fine["distill"] < fine["unregularised"] / 2
    assert (seen.excess > 0).all()
