"""How the probability of the class is shared among parts of the photograph: exactly, and among many parts."""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
exact = attribute.kernel_shap(model, images, feature_mask="grid", n_regions=9, n_samples=510)
many = attribute.kernel_shap(model, images, n_regions=50, n_samples=600)

worth = exact.score - exact.extras["empty"]  # what all regions are worth together
cells = exact.heatmap[0, 37::75, 37::75]  # a pixel of each of the nine cells
print(exact, f"{float(cells.sum()):.3f} = {float(worth):.3f}")
print(many, "standard error", float(many.extras["stderr"].mean()))
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, report.overlay(pixels, exact), report.overlay(pixels, many)], 3)
to_image(figure[0]).quantize().save(folder / "kernel_shap.png", optimize=True)
