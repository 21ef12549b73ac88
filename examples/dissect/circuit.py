"""The wires behind a decision of a small network, from the class back to units of its first stage."""

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glasshouse import data, dissect, zoo
from glasshouse.report import circuits
from glasshouse.report.picture import to_image

N = int(os.environ.get("GLASSHOUSE_IMAGES", "480"))
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", N, seed=3, size=model.preprocess.size[0])
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
label = model.index("car and lamp")
chosen = images[model(images).argmax(1) == label]

layers = ["stages.0", "stages.1", "stages.2", "head"]
seen = dissect.circuit(model, chosen, layers=layers, units=[label], k=3, by="contribution")

print(seen)
for edge in seen.ranking[:5]:
    print(edge)
print(seen.inputs_of("head", label))
# --8<-- [end:call]

# --8<-- [start:weight]
wired = dissect.circuit(model, layers=layers[:3], units=[9], k=3)  # by expanded weights: no images are needed
# --8<-- [end:weight]

# --8<-- [start:families]
stage = [node for node in seen.nodes if node.layer == "stages.1"]
families = {"stage 1": stage, "stage 2": [node for node in seen.nodes if node.layer == "stages.2"]}
print(seen.between(families))
# --8<-- [end:families]

icons = {(layers[-1], label): scenes.images[int((model(images).argmax(1) == label).nonzero()[0])]}
for layer in layers[:-1]:
    units = [node.unit for node in seen.nodes if node.layer == layer]
    exciting = dissect.exemplars(model, images, layer=layer, units=units, k=1, batch_size=32)
    icons |= {(layer, unit): exciting.patches(scenes.images, unit, size=88)[0] for unit in units}

# --8<-- [start:draw]
svg = circuits.circuit_graph(seen, icons)  # for a page; `seen` draws itself in a notebook
# --8<-- [end:draw]

SCALE, STEPS = 4, 48  # drawn large and made smaller, for smooth edges
where, side = circuits.places(seen), circuits.ICON
figure = Image.new(
    "RGB",
    tuple(round(SCALE * (max(point[axis] for point in where.values()) + side)) for axis in (0, 1)),
    "white",
)
pen, font = ImageDraw.Draw(figure), ImageFont.load_default(12 * SCALE)
for edge, width in sorted(zip(seen.edges, circuits.widths(seen), strict=True), key=lambda pair: pair[1]):
    (x, y), (u, v) = where[edge.source], where[edge.target]
    x, u = x + side / 2, u - side / 2
    ease = [(t * t * (3 - 2 * t), t) for t in (step / STEPS for step in range(STEPS + 1))]
    line = [(SCALE * (x + (u - x) * t), SCALE * (y + (v - y) * rise)) for rise, t in ease]
    pen.line(line, "#c2564d" if edge.value > 0 else "#4478b5", round(SCALE * width), joint="curve")
for node, (x, y) in where.items():
    picture = to_image(icons[node]).resize((SCALE * side, SCALE * side), Image.Resampling.LANCZOS)
    figure.paste(picture, (round(SCALE * (x - side / 2)), round(SCALE * (y - side / 2))))
    name = model.label(node.unit) if node.layer == "head" else str(node.unit)
    pen.text((SCALE * x, SCALE * (y + side / 2 + 2)), name, "#1a1a1a", font=font, anchor="ma")
for layer in layers:
    x = next(point[0] for node, point in where.items() if node.layer == layer)
    pen.text((SCALE * x, 4 * SCALE), layer, "#1a1a1a", font=font, anchor="ma")
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure.reduce(SCALE // 2).quantize(dither=Image.Dither.NONE).save(folder / "circuit.png", optimize=True)

assert len(seen.inputs_of("head", label)) == 3
assert all(0 < edge.share <= 1 for edge in seen.edges)
assert wired.by == "weight"
assert svg.count("<path") == len(seen.edges)
