"""One photograph, two classes, and what each class activation map makes of them at the same layer."""

import os
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
cat, cup = skimage.data.chelsea()[:225], skimage.data.coffee()[60:285, 75:526]
images = model.preprocess(Image.fromarray(np.vstack([cat, cup])))
classes = model.index("tiger cat"), model.index("espresso")

# --8<-- [start:call]
methods = (
    attribute.grad_cam,
    attribute.grad_cam_pp,
    attribute.layer_cam,
    attribute.xgrad_cam,
    attribute.hires_cam,
    attribute.ablation_cam,
    attribute.eigen_cam,
)
maps = {each.__name__: [each(model, images, c, layer="blocks.6") for c in classes] for each in methods}

for name, (of_cat, of_cup) in maps.items():
    both = torch.stack([of_cat.native.flatten(), of_cup.native.flatten()])
    print(f"{name}: the maps of the two classes correlate by {torch.corrcoef(both)[0, 1]:.2f}")
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
columns = [torch.cat([report.overlay(pixels, each)[0] for each in pair], 1) for pair in maps.values()]
figure = to_image(torch.cat([torch.cat([pixels[0], pixels[0]], 1), *columns], 2))
side, page = pixels.shape[-1], Image.new("RGB", (figure.width, figure.height + 32), "white")
page.paste(figure, (0, 32))
for column, name in enumerate(["photograph", *maps]):
    place = (side * column + side // 2, 16)
    ImageDraw.Draw(page).text(place, name, "black", ImageFont.load_default(22), anchor="mm")
page.resize((page.width // 2, page.height // 2)).quantize().save(folder / "cam_family.png", optimize=True)
