"""The probability of a class, seen through random masks: as in the paper, and with its mean taken away."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
settings = {"n_masks": 400, "classes": [model.index("espresso"), model.index("cup")]}
paper = attribute.rise(model, images, **settings)
centered = attribute.rise(model, images, estimator="centered", **settings)

for explanation in (paper, centered):
    noise = explanation.extras["stderr"].square().mean().sqrt() / explanation.heatmap.std()
    print(explanation, f"noise is {noise:.0%} of what the map shows")
print(centered.extras["classes"].shape)  # n classes h w: further classes, from the same passes
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, paper), report.overlay(pixels, centered)], 3)
to_image(figure[0]).quantize().save(folder / "rise.png", optimize=True)
