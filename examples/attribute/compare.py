"""Three methods about two classes of one photograph, for the price of little more than one question."""

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
classes = [model.index("tiger cat"), model.index("espresso")]
found = attribute.compare(
    model,
    images,
    methods=["grad_cam", "integrated_gradients", "occlusion"],
    targets=classes,
    settings={"occlusion": {"sliding_window_shapes": 48, "strides": 24}},
)
of_cat, of_cup = found["grad_cam"]

print(found)
print(found.passes)  # images that went through the network, and answers that were shared
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
rows = [
    torch.cat([pixels, *(report.overlay(pixels, found[name][number]) for name in found.explanations)], 3)
    for number in range(2)
]
to_image(torch.cat(rows, 2)[0]).quantize().save(folder / "compare.png", optimize=True)
