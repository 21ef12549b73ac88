"""A photograph as three layers of EfficientNet-Lite0 see it, exaggerated."""

import os
from dataclasses import replace
from pathlib import Path

import skimage.data
import torch

from glasshouse import visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "128"))
model = zoo.load("efficientnet_lite0")
photo = Path(skimage.data.__file__).parent / "chelsea.png"
preprocess = replace(model.preprocess, size=(160, 160) if STEPS > 12 else (64, 64))

# --8<-- [start:call]
inputs = preprocess(photo)
pictures = [
    visualize.caricature(model, inputs, layer=layer, preprocess=preprocess, steps=STEPS)
    for layer in ("blocks.2.1", "blocks.3.2", "blocks.4.2")
]
print(pictures)
print([float(picture.activation / picture.reference) for picture in pictures])  # 1 is the photograph itself
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = torch.cat([preprocess.pixels(inputs), *(picture.pixels for picture in pictures)], 3)
to_image(sheet[0]).save(folder / "caricature.png", optimize=True)
assert all(picture.history[0, -1] > picture.history[0, 0] for picture in pictures)
