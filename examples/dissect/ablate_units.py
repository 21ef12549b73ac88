"""Switch units of a classifier off, one by one and in groups, and see which classes suffer."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glasshouse import data, dissect, zoo

N, SIZES = int(os.environ.get("GLASSHOUSE_IMAGES", "480")), (1, 2, 4, 8, 16, 32, 64)
model = zoo.load("creatures_cnn")


class Creatures:
    """Drawings with their classes, new ones for every seed."""

    def __init__(self, seed: int):
        scenes = data.scenes("creatures", N, seed=seed, labels=False)
        self.images, self.classes = model.preprocess.normalise(scenes.images), scenes.categories

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        return self.images[index], self.classes[index]


ranking, held_out = Creatures(seed=1_000_000), Creatures(seed=1_000_001)

# --8<-- [start:call]
single = dissect.ablate_units(model, ranking)  # the last layer with positions, every unit by itself

print(single)
print(single.overall_drop.max(), single.max_class_drop.max())
print(single.correlations("max_class_drop")["selectivity"])
print(single.table()[0])  # one dictionary per unit, for csv.DictWriter or a data frame
# --8<-- [end:call]

# --8<-- [start:groups]
assert single.traits is not None
means = single.traits.class_mean.nan_to_num()  # u c
order = (means - means.mean(1, keepdim=True)).div(means.std(1, keepdim=True) + 1e-9).argsort(0, descending=True)
groups = {name: order[:24, target].tolist() for target, name in enumerate(model.class_names)}

together = dissect.ablate_units(model, held_out, groups=groups)  # other images than those that chose the units
print(together.damage.diagonal().nanmean())  # what a class loses without its own units
low, high = together.interval()
# --8<-- [end:groups]

# --8<-- [start:more]
more = {f"{n} of {c}": order[:n, c].tolist() for n in SIZES for c in range(12)}
balanced = dissect.ablate_units(model, held_out, groups=more).balanced.unflatten(0, (len(SIZES), 12))
own = balanced.diagonal(dim1=1, dim2=2).nanmean(1)  # (TPR + TNR) / 2 of the class whose units are gone
others = balanced.masked_fill(torch.eye(12, dtype=torch.bool), torch.nan).nanmean((1, 2))
# --8<-- [end:more]
print(own, others)

SIDE, PAD, BLUE, RED = 360, 70, (11, 90, 138), (179, 38, 30)
sheet = Image.new("RGB", (2 * SIDE + 3 * PAD, SIDE + 2 * PAD), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
cell, top = SIDE // 12, PAD
for row, values in enumerate(together.damage.nan_to_num().tolist()):
    draw.text((PAD - 62, top + cell * row + 6), model.class_names[row], "#1a1a1a", font=font)
    for column, value in enumerate(values):
        shade = tuple(round(255 - (255 - end) * min(abs(value), 1)) for end in (RED if value > 0 else BLUE))
        box = (PAD + cell * column, top + cell * row, PAD + cell * (column + 1) - 2, top + cell * (row + 1) - 2)
        draw.rectangle(box, fill=shade, outline="#e6e6e6")
        if abs(value) >= 0.03:
            draw.text((box[0] + 3, box[1] + 6), f"{value:.0%}".rjust(4), "#1a1a1a", font=ImageFont.load_default(11))
draw.text((PAD, 10), "accuracy lost by each class (column)", "#1a1a1a", font=font)
draw.text((PAD, 32), "without the 24 units of a class (row)", "#1a1a1a", font=font)
left = 2 * PAD + SIDE
draw.rectangle((left, top, left + SIDE, top + SIDE), outline="#c8c8c8")
for column, values, colour, words in ((0, own, RED, "its own class"), (1, others, BLUE, "the other classes")):
    points = [
        (left + SIDE * place / (len(SIZES) - 1), top + SIDE * (1 - (value - 0.4) / 0.6))
        for place, value in enumerate(values.tolist())
    ]
    draw.line(points, fill=colour, width=3)
    draw.text((left + 130 * column, 32), words, colour, font=font)
for place, n in enumerate(SIZES):
    draw.text((left + SIDE * place / (len(SIZES) - 1) - 5, top + SIDE + 6), str(n), "#5a5a5a", font=font)
for value in (0.5, 0.75, 1.0):
    draw.text((left - 38, top + SIDE * (1 - (value - 0.4) / 0.6) - 9), f"{value:.2f}", "#5a5a5a", font=font)
draw.text((left, 10), "balanced accuracy without n units of a class", "#1a1a1a", font=font)
draw.text((left, top + SIDE + 30), f"n, of {len(order)} units; those that stand out most first", "#5a5a5a", font=font)
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "ablate_units.png", optimize=True)

assert single.route == "linear"  # so that all of it cost little more than running the network
assert together.damage.diagonal().nanmean() >= together.damage.nanmean()  # its own class suffers most
