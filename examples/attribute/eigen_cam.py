"""The strongest pattern of a layer, which is the same for every class."""

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
explanation = attribute.eigen_cam(model, images, layer="blocks.6")
centred = attribute.eigen_cam(model, images, layer="blocks.6", center=True)

print(explanation)
other = attribute.eigen_cam(model, images, model.index("espresso"), layer="blocks.6")
print(torch.equal(explanation.native, other.native))  # True: the class plays no part
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, explanation), report.overlay(pixels, centred)], 3)
to_image(figure[0]).quantize().save(folder / "eigen_cam.png", optimize=True)
