"""Where attention could have carried information from, in a Vision Transformer: the same map for every class."""

import os
from pathlib import Path

import torch

from glasshouse import attribute, data, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("creatures_vit")
scene = data.scenes("creatures", 1, seed=11, start=424, n_objects=2)
images = model.preprocess(scene.images)

# --8<-- [start:call]
explanation = attribute.attention_rollout(model, images)
strongest = attribute.attention_rollout(model, images, heads="max", discard_ratio=0.9)

print(explanation, model.label(explanation.target[0]))
print(explanation.native.shape, explanation.extras["tokens"].shape)  # 8 × 8 patches; with the class token, 65
print(explanation.extras["tokens"][0, 0])  # the share of the class token in itself
# --8<-- [end:call]
other = attribute.attention_rollout(model, images, target=0)
assert torch.allclose(other.native, explanation.native)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, explanation), report.overlay(pixels, strongest)], 3)
figure = torch.nn.functional.interpolate(figure, scale_factor=4, mode="nearest")
to_image(figure[0]).quantize().save(folder / "attention_rollout.png", optimize=True)
