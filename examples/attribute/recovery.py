"""Guided backprop draws the image, whatever the class and whatever the weights: the theory, beside real networks."""

import os
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, zoo
from glasshouse.attribute import recovery as theory
from glasshouse.report.picture import to_image

cat = torch.from_numpy(skimage.data.chelsea()[20:276, 90:346]).permute(2, 0, 1)[None].float()
photo = torch.nn.functional.interpolate(cat, (64, 64), mode="area")
images = photo - torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)

# --8<-- [start:call]
wide = theory.random_net(images, n_filters=256, seed=0)  # convolution, ReLU, one linear layer: all random
pooled = theory.random_net(images, n_filters=256, pool=9, seed=0)
predicted = theory.equalised(images)  # what guided backprop of a wide random network has to show
first, second = torch.tensor([3]), torch.tensor([7])

for net, method in [
    (wide, attribute.saliency),
    (wide, attribute.deconvnet),
    (pooled, attribute.deconvnet),
    (wide, attribute.guided_backprop),
]:
    shown = theory.recovery(method(net, images, first).native, predicted).mean
    alike = theory.class_similarity(method, net, images, first, second).mean
    print(f"{method.__name__}: shows the prediction {shown:.2f}, two classes alike {alike:.2f}")
# --8<-- [end:call]

MAPS = [
    ("saliency", wide, attribute.saliency),
    ("DeconvNet", wide, attribute.deconvnet),
    ("DeconvNet, max-pooling", pooled, attribute.deconvnet),
    ("guided backprop", wide, attribute.guided_backprop),
]
SIDE, GAP, HEAD = 168, 14, 26
font, ink = ImageFont.load_default(15), "#1a1a1a"


def tile(values: torch.Tensor) -> Image.Image:
    """A map of three channels from its least to its greatest value, as the paper shows it."""
    low, high = values.min(), values.max()
    return to_image(((values - low) / (high - low).clamp(min=1e-12))[0]).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def row(sheet: Image.Image, top: int, tiles: list[tuple[str, Image.Image]]) -> None:
    draw = ImageDraw.Draw(sheet)
    for place, (words, picture) in enumerate(tiles):
        left = GAP + place * (SIDE + GAP)
        sheet.paste(picture, (left, top + HEAD))
        draw.text((left, top + 4), words, ink, font=font)


model = zoo.load("efficientnet_lite0")
real = model.preprocess(Image.fromarray(skimage.data.chelsea()))
tabby, castle = torch.tensor([model.index("tiger cat")]), torch.tensor([model.index("castle")])
random_tiles = [("photograph", tile(photo)), ("prediction", tile(predicted))]
random_tiles += [(words, tile(method(net, images, first).native)) for words, net, method in MAPS]
trained_tiles = [("photograph", tile(real))]
for words, method in (("saliency", attribute.saliency), ("guided backprop", attribute.guided_backprop)):
    for name, target in (("tiger cat", tabby), ("castle", castle)):
        trained_tiles.append((f"{words}, {name}", tile(method(model, real, target).native)))
    alike = theory.class_similarity(method, model.module, real, tabby, castle).mean
    print(f"EfficientNet-Lite0, {words}: tiger cat and castle alike {alike:.2f}")

count = len(theory.layers_with_weights(model.module))
depths = [*range(0, count, 5), count]
curves = {
    order: theory.weight_schedule(attribute.guided_backprop, model.module, real, tabby, order, depths=depths)
    for order in ("part", "reverse")
}
width = GAP + 6 * (SIDE + GAP)
sheet = Image.new("RGB", (width, 3 * (SIDE + HEAD + GAP) + HEAD), "white")
row(sheet, 0, random_tiles)
row(sheet, SIDE + HEAD + GAP, trained_tiles)
draw, top, height = ImageDraw.Draw(sheet), 2 * (SIDE + HEAD + GAP) + HEAD, SIDE
words = {
    "part": "the first layers are trained, the rest is random",
    "reverse": "the first layers are random, the rest is trained",
}
for place, (order, steps) in enumerate(curves.items()):
    left, across = GAP + 34 + place * (width // 2), width // 2 - 3 * GAP - 34
    draw.rectangle((left, top, left + across, top + height), outline="#c8c8c8")
    for share in (0, 0.5, 1):
        draw.text((left - 32, top + height * (1 - share) - 8), f"{share:.1f}", ink, font=font)
    for number, colour in ((0, "#0b5a8a"), (1, "#b3261e")):
        values = [max(0.0, score[number].value[0].item()) for score in steps]
        points = [(left + across * x / count, top + height * (1 - y)) for x, y in zip(depths, values, strict=True)]
        draw.line(points, fill=colour, width=3)
    draw.text((left, top - HEAD + 4), words[order], ink, font=font)
    draw.text((left + 6, top + height + 4), f"0 … {count} layers", ink, font=font)
    draw.text((left + 150, top + height + 4), "like the trained map", "#0b5a8a", font=font)
    draw.text((left + 320, top + height + 4), "like the photograph", "#b3261e", font=font)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "recovery.png", optimize=True)
