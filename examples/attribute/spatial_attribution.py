"""What each position of a layer halfway up adds to the score: at the image itself, and on the way to it."""

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
target = model.index("tiger cat")

# --8<-- [start:call]
here = attribute.spatial_attribution(model, images, target, layer="blocks.4")
path = attribute.spatial_attribution(model, images, target, layer="blocks.4", path="ig", n_steps=30)

print(here)
print(f"positions {float(here.native.sum()):.2f}, rest {float(here.extras['rest']):.2f}: score {float(here.score):.2f}")
print(f"along the path: positions {float(path.native.sum()):.2f}, rest {float(path.extras['rest']):.2f}")
# --8<-- [end:call]

# --8<-- [start:layers]
between = attribute.layer_attribution(model, images, source="blocks.3", to="blocks.5", positions=[(2, 4), (5, 2)])
print(between)
print(between.maps().shape)  # n p i j: what each position of blocks.3 adds to the two positions of blocks.5
# --8<-- [end:layers]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, here), report.overlay(pixels, path)], 3)
to_image(figure[0]).quantize().save(folder / "spatial_attribution.png", optimize=True)
