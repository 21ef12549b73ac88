"""Which regions of the photograph speak for one class and for another, by linear models around it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
cat, cup = skimage.data.chelsea()[:225], skimage.data.coffee()[60:285, 75:526]
images = model.preprocess(Image.fromarray(np.vstack([cat, cup])))

# --8<-- [start:call]
both = [model.index("tiger cat"), model.index("espresso")]
explanation = attribute.lime(model, images, both[0], classes=both, n_samples=400, score="logit")

print(explanation, f"the linear model follows {float(explanation.extras['r2'][0]):.0%} of the changes")
print(explanation.extras["regions"].max() + 1, "regions")
of_cat, of_cup = explanation.extras["classes"][0]  # h w each, from the same 400 images
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels, labels = model.preprocess.pixels(images), explanation.extras["regions"]
cut = pixels.clone()
cut[:, :, 1:][(labels[:, 1:] != labels[:, :-1])[:, None].expand(-1, 3, -1, -1)] = 1.0
cut[:, :, :, 1:][(labels[..., 1:] != labels[..., :-1])[:, None].expand(-1, 3, -1, -1)] = 1.0
maps = [report.overlay(pixels, replace(explanation, heatmap=heat[None])) for heat in (of_cat, of_cup)]
to_image(torch.cat([cut, *maps], 3)[0]).quantize().save(folder / "lime.png", optimize=True)
