"""Attention of a Vision Transformer that speaks for each of two creatures, beside rollout, which knows of neither."""

import os
from pathlib import Path

import torch

from glasshouse import attribute, data, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("creatures_vit")
scene = data.scenes("creatures", 1, seed=11, start=424, n_objects=2)
images = model.preprocess(scene.images)
left, right = (int(scene.factors[name][0]) for name in ("category", "category_2"))

# --8<-- [start:call]
of_left = attribute.attention_relevance(model, images, left)
of_right = attribute.attention_relevance(model, images, right)

print(of_left, model.label(left))
print(of_right, model.label(right))
print(of_left.native.shape)  # one value per patch
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
maps = [of_left, of_right, attribute.attention_rollout(model, images)]
figure = torch.cat([pixels, *(report.overlay(pixels, explanation) for explanation in maps)], 3)
figure = torch.nn.functional.interpolate(figure, scale_factor=4, mode="nearest")
to_image(figure[0]).quantize().save(folder / "attention_relevance.png", optimize=True)
