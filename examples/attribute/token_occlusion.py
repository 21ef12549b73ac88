"""How far the probability of each of two creatures falls when patches are taken away from a Vision Transformer."""

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
of_left = attribute.token_occlusion(model, images, left)
of_right = attribute.token_occlusion(model, images, right)

print(of_left, model.label(left))
print(of_left.native.shape, of_left.extras["grid"].shape)  # 8 × 8 patches, 7 × 7 windows of four patches
best = of_left.extras["top"][0].unique()  # every class that wins without some window
print([model.label(int(index)) for index in best])
# --8<-- [end:call]
together = attribute.token_occlusion(model, images, left, all_classes=True)
assert torch.allclose(together.extras["scores"][:, right], of_right.extras["probability"], atol=1e-5)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, of_left), report.overlay(pixels, of_right)], 3)
figure = torch.nn.functional.interpolate(figure, scale_factor=4, mode="nearest")
to_image(figure[0]).quantize().save(folder / "token_occlusion.png", optimize=True)
