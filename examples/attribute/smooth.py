"""The gradient, averaged over noisy copies of the photograph."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
explanation = attribute.smooth(model, images, of="saliency", n_samples=25)

print(explanation, model.label(explanation.target[0]))
print(explanation.extras["stderr"].shape)  # how uncertain each value still is
# --8<-- [end:call]

plain = attribute.saliency(model, images)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, plain), report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "smooth.png", optimize=True)
