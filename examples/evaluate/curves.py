"""The curves behind the symmetric relevance gain: the score as cells go, in the order of a map and against it."""

import os
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, evaluate, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Image.fromarray(skimage.data.coffee()))
answers = evaluate.Answers(model, images, [model.index("espresso")])
maps = [attribute.grad_cam(model, images, 967), attribute.guided_backprop(model, images, 967)]
scores = [evaluate.srg(model, images, explanation, answers=answers) for explanation in maps]

SIDE, PAD, BLUE, RED = 224, 30, "#0b5a8a", "#b3261e"
WIDTH = 2 * SIDE + 3 * PAD
sheet = Image.new("RGB", (2 * WIDTH, SIDE + 3 * PAD), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
pixels = model.preprocess.pixels(images)
for place, (explanation, score) in enumerate(zip(maps, scores, strict=True)):
    left, top = place * WIDTH + PAD, PAD + 6
    sheet.paste(to_image(report.overlay(pixels, explanation)[0]), (left, top))
    draw.text((left, top + SIDE + 6), explanation.method.replace("_", " "), "#1a1a1a", font=font)
    left += SIDE + PAD
    draw.rectangle((left, top, left + SIDE, top + SIDE), outline="#c8c8c8")
    fraction = score.extras["fraction"].tolist()
    for name, colour in (("least_first", BLUE), ("most_first", RED)):
        curve = score.extras[name][0].tolist()
        points = [(left + SIDE * x, top + SIDE * (1 - y)) for x, y in zip(fraction, curve, strict=True)]
        draw.line(points, fill=colour, width=3)
    draw.text((left, 8), f"gain {score.mean:+.2f} ± {score.error:.2f}", "#1a1a1a", font=font)
    draw.text((left, top + SIDE + 6), "most first", RED, font=font)
    draw.text((left + 100, top + SIDE + 6), "least first", BLUE, font=font)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "curves.png", optimize=True)
