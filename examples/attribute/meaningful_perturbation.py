"""What has to be blurred for a photograph to lose its class."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.core import blur
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "rocket.jpg")

# --8<-- [start:call]
deletion = attribute.meaningful_perturbation(model, images, l1=1e-3, n_steps=60)  # the paper takes 300 steps

print(deletion, model.label(deletion.target[0]))
print(deletion.score, deletion.extras["perturbed"])  # the probability before, and behind the mask
print(deletion.extras["history"][0, ::20])  # what was minimised
# --8<-- [end:call]

keep = 1 - deletion.heatmap[:, None]
nothing = blur(images, 10.0)
pixels = model.preprocess.pixels(images)
behind = model.preprocess.pixels(keep * images + (1 - keep) * nothing)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure = torch.cat([pixels, behind, report.overlay(pixels, deletion)], 3)
to_image(figure[0]).quantize().save(folder / "meaningful_perturbation.png", optimize=True)
