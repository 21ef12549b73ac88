"""Grad-CAM in five lines, and the same from one call."""

from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, zoo
from glasshouse.core import probe

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:by_hand]
with probe(model.module, "head") as seen:
    score = model(images).amax(1)  # the logit of each image's first class
maps = seen["head"]  # n k i j
(gradient,) = torch.autograd.grad(score.sum(), maps)
weights = gradient.mean((2, 3), keepdim=True)  # one per unit
heatmap = (weights * maps).sum(1).relu().detach()
# --8<-- [end:by_hand]

called = attribute.grad_cam(model, images, layer="head")
torch.testing.assert_close(called.native, heatmap, rtol=1e-3, atol=1e-3)
