"""Which units of an inner layer speak for each of two classes, and pictures drawn of what these units look for."""

import os
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, report, visualize, zoo
from glasshouse.core import probe
from glasshouse.report.attributions import FOR
from glasshouse.report.picture import to_image

STEPS, SIDE, SMALL, GAP = int(os.environ.get("GLASSHOUSE_STEPS", "80")), 224, 128, 16
model = zoo.load("efficientnet_lite0")
cat, cup = skimage.data.chelsea()[:225], skimage.data.coffee()[60:285, 75:526]
images = model.preprocess(Image.fromarray(np.vstack([cat, cup])))

# --8<-- [start:call]
settings = {"layer": "blocks.5.0", "path": "ig", "n_steps": 16}
of_cat = attribute.channel_attribution(model, images, model.index("tiger cat"), **settings)
of_cup = attribute.channel_attribution(model, images, model.index("espresso"), **settings)

print(of_cat)
print(of_cat.top(4)[0], of_cup.top(4)[0])  # numbers of the units that add most
# --8<-- [end:call]

# --8<-- [start:groups]
with probe(model.module, "blocks.5.0") as seen, torch.no_grad():
    model.module(images)
upper, lower = seen["blocks.5.0"][0].split([3, 4], 1)  # rows of the cat, rows of the cup
directions = torch.stack([upper.mean((1, 2)), lower.mean((1, 2))], 1)  # what the units do there on average
groups = attribute.group_attribution(model, images, model.index("tiger cat"), groups=directions, **settings)

print(groups.values, groups.extras["residual"])  # what both directions add, and what they leave out
# --8<-- [end:groups]

sheet = Image.new("RGB", (SIDE + 4 * (SMALL + GAP), 2 * SIDE + GAP), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
pixels = model.preprocess.pixels(images)
for row, (found, name) in enumerate(((of_cat, "tiger cat"), (of_cup, "espresso"))):
    top, best = row * (SIDE + GAP), found.top(4)[0].tolist()
    where = attribute.spatial_attribution(model, images, found.target, **settings)
    sheet.paste(to_image(report.overlay(pixels, where)[0]), (0, top))
    drawn = visualize.render(model, visualize.unit(found.layer, best), size=SMALL, steps=STEPS)
    for column, unit in enumerate(best):
        left, share = SIDE + GAP + column * (SMALL + GAP), float(found.values[0, unit] / found.values.max())
        sheet.paste(to_image(drawn.pixels[column]), (left, top + 40))
        draw.rectangle((left, top + 176, left + round((SMALL - 1) * share), top + 186), fill=FOR)
        draw.text((left, top + 192), f"unit {unit}: {float(found.values[0, unit]):+.2f}", "#1a1a1a", font)
    draw.text((SIDE + GAP, top + 12), f"{name}: score {float(found.score[0]):.2f}", "#1a1a1a", font)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "channel_attribution.png", optimize=True)
