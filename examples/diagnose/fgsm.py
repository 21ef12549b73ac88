"""A photograph whose class is lost by one step of 2/255 that nobody sees."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import diagnose, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
attacked = diagnose.fgsm(model, images, epsilon=2 / 255)

print(attacked)
print(model.label(int(attacked.before)), "→", model.label(int(attacked.after)))
# --8<-- [end:call]

pixels, changed = model.preprocess.pixels(images), model.preprocess.pixels(attacked.images)
print(f"no pixel moved by more than {255 * float((changed - pixels).abs().max()):.2f} of 255 levels")

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure = torch.cat([pixels, 0.5 + 60 * (changed - pixels), changed], 3).clamp(0, 1)
to_image(figure[0]).quantize().save(folder / "fgsm.png", optimize=True)
