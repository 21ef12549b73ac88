"""What each pixel adds to the score, were the model linear around the photograph."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
explanation = attribute.input_x_gradient(model, images)

print(explanation, model.label(explanation.target[0]))
print(float(explanation.heatmap.sum()), "of a logit of", float(explanation.score[0]))
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "input_x_gradient.png", optimize=True)
