"""Units weighted by what the score loses when each is switched off."""

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
of_cat = attribute.ablation_cam(model, images, model.index("tiger cat"))
of_cup = attribute.ablation_cam(model, images, model.index("espresso"))

print(of_cat)
print(of_cat.extras["weight"].topk(3))  # the units that the score needs most, as shares of it
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, of_cat), report.overlay(pixels, of_cup)], 3)
to_image(figure[0]).quantize().save(folder / "ablation_cam.png", optimize=True)
