"""What each pixel adds on the way from other photographs, instead of from a grey image."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
folder = Path(skimage.data.__file__).parent
images = model.preprocess(folder / "chelsea.png")

# --8<-- [start:call]
others = [folder / name for name in ("astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg", "motorcycle_left.png")]
explanation = attribute.expected_gradients(model, images, baselines=model.preprocess(others), n_samples=60)

print(explanation, model.label(explanation.target[0]))
print(float(explanation.extras["gap"][0]))  # by how much the sum misses the change of the score, as a share
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
grey = attribute.integrated_gradients(model, images)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, grey), report.overlay(pixels, explanation)], 3)
to_image(figure[0]).quantize().save(folder / "expected_gradients.png", optimize=True)
