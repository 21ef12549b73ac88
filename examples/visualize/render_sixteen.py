"""Sixteen units of EfficientNet-Lite0 in one batch, and how far each picture exceeds the best patch of photographs."""

import os
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from glasshouse import report, visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "256"))
QUICK = STEPS < 64
model = zoo.load("efficientnet_lite0")
names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "brick.png", "grass.png")
found = {file.name: Path(str(file.locate())) for file in metadata.files("scikit-image") or [] if file.name in names}
photos = model.preprocess.normalise(report.tiles([found[name] for name in names if name in found][: 1 if QUICK else 9]))
units = list(range(0, 112, 28 if QUICK else 7))

# --8<-- [start:call]
picture = visualize.render(
    model,
    visualize.unit("blocks.4.2", units),
    size=32 if QUICK else 224,
    steps=STEPS,
    reference=photos,
)
print(picture.excess)  # mean activation above that of the best photograph
print(picture.patch_excess)  # activation at the best place above that of the best patch of any photograph
print(f"{(picture.patch_excess > 0).float().mean():.0%} of {len(picture)} units")
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
cells = nn.functional.pad(nn.functional.interpolate(picture.pixels, size=160, mode="area"), (0, 6, 0, 6), value=1.0)
sheet = torch.cat([torch.cat(list(row), 2) for row in cells.split(4)], 1)[:, :-6, :-6]
to_image(sheet).quantize().save(folder / "render_sixteen.png", optimize=True)
