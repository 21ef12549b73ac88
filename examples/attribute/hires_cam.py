"""What each position of a layer adds to the score, beside what Grad-CAM makes of the same layer."""

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
cup = model.index("espresso")
averaged = attribute.grad_cam(model, images, cup, layer="blocks.6", relu=False)
explanation = attribute.hires_cam(model, images, cup, layer="blocks.6")

print(explanation)
print(explanation.native.sum(), explanation.score)  # what the layer adds, were the rest linear; the score
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, averaged), report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "hires_cam.png", optimize=True)
