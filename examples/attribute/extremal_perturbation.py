"""Which tenth of the photograph is enough for the class? One smooth mask for each area."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
explanation = attribute.extremal_perturbation(
    model,
    images,
    areas=(0.05, 0.15),
    n_steps=100,  # the paper takes 800 steps of 0.01
    learning_rate=0.08,
)

print(explanation, model.label(explanation.target[0]))
print(explanation.extras["masks"].shape)  # n a h w: one mask for each area
print(explanation.score, explanation.extras["reward"])  # of the whole photograph, and of what each mask shows
print(explanation.extras["area"])  # reached: close to what was asked for, or more steps are needed
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
shown = [pixels * (0.12 + 0.88 * mask) for mask in explanation.extras["masks"][0]]
figure = torch.cat([pixels, *shown, report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "extremal_perturbation.png", optimize=True)
