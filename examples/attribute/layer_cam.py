"""The evidence for a class in three layers, and the three maps in one."""

import os
from dataclasses import replace
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
cat = model.index("tiger cat")
layers = ("blocks.2", "blocks.4", "blocks.6")  # 28x28, 14x14 and 7x7 positions
fine, middle, coarse = (attribute.layer_cam(model, images, cat, layer=layer) for layer in layers)

print(fine)
# --8<-- [end:call]

# --8<-- [start:fused]
maps = [each.heatmap for each in (fine, middle, coarse)]
fused = torch.stack([torch.tanh(2 * each / each.amax((1, 2), keepdim=True)) for each in maps]).amax(0)
# --8<-- [end:fused]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
shown = [
    *(report.overlay(pixels, each) for each in (fine, middle, coarse)),
    report.overlay(pixels, replace(fine, heatmap=fused)),
]
figure = torch.cat([pixels, *shown], 3)
to_image(figure[0]).quantize().save(folder / "layer_cam.png", optimize=True)
