"""What classes are made of: class vectors as sums of concepts, and with them the logit of every image."""

import os
from pathlib import Path

import torch
from PIL import ImageDraw

from glasshouse import data, dissect, report, zoo
from glasshouse.report.picture import to_image

model = zoo.load("houses_cnn")
n = min(400, 10 * int(os.environ.get("GLASSHOUSE_IMAGES", 40)))
world = data.with_labels(data.scenes("houses", n, seed=3, size=64))
scenes = data.scenes("houses", 40, seed=9, size=64)
pixels = torch.stack([scenes[index]["image"] for index in range(len(scenes))])
images = model.preprocess.normalise(pixels)

# --8<-- [start:call]
kept = dissect.activations(model, data.inputs(world, model.preprocess), label_size=(32, 32))
things = [label.number for label in world.labels if label.category in ("object", "part")]
vectors = dissect.concept_vectors(kept, things, n_samples=10_000)
found = dissect.decompose(model, images, vectors)

print(found)
print(model.label(0), found.recipe(0))  # concepts, and how much of each
# --8<-- [end:call]

# --8<-- [start:explain]
seen = found.explain(model, images)
print(seen.captions()[:4])  # such as "house and tree: house 66 %, tree 40 %, …"
whole = seen.contributions.sum(1) + seen.residual + seen.bias  # the logit, exactly
best = seen.explanation(0)  # heat maps of the concept that contributed most: report.overlay draws them
second = seen.explanation(1)
# --8<-- [end:explain]

assert found.exact
assert (found.coefficients >= 0).all()
torch.testing.assert_close(whole, seen.logit, rtol=0, atol=1e-4)
for target in (0, 4, 11):  # named for two things each: these are the first two of the recipe
    first = set(list(found.recipe(target))[:4])
    assert first & set(model.label(target).split(" and ")), (target, first)

shown = [int((torch.tensor(seen.target) == k).nonzero()[0]) for k in (0, 4, 8, 10) if k in seen.target]
drawn = [pixels, report.overlay(pixels, best), report.overlay(pixels, second)]
rows = torch.cat([torch.cat([picture[index] for index in shown], 2) for picture in drawn], 1)
sheet = to_image(rows)
sheet = sheet.resize((4 * sheet.width, 4 * sheet.height))
pen = ImageDraw.Draw(sheet)
for column, index in enumerate(shown):
    for row, explanation in enumerate((best, second), 1):
        share = seen.share[index].sort(descending=True).values[row - 1]
        words = f"{explanation.settings['concepts'][index]} {share:.0%}"
        pen.text((256 * column + 8, 256 * row + 8), words, "black", font_size=20, stroke_width=2, stroke_fill="white")
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(folder / "decompose.png", optimize=True)
