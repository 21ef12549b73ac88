"""Which pixels the score came from, under three presets, and how much of it biases kept."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
explanation = attribute.lrp(model, images, preset="epsilon_plus_flat")

print(explanation, model.label(explanation.target[0]))
print(explanation.native.sum(), explanation.extras["absorbed"])  # together the score

books = attribute.conservation(model, images, preset="epsilon_plus_flat")
print(books)
keeper = int(books.bias.abs().argmax())
print("most is kept in", books.layers[keeper], books.bias[keeper])
# --8<-- [end:call]

others = [attribute.lrp(model, images, preset=preset) for preset in ("epsilon_alpha2_beta1", "epsilon")]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, *(report.overlay(pixels, each) for each in (explanation, *others))], 3)
to_image(figure[0]).quantize().save(folder / "lrp.png", optimize=True)
