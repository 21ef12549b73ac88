"""What a layer says at four places of a photograph: its strongest units there, as pictures of what they look for."""

import os
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import dissect, visualize, zoo
from glasshouse.report.attributions import AGAINST, FOR
from glasshouse.report.picture import to_image

STEPS, SIDE, SMALL, GAP = int(os.environ.get("GLASSHOUSE_STEPS", "64")), 392, 80, 14
model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")
cat = model.index("tiger cat")

# --8<-- [start:call]
found = dissect.semantic_dictionary(model, images, cat, layer="blocks.4.2.expand", k=4)

print(found)
for word in found.at(0, 4, 9):  # image, row and column on the layer's grid
    print(f"unit {word.unit}: {word.value:.2f}, {word.share:.1%} of the activation, adds {word.attribution:+.4f}")
print(found.boxes[4, 9])  # the pixels that this position sees
# --8<-- [end:call]

places = [(0, 4, 9), (0, 5, 4), (0, 8, 6), (0, 12, 2)]

# --8<-- [start:icons]
wanted = found.vocabulary(places)  # the units that pictures are needed of
drawn = visualize.render(model, visualize.unit(found.layer, list(wanted)), size=SMALL, steps=STEPS)
icons = dict(zip(wanted, drawn.pixels, strict=True))
strip = found.strip(places[0], icons, size=SMALL)  # c s w: the larger, the more active
# --8<-- [end:icons]
assert strip.shape == (3, SMALL, 4 * SMALL + 3 * 4)

sheet = Image.new("RGB", (SIDE + 60 + 4 * (SMALL + 4), SIDE + GAP), "white")
pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
sheet.paste(to_image(model.preprocess.pixels(images)[0]).resize((SIDE, SIDE)), (0, GAP // 2))
cell = SIDE / found.units.shape[2]
for number, place in enumerate(places):
    _, row, column = place
    top, left = number * (SMALL + GAP + 6), SIDE + 60
    x, y = column * cell, GAP // 2 + row * cell
    pen.rectangle((x, y, x + cell, y + cell), outline="#ffd400", width=3)
    pen.text((x + cell + 4, y + cell / 2), "abcd"[number], "#ffd400", ImageFont.load_default(22), anchor="lm")
    pen.text((SIDE + 26, top + SMALL / 2), "abcd"[number], "#1a1a1a", ImageFont.load_default(22), anchor="lm")
    sheet.paste(to_image(found.strip(place, icons, size=SMALL)), (left, top))
    for rank, word in enumerate(found.at(*place)):
        colour = FOR if word.attribution >= 0 else AGAINST
        middle = (left + rank * (SMALL + 4) + SMALL / 2, top + SMALL + 8)
        pen.text(middle, f"{1000 * word.attribution:+.1f}", colour, font, anchor="mm")
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(out / "semantic_dictionary.png", optimize=True)
assert torch.equal(found.values, found.values.sort(1, descending=True).values)
