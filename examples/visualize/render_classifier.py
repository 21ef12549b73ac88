"""Pictures drawn for four units of EfficientNet-Lite0, beside what the same units look like without regularisers."""

import os
from pathlib import Path

import torch

from glasshouse import visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "96"))
model = zoo.load("efficientnet_lite0")

# --8<-- [start:call]
objective = visualize.unit("blocks.4.2", [3, 5, 8, 12])
rows = [
    visualize.render(model, objective, size=144, steps=STEPS, preset=preset)
    for preset in ("unregularised", "transforms", "fourier", "distill")
]
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
gap = 6
framed = [torch.nn.functional.pad(picture.pixels, (0, gap, 0, gap), value=1.0) for picture in rows]
sheet = torch.cat([torch.cat(list(pixels), 2) for pixels in framed], 1)[:, :-gap, :-gap]
to_image(sheet).quantize().save(folder / "render_classifier.png", optimize=True)
