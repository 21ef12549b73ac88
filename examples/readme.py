"""The picture at the top of the README: one decision, six methods, and how far to trust each."""

import os
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont

import glasshouse as gh
from glasshouse.report.picture import to_image

METHODS = ("grad_cam", "integrated_gradients", "smooth", "occlusion", "saliency", "guided_backprop")
SIDE, GAP, TEXT = 224, 12, 62

model = gh.zoo.load("efficientnet_lite0")
images = model.preprocess(Image.fromarray(skimage.data.coffee()))
pixels = model.preprocess.pixels(images)
with torch.no_grad():
    probability, top = model(images).softmax(1)[0].max(0)
answers = gh.evaluate.Answers(model, images, [int(top)])

columns = [(pixels[0], "the photograph", f"“{model.label(int(top))}”, {100 * probability:.0f} %")]
for name in METHODS:
    explanation = gh.find_method(name).function(model, images, int(top))
    score = gh.evaluate.card(model, images, explanation, tier="lite", answers=answers).scores["srg"]
    trust = f"evidence {score.mean:+.2f} ± {score.error:.2f}"
    columns.append((gh.report.overlay(pixels, explanation)[0], name.replace("_", " "), trust))

sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, SIDE + GAP + TEXT), "white")
draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(18), ImageFont.load_default(15)
for place, (picture, title, note) in enumerate(columns):
    left = GAP + place * (SIDE + GAP)
    sheet.paste(to_image(picture), (left, GAP))
    draw.text((left, GAP + SIDE + 8), title, "#1a1a1a", font=large)
    draw.text((left, GAP + SIDE + 31), note, "#5a5a5a", font=small)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "readme.png", optimize=True)
