"""Edit the edges by which a classifier tells two creatures, and see which answers change; random edges change none."""

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glasshouse import data, dissect, zoo

N = int(os.environ.get("GLASSHOUSE_IMAGES", "360"))
model = zoo.load("creatures_cnn")
scenes = data.scenes("creatures", N, seed=1_000_000, labels=False)
images = model.preprocess.normalise(scenes.images)
labelled = list(zip(images, scenes.categories, strict=True))

# --8<-- [start:call]
head = model.module.head.weight.detach()  # 12 classes from 128 units
alka, celto = (model.index(name) for name in ("alka", "celto"))

strongest = head[alka].topk(40).indices.tolist()
cut = dissect.EdgeEdit("head", [alka], strongest, factor=0.0)
without = dissect.edit_effect(model, [cut], labelled)

print(without)  # accuracy before, after, and after random edits of the same size
print(without.drop[alka], without.control_drop[:, alka])
# --8<-- [end:call]

# --8<-- [start:rewrite]
swap = [
    dissect.EdgeEdit("head", [alka], range(128), weights=head[celto]),
    dissect.EdgeEdit("head", [celto], range(128), weights=head[alka]),
]
swapped = dissect.edit_effect(model, swap, labelled)
edited = dissect.edit_circuit(model, swap)  # a model like any other
print(swapped.after[alka, celto], swapped.after[celto, alka])  # each is now taken for the other
# --8<-- [end:rewrite]

# --8<-- [start:inner]
# Between the last two convolutions: from the inputs that add most to what alka is told by, to the units it is told by.
block = model.module.stages[2][0]
wanted = head[alka] - head.mean(0)
gain = block.norm2.weight / (block.norm2.running_var + block.norm2.eps).sqrt()
support = (block.conv2.weight.sum((2, 3)) * (gain * wanted)[:, None]).clamp(min=0).detach()
units = wanted.topk(32).indices.tolist()
inputs = support[units].sum(0).topk(32).indices.tolist()

reverse = dissect.EdgeEdit("stages.2.0.conv2", units, inputs, factor=-1.0)
reversed_ = dissect.edit_effect(model, [reverse], labelled)
# --8<-- [end:inner]
print(reversed_, reversed_.drop[alka], reversed_.control_drop[:, alka])

RED, BLUE, GREY = "#b3261e", "#0b5a8a", "#c8c8c8"
FONT, SMALL, TINY = (ImageFont.load_default(size) for size in (16, 13, 11))
sheet = Image.new("RGB", (1100, 420), "white")
draw = ImageDraw.Draw(sheet)
draw.text((30, 12), "accuracy that each class loses", "#1a1a1a", font=FONT)
draw.text((270, 12), "and by random edits as large", BLUE, font=FONT)
panels = (("40 edges into alka cut", 30, without), ("1024 inner edges reversed", 340, reversed_))
for words, left, effect in panels:
    draw.text((left, 36), words, RED, font=FONT)
    for row, name in enumerate(model.class_names):
        y = 72 + 27 * row
        draw.text((left, y), name, "#1a1a1a", font=SMALL)
        draw.line((left + 50, y - 3, left + 50, y + 20), fill=GREY)
        drops = [effect.drop[row], *effect.control_drop[:, row]]
        for bar, value in enumerate(drops):
            wide = 200 * max(float(value.nan_to_num()), 0.0)
            colour = BLUE if bar else RED
            draw.rectangle((left + 50, y + 5 * bar, left + 51 + wide, y + 5 * bar + 3), fill=colour)
        if drops[0] > 0.1:
            draw.text((left + 58 + 200 * float(drops[0]), y - 6), f"{float(drops[0]):.0%}", RED, font=SMALL)
left = 650
draw.text((left, 12), "what images are taken for", "#1a1a1a", font=FONT)
draw.text((left, 36), "alka and celto exchange their edges", RED, font=FONT)
share = swapped.after / swapped.after.sum(1, keepdim=True).clamp(min=1)
for row, name in enumerate(model.class_names):
    draw.text((left, 76 + 26 * row), name, "#1a1a1a", font=SMALL)
    draw.text((left + 53 + 31 * row, 388), name[:4], "#5a5a5a", font=TINY)
    for column, value in enumerate(share[row].tolist()):
        end = (179, 38, 30) if column != row else (11, 90, 138)
        shade = tuple(round(255 - (255 - part) * value) for part in end)
        x, y = left + 52 + 31 * column, 72 + 26 * row
        draw.rectangle((x, y, x + 29, y + 24), fill=shade, outline="#e6e6e6")
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "edit_circuit.png", optimize=True)

assert not swapped.after[[alka, celto], [alka, celto]].any()  # each goes by the other's name
for effect in (without, reversed_):
    assert effect.after[alka, alka] <= effect.controls[:, alka, alka].min()
