"""Which pixels the model's decision is most sensitive to."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
explanation = attribute.saliency(model, images)

print(explanation, model.label(explanation.target[0]))
print(explanation.heatmap.shape)  # n h w: the largest absolute gradient of the three colours
print(explanation.native.shape)  # n c h w: the gradient itself
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "saliency.png", optimize=True)
