"""Six groups in place of 1280 units: where each is active in three photographs, what it looks for, what it adds."""

import os
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, dissect, visualize, zoo
from glasshouse.report.picture import to_image

STEPS, SIDE, GAP = int(os.environ.get("GLASSHOUSE_STEPS", "64")), 128, 8
model = zoo.load("efficientnet_lite0")
folder = Path(skimage.data.__file__).parent
images = model.preprocess([folder / name for name in ("chelsea.png", "coffee.png", "astronaut.png")])
pixels = model.preprocess.pixels(images)

# --8<-- [start:call]
activations = dissect.activations(model, images, layer="head")
found = dissect.neuron_groups(activations, 6)

print(found)
print(found.share)  # of all activation, that each group accounts for
print(found.maps.shape, found.directions.shape)  # n g i j, g u
# --8<-- [end:call]

# --8<-- [start:effect]
cup = model.index("espresso")
effect = attribute.group_attribution(
    model, images, cup, groups=found.directions.T, strengths=found.maps, layer=found.layer
)
print(effect.values[1])  # what each group adds to "espresso" in the second photograph
print(effect.extras["residual"][1], effect.score[1])  # what all of them leave out, and the score
# --8<-- [end:effect]

# --8<-- [start:new]
again = found.transform(activations.rows(slice(1, 2)))  # of any maps of this layer: how strong each group is
one = dissect.neuron_groups(activations.rows(slice(1, 2)), 4)  # groups of a single image
# --8<-- [end:new]
torch.testing.assert_close(again, found.maps[1:2], atol=1e-3, rtol=1e-2)

size = images.shape[-2:]
strengths = F.interpolate(found.maps / found.maps.amax((0, 2, 3), keepdim=True), size=size, mode="bicubic").clamp(0, 1)
painted = F.interpolate(found.painted(), size=size, mode="bicubic").clamp(0, 1)
mixed = (0.45 * pixels.mean(1, keepdim=True) + 0.9 * painted).clamp(0, 1)
drawn = visualize.render(model, visualize.direction(found.layer, found.directions), size=SIDE, steps=STEPS)

sheet = Image.new("RGB", (8 * (SIDE + GAP) - GAP, 4 * (SIDE + GAP) + 52), "white")
pen, font, step = ImageDraw.Draw(sheet), ImageFont.load_default(14), SIDE + GAP
for group, colour in enumerate(found.colours.tolist()):
    left = (group + 2) * step
    sheet.paste(to_image(drawn.pixels[group]), (left, 0))
    pen.rectangle((left, SIDE, left + SIDE - 1, SIDE + 6), fill=tuple(round(225 * part) for part in colour))
    pen.text((left, SIDE + 12), f"{found.share[group]:.0%} of all", "#1a1a1a", font)
    pen.text((left, SIDE + 31), f"espresso {round(float(effect.values[1, group]), 1) + 0.0:+.1f}", "#1a1a1a", font)
for row, photo in enumerate(pixels):
    lit = torch.lerp(torch.tensor(0.94), photo, 0.06 + 0.94 * strengths[row][:, None])
    for column, tile in enumerate([photo, mixed[row], *lit]):
        sheet.paste(to_image(tile).resize((SIDE, SIDE)), (column * step, SIDE + 60 + row * step))
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
palette = sheet.quantize(method=Image.Quantize.FASTOCTREE)  # keeps rare colours, such as those of the groups
sheet.quantize(palette=palette).save(out / "neuron_groups.png", optimize=True)

# Behind this layer all is linear: groups, what they leave out, and the bias make up the score.
whole = effect.values.sum(1) + effect.extras["residual"] + model.module.get_parameter("classifier.bias")[cup].item()
torch.testing.assert_close(whole, effect.score, atol=1e-3, rtol=1e-3)
assert found.explained > 0.4
