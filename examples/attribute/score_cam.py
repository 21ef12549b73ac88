"""Units weighted by the score of the photograph seen through each of them alone."""

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
of_cat = attribute.score_cam(model, images, model.index("tiger cat"), top_k=32)  # top_k=None takes all 1280
of_cup = attribute.score_cam(model, images, model.index("espresso"), top_k=32)

print(of_cat)
print(of_cat.extras["weight"].topk(3))  # how much of the map is that of the heaviest units
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, of_cat), report.overlay(pixels, of_cup)], 3)
to_image(figure[0]).quantize().save(folder / "score_cam.png", optimize=True)
