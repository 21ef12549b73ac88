"""What each position of the last layer adds to the scores of two classes, with its sign."""

import os
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
cat, cup = skimage.data.chelsea()[:225], skimage.data.coffee()[60:285, 75:526]
images = model.preprocess(Image.fromarray(np.vstack([cat, cup])))

# --8<-- [start:call]
of_cat = attribute.linear_approximation(model, images, model.index("tiger cat"))
of_cup = attribute.linear_approximation(model, images, model.index("espresso"))

print(of_cat)
total, rest = float(of_cat.native.sum()), float(of_cat.extras["rest"])
print(f"positions {total:.3f} + rest {rest:.3f} = score {float(of_cat.score):.3f}")
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, of_cat), report.overlay(pixels, of_cup)], 3)
to_image(figure[0]).quantize().save(folder / "linear_approximation.png", optimize=True)
