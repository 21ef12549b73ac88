"""What excites three units of EfficientNet-Lite0 most in a handful of photographs, and their whole range."""

import os
from importlib import metadata
from pathlib import Path

import torch

from glasshouse import dissect, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "brick.png", "grass.png")
found = {file.name: Path(str(file.locate())) for file in metadata.files("scikit-image") or [] if file.name in names}

# --8<-- [start:call]
pixels = report.tiles([found[name] for name in names if name in found])
images = model.preprocess.normalise(pixels)
seen = dissect.exemplars(model, images, layer="blocks.3.2", k=8, level=0.98)
chosen = (seen.peak / seen.threshold).nan_to_num().topk(3).indices.tolist()  # the units that stand out most
# --8<-- [end:call]

rows = []
for unit in chosen:
    masked = seen.masked(pixels, unit)
    rows += [torch.cat(list(masked), 2), torch.cat(list(seen.patches(pixels, unit, size=masked.shape[-1])), 2)]
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = to_image(torch.cat(rows, 1))
sheet.resize((1024, round(1024 * sheet.height / sheet.width))).quantize().save(
    folder / "exemplars_classifier.png", optimize=True
)
