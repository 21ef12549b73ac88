"""What each pixel adds compared with a grey and with a blurred image, operation by operation."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.core import blur
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
grey = attribute.deep_lift(model, images)
blurred = attribute.deep_lift(model, images, grey.target, baselines=blur(images, sigma=12.0))

print(grey, model.label(grey.target[0]))
print(grey.extras["gap"], blurred.extras["gap"])  # rounding: every operation is accounted for
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, grey), report.overlay(pixels, blurred)], 3)
to_image(figure[0]).quantize().save(folder / "deep_lift.png", optimize=True)
