"""Which filters of a first layer are one another's rotated copies, in a bank made by hand and in EfficientNet-Lite0."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from glasshouse import dissect, zoo
from glasshouse.dissect import stimuli
from glasshouse.report.picture import to_image

# An edge at four orientations, a line at two, and a spot, out of order.
parts = [stimuli.line(90), stimuli.edge(180), stimuli.edge(0), stimuli.disc(2), stimuli.edge(90), stimuli.line(0)]
parts.append(stimuli.edge(270))
bank = nn.Sequential(nn.Conv2d(1, 7, 7, bias=False), nn.ReLU()).eval()
with torch.no_grad():
    bank[0].weight.copy_(torch.stack([part.pixels((7, 7), channels=1) for part in parts]))
    bank[0].weight -= bank[0].weight.mean((1, 2, 3), keepdim=True)

# --8<-- [start:call]
families = dissect.equivariance(bank, layer="0")

print(families)  # 4 of order 4, 2 of order 2
print(families.members)  # units of each family, in order of their rotation
print(families.between(2, 4))  # how unit 2 has to be changed to become unit 4
# --8<-- [end:call]

# --8<-- [start:tuning]
over = {"orientation": range(0, 360, 15)}
tuning = dissect.tuning_curves(bank, "edge", over, layer="1", size=7, channels=1)
print(tuning.families(threshold=0.95).members)  # the same from what the units answer to: any layer will do
# --8<-- [end:tuning]

model = zoo.load("efficientnet_lite0")
found = dissect.equivariance(model, layer="stem.conv", angles=range(0, 360, 45), threshold=0.8)
print(found)

assert [families.order(family) for family in range(2)] == [4, 2]
assert [set(units) for units in families.members] == [{1, 2, 4, 6}, {0, 5}]
assert families.between(2, 4)["degrees"] == 90
assert {1, 2, 4, 6} <= set(tuning.families(threshold=0.95).members[0])

CELL, font = 56, ImageFont.load_default(12)
weight = model.module.get_submodule("stem.conv").weight.detach()
groups = [("made by hand", units, families, bank[0].weight.detach()) for units in families.members]
groups += [("EfficientNet-Lite0, stem", units, found, weight) for units in found.members[:5]]
sheet = Image.new("RGB", (200 + CELL * max(len(group[1]) for group in groups), (CELL + 20) * len(groups)), "#dddddd")
pen = ImageDraw.Draw(sheet)
for place, (title, units, of, kernels) in enumerate(groups):
    top = place * (CELL + 20)
    pen.text((6, top + 22), title, fill="black", font=font)
    for column, unit in enumerate(units):
        kernel = kernels[unit]
        pixels = 0.5 + kernel / (2 * kernel.abs().max())
        tile = to_image(pixels).resize((CELL - 6, CELL - 6), Image.Resampling.NEAREST)
        sheet.paste(tile, (200 + column * CELL, top + 2))
        row = of.units.tolist().index(unit)
        mark = f"{float(of.phase[row]):.0f}°" + (" m" if of.flipped[row] else "") + (" n" if of.sign[row] < 0 else "")
        pen.text((200 + column * CELL, top + CELL), mark, fill="black", font=font)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "equivariance.png", optimize=True)
