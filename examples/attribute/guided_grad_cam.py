"""The fine picture of guided backprop, cut out where Grad-CAM finds the class."""

import os
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from glasshouse import attribute, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
cat, cup = skimage.data.chelsea()[:225], skimage.data.coffee()[60:285, 75:526]
images = model.preprocess(Image.fromarray(np.vstack([cat, cup])))

# --8<-- [start:call]
of_cat = attribute.guided_grad_cam(model, images, model.index("tiger cat"))
of_cup = attribute.guided_grad_cam(model, images, model.index("espresso"))

print(of_cat)
print(of_cat.native.shape)  # n c h w: a picture in colour
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
values = [each.native / each.native.abs().quantile(0.995) for each in (of_cat, of_cup)]
figure = torch.cat([pixels, *(0.5 + 0.5 * each.clamp(-1, 1) for each in values)], 3)
to_image(figure[0]).quantize().save(folder / "guided_grad_cam.png", optimize=True)
