"""What four layers of the houses classifier have kept of six scenes, and what goes when four units are switched off."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F

from glasshouse import data, visualize, zoo
from glasshouse.core import ablate, probe
from glasshouse.report.scenes import contact_sheet, stack_sheets

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "400"))
LAYERS = ("stem", "stages.0", "stages.2", "flatten")
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", 6, seed=0, size=64)
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
found = visualize.invert(model, images, layer=LAYERS, weight=(300, 100, 100, 20), steps=STEPS)

print(found)
print(found["stages.0"].shape)  # n c h w: pixels whose features at this layer are nearly those of the images
print(found.residual.mean(1))  # |Φ(x) - Φ0| / |Φ0| of each layer
print(found.error.mean(1))  # the same over the mean distance of two of the images: about 1 for one of the others
# --8<-- [end:call]


def greenness(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[:, 1] - pixels[:, [0, 2]].mean(1)


with torch.no_grad(), probe(model.module, "stages.0") as seen:
    model(images)
units = seen["stages.0"].transpose(0, 1).flatten(1)
green = greenness(F.interpolate(scenes.images, size=seen["stages.0"].shape[2:], mode="area")).flatten()
follows = torch.corrcoef(torch.cat([units, green[None]]))[-1, :-1].nan_to_num()
followers, strangers = follows.topk(4).indices.tolist(), follows.abs().topk(4, largest=False).indices.tolist()

# --8<-- [start:change]
without = visualize.invert(model, images, layer="stages.0", weight=100, steps=STEPS, change=ablate(followers))
control = visualize.invert(model, images, layer="stages.0", weight=100, steps=STEPS, change=ablate(strangers))
print(without.residual.mean(), control.residual.mean())  # no image has such features: the search ends near them
# --8<-- [end:change]

grass = greenness(scenes.images) > 0.1
losses = [float((greenness(found["stages.0"]) - greenness(one.pixels[0]))[grass].mean()) for one in (without, control)]
print(f"green lost where it was green: {losses[0]:.3f} without the four that follow it, {losses[1]:.3f} without others")

headings = ["images"]
headings += [
    f"from {name}: features off by {off:.0%}" for name, off in zip(LAYERS, found.residual.mean(1), strict=True)
]
headings += [f"from stages.0 without units {followers}, which follow green", f"without units {strangers}, which do not"]
rows = torch.cat([scenes.images[None], found.pixels, without.pixels, control.pixels])
sheets = [contact_sheet(F.interpolate(row, scale_factor=1.75), across=6) for row in rows]
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
stack_sheets(sheets, headings).quantize().save(folder / "invert.png", optimize=True)

assert (found.history[:, :, -1] < found.history[:, :, 0]).all()
if STEPS >= 100:
    off = (found.pixels - scenes.images).square().mean((1, 2, 3, 4))
    assert off[0] < off[1] < off[2]  # deeper layers say less of the pixels, and the green goes with its units
    assert losses[0] > 3 * abs(losses[1])
