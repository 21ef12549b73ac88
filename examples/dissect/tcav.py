"""Which concepts raise which class: derivatives along concept vectors, with an error for each."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from glasshouse import data, dissect, zoo

model = zoo.load("houses_cnn")
n = min(400, 6 * int(os.environ.get("GLASSHOUSE_IMAGES", 70)))
world = data.inputs(data.with_labels(data.scenes("houses", n, seed=3, size=64)), model.preprocess)
others = data.inputs(data.scenes("houses", 120, seed=9, size=64), model.preprocess)
items = [others[index] for index in range(len(others))]
images, target = torch.stack([item["image"] for item in items]), torch.tensor([int(item["target"]) for item in items])

# --8<-- [start:call]
kept = dissect.activations(model, world, label_size=(32, 32))
concepts = ["house", "church", "tower", "car", "tree", "lamp", "fence", "cloud", "red-c"]
found = dissect.tcav(model, images, target, kept, concepts, pooling="mean")

print(found)
for concept, accuracy, told in zip(found.concepts, found.runs.accuracy.mean(1), found.told, strict=True):
    print(f"{concept:7} classifier {accuracy:.2f}{'' if told else ', at chance: says nothing'}")
print(found.score)  # c k: share of the class's images whose logit rises along the concept
print(found.slope, found.error)  # by how much, and the standard error
print(found.p_values())  # for "the derivative is 0"; NaN at chance
# --8<-- [end:call]

# --8<-- [start:published]
both = found.significant().sum(), found.significant(test="runs").sum()
# --8<-- [end:published]
print(both)

places = {name: row for row, name in enumerate(found.concepts)}
for name in set(places) & {"house", "church", "tower", "car", "tree", "lamp", "fence"}:
    named = torch.tensor([name in model.label(k).split(" and ") for k in found.classes])
    rises = found.slope[places[name]]
    assert rises[named].min() > rises[~named].max()  # it raises the classes that are named for it most
assert not set(places) & {"red-c"} or not found.significant()[places["red-c"]].any()

SIDE, LEFT, TOP = 44, 90, 150
bound = float(found.slope.abs().max())
sheet = Image.new("RGB", (LEFT + SIDE * len(found.classes), TOP + SIDE * len(places)), "white")
pen = ImageDraw.Draw(sheet)
for column, k in enumerate(found.classes):
    label = Image.new("RGB", (TOP, SIDE), "white")
    ImageDraw.Draw(label).text((6, SIDE // 2 - 6), model.label(k), "black", font_size=13)
    sheet.paste(label.rotate(90, expand=True), (LEFT + SIDE * column, 0))
for name, row in places.items():
    pen.text((8, TOP + SIDE * row + SIDE // 2 - 8), name, "black", font_size=14)
    for column in range(len(found.classes)):
        corner = (LEFT + SIDE * column, TOP + SIDE * row)
        box = (*corner, corner[0] + SIDE - 2, corner[1] + SIDE - 2)
        if not found.told[row]:
            pen.rectangle(box, "#eeeeee")
            continue
        share = float(found.slope[row, column]) / bound
        fade = round(255 * (1 - abs(share)))
        pen.rectangle(box, (255, fade, fade) if share > 0 else (fade, fade, 255))
        if found.significant()[row, column]:
            pen.text((corner[0] + 8, corner[1] + 13), f"{share * bound:+.1f}", "black", font_size=13)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "tcav.png", optimize=True)
