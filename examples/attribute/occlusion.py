"""How far the probability falls when a patch of the photograph is covered."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
explanation = attribute.occlusion(model, images, sliding_window_shapes=48, strides=16)

print(explanation, model.label(explanation.target[0]))
print(explanation.extras["grid"].shape)  # n rows columns: the fall for each patch
print(explanation.extras["work"])  # the share of a pass that a patch cost, as only what it changes is computed
best = explanation.extras["top"][0].unique()  # every class that wins under some patch
print([model.label(int(index)) for index in best])
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "occlusion.png", optimize=True)
