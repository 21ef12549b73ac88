"""Photographs that excite one unit, turned: how the response passes from unit to unit of a family."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from glasshouse import data, dissect
from glasshouse.dissect import stimuli

n_images, n_angles = int(os.environ.get("GLASSHOUSE_IMAGES", "60")), 24
pixels = data.scenes("houses", n_images, seed=0).images.mean(1, keepdim=True)

# Eight edge filters of one shape, set by hand, on rendered scenes.
net = nn.Sequential(nn.Conv2d(1, 8, 11, bias=False), nn.ReLU()).eval()
with torch.no_grad():
    for unit in range(8):
        window = stimuli.gabor(45 * unit, 0.07, 90, sigma=2.5).pixels((11, 11), channels=1)
        net[0].weight[unit] = window - window.mean()

# --8<-- [start:call]
seen = dissect.exemplars(net, pixels, layer="1", k=6)
joint = dissect.joint_tuning(net, pixels, seen, unit=0, n_angles=n_angles)

print(joint)
print(joint.offset)  # degrees by which images must be turned for each unit
print(joint.likeness)  # how much its curve has the shape of the first one's
# --8<-- [end:call]

gaps = (joint.offset - 45 * torch.arange(8)).remainder(360)
assert (torch.minimum(gaps, 360 - gaps) <= 30).all()

W, H, font = 660, 240, ImageFont.load_default(13)
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#555555")
sheet = Image.new("RGB", (W, H), "white")
pen, top = ImageDraw.Draw(sheet), float(joint.mean.max())
for row, colour in enumerate(COLOURS):
    xs = [20 + (W - 40) * angle / n_angles for angle in range(n_angles + 1)]
    ys = [H - 50 - (H - 90) * float(joint.mean[row, angle % n_angles]) / top for angle in range(n_angles + 1)]
    pen.line(list(zip(xs, ys, strict=True)), fill=colour, width=2, joint="curve")
    pen.text((20 + row * 80, H - 22), f"unit {row}: {float(joint.offset[row]):.0f}°", fill=colour, font=font)
pen.line([(20, H - 49), (W - 20, H - 49)], fill="#888888")
for degrees in range(0, 361, 90):
    pen.text((12 + (W - 40) * degrees / 360, H - 44), f"{degrees}°", fill="black", font=font)
title = "Mean responses while the images that excite unit 0 are turned, and the shift found for each unit"
pen.text((20, 8), title, fill="black", font=font)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "joint_tuning.png", optimize=True)
