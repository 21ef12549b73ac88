"""How units of a small network build on units two convolutions earlier, as kernels beside what excites each unit."""

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glasshouse import data, dissect, zoo
from glasshouse.report.circuits import kernel_image, kernel_scale
from glasshouse.report.picture import to_image

N = int(os.environ.get("GLASSHOUSE_IMAGES", "480"))
model = zoo.load("houses_cnn")

# --8<-- [start:call]
wires = dissect.expanded_weights(model, source="stages.0", layer="stages.1")

print(wires)
print(wires.inputs_of(86, k=4))  # the units of stages.0 that reach unit 86 of stages.1 most strongly
print(wires.kernel(86, int(wires.inputs_of(86)[0])))  # i j, on the grid of stages.0
print(wires.norm.shape)  # u v: the size of every connection
# --8<-- [end:call]

scenes = data.scenes("houses", N, seed=3, size=model.preprocess.size[0])
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:gradient]
real = dissect.expanded_weights(model, images[:64], source="stages.0", layer="stages.1", units=[86], how="gradient")
# --8<-- [end:gradient]

# --8<-- [start:groups]
groups = wires.input_groups(3)
print(groups)  # three groups of inputs, and how much of the weights they explain
exciting, inhibiting = groups.painted()  # u 3 i j each, in 0…1: one colour for each group
# --8<-- [end:groups]

units, across, tile, gap, head = [86, 81, 21], 6, 72, 8, 22
strongest = {
    layer: dissect.exemplars(model, images, layer=layer, k=1, batch_size=32) for layer in (wires.source, wires.layer)
}
how = kernel_scale(wires, units, across)
font = ImageFont.load_default(13)
row_height = 2 * tile + gap + head
figure = Image.new("RGB", (2 * gap + (across + 2) * (tile + gap), len(units) * row_height + gap), "white")
pen = ImageDraw.Draw(figure)


def paste(picture: Image.Image, left: int, top: int, words: str = "") -> None:
    """One tile, framed, over its words."""
    figure.paste(picture.resize((tile, tile), Image.Resampling.NEAREST), (left, top))
    pen.rectangle([left - 1, top - 1, left + tile, top + tile], outline="#bbbbbb")
    pen.text((left + tile / 2, top + tile + 2), words, "#1a1a1a", font=font, anchor="ma")


def icon(layer: str, unit: int) -> Image.Image:
    """What excites a unit most."""
    return to_image(strongest[layer].patches(scenes.images, unit, size=tile)[0])


for row, unit in enumerate(units):
    top = gap + row * row_height
    paste(icon(wires.layer, unit), gap, top, f"unit {unit}")
    for column, of in enumerate(wires.inputs_of(unit, across).tolist()):
        left = gap + (column + 1) * (tile + gap) + tile // 2
        paste(kernel_image(wires.kernel(unit, of), how), left, top)
        paste(icon(wires.source, of), left, top + tile + gap // 2, str(of))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure.save(folder / "expanded_weights.png", optimize=True)

assert wires.weights.shape == (128, 64, 5, 5)
assert not wires.at_border
assert real.weights.shape[:2] == (1, 64)
assert groups.explained > 0
