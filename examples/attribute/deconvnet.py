"""The photograph as DeconvNet hands it back, for the right class and for a wrong one."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:call]
explanation = attribute.deconvnet(model, images)

print(explanation, model.label(explanation.target[0]))
print(explanation.native.shape)  # n c h w: a picture in colour
# --8<-- [end:call]

wrong = attribute.deconvnet(model, images, model.index("goldfish"))
pictures = [0.5 + 0.5 * (each.native / each.native.abs().quantile(0.995)).clamp(-1, 1) for each in (explanation, wrong)]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure = torch.cat([model.preprocess.pixels(images), *pictures], 3)
to_image(figure[0]).quantize().save(folder / "deconvnet.png", optimize=True)
