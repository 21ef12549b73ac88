"""How little of the photograph is enough for most of its score?"""

import os
from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "coffee.png")

# --8<-- [start:call]
explanation = attribute.smallest_area(model, images, share=0.7, n_rounds=3, n_steps=60, learning_rate=0.12)

print(explanation, model.label(explanation.target[0]))
print(explanation.extras["area"])  # how much of the image is shown
print(explanation.score, explanation.extras["reward"])  # of all of it, and of what is shown
print(explanation.extras["tried"], explanation.extras["rewards"])  # the areas that were tried, and their scores
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
pixels = model.preprocess.pixels(images)
figure = torch.cat([pixels, pixels * (0.12 + 0.88 * explanation.native)], 3)
to_image(figure[0]).quantize().save(folder / "smallest_area.png", optimize=True)
