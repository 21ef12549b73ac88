"""What two layers of EfficientNet-Lite0 find in a photograph and put into it, and what a guide has them put."""

import os
from dataclasses import replace
from pathlib import Path

import skimage.data
import torch

from glasshouse import visualize, zoo
from glasshouse.report.picture import to_image

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "40")) // 4
SIZE = (216, 324) if STEPS >= 10 else (72, 108)
model = zoo.load("efficientnet_lite0")
photo = Path(skimage.data.__file__).parent / "chelsea.png"
preprocess = replace(model.preprocess, size=SIZE, crop_pct=1.0)  # larger than the model's input, and not square

# --8<-- [start:call]
inputs = preprocess(photo)
picture = visualize.dream(model, inputs, layer="blocks.4.2", octaves=4, octave_scale=1.4, steps=STEPS)

print(picture)
print(picture.excess / picture.reference)  # how much more of the layer's energy than the photograph had
picture.photos()[0]  # a PIL image
# --8<-- [end:call]

early = visualize.dream(model, inputs, layer="blocks.2.1", steps=STEPS)

# --8<-- [start:guide]
guide = preprocess(Path(skimage.data.__file__).parent / "coffee.png")
guided = visualize.dream(model, inputs, layer="blocks.3.2", guide=guide, steps=STEPS)
# --8<-- [end:guide]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
rows = [[preprocess.pixels(inputs), early.pixels], [picture.pixels, guided.pixels]]
to_image(torch.cat([torch.cat(row, 3) for row in rows], 2)[0]).quantize().save(folder / "dream.png", optimize=True)
assert all((one.excess > 0).all() for one in (picture, guided, early))
