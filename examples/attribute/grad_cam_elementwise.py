"""What speaks for a class at each position, with and without what speaks against it."""

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
both = attribute.hires_cam(model, images, cup, layer="blocks.6")
explanation = attribute.grad_cam_elementwise(model, images, cup, layer="blocks.6")

print(explanation)
print((explanation.native >= both.native).all())  # nothing is taken off
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, both), report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "grad_cam_elementwise.png", optimize=True)
