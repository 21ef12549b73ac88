"""What in one photograph speaks for each of three classes, made more of."""

import os
from dataclasses import replace
from pathlib import Path

import skimage.data
import torch

from glasshouse import visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "60"))
model = zoo.load("efficientnet_lite0")
photo = Path(skimage.data.__file__).parent / "chelsea.png"
preprocess = replace(model.preprocess, size=(160, 160) if STEPS > 12 else (64, 64))

# --8<-- [start:call]
inputs = preprocess(photo)
objective = visualize.logit(["tiger cat", "lynx", "red fox"])
picture = visualize.accentuate(model, inputs, objective, preprocess=preprocess, steps=STEPS)

print(picture)
print(picture.reference)  # the three scores of the photograph
print((picture.pixels - preprocess.pixels(inputs)).square().mean((1, 2, 3)).sqrt())  # how far pixels were moved
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = torch.cat([preprocess.pixels(inputs)[0], *picture.pixels], 2)
to_image(sheet).save(folder / "accentuate.png", optimize=True)
assert (picture.excess > 0).all()
