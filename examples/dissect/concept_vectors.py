"""Where in a layer concepts lie: one direction for each, learnt from label maps, and tested on other images."""

import os
from pathlib import Path

import torch

from glasshouse import data, dissect, zoo
from glasshouse.report.picture import to_image

model = zoo.load("houses_cnn")
world = data.scenes("houses", min(400, 10 * int(os.environ.get("GLASSHOUSE_IMAGES", 40))), seed=3, size=64)
images = data.inputs(data.with_labels(world), model.preprocess)

# --8<-- [start:call]
kept = dissect.activations(model, images, label_size=(32, 32))  # one pass; all that follows reads it
found = dissect.concept_vectors(kept, ["house", "church", "car", "tree", "lamp", "fence", "cloud", "brick"])

print(found)
for concept, accuracy, precision in zip(found.concepts, found.accuracy, found.average_precision, strict=True):
    print(f"{concept.name:8} accuracy {accuracy:.2f}   average precision {precision:.2f}")
# --8<-- [end:call]

# --8<-- [start:use]
where = found.scores(kept, "tree")  # n i j: how far each position lies along the vector
first = found.ranked(kept, "tree")[:5]  # the images that point most that way
likeness = found.similarity()  # cosines between the vectors
# --8<-- [end:use]

# --8<-- [start:relative]
towers = (kept.targets // 3 == 2).nonzero()[:, 0].tolist()  # images can be listed, too
churches = (kept.targets // 3 == 1).nonzero()[:, 0].tolist()
relative = dissect.concept_vectors(kept, positives={"tower": towers}, negatives=churches, pooling="mean")
# --8<-- [end:relative]

print(where.shape, first.tolist(), likeness.shape, relative)
assert found.accuracy[0] > 0.85  # houses are told from all else, on images that nothing was learnt from
assert found.accuracy[:2].min() > found.accuracy[-1] - 0.05  # and better than what they are built of
has = kept.on_grid(["tree"]).flatten(1).any(1)
assert has[first].all()

rows = []
for name in ("house", "tree", "car"):
    best = found.ranked(kept, name)[:6]
    pixels = torch.stack([world[int(image)]["image"] for image in best])
    heat = torch.nn.functional.interpolate(found.scores(kept, name)[best][:, None], (64, 64), mode="bilinear")
    masked = pixels * (0.25 + 0.75 * (heat / heat.amax((2, 3), keepdim=True)).clamp(0, 1))
    rows += [torch.cat(list(pixels), 2), torch.cat(list(masked), 2)]
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = to_image(torch.cat(rows, 1))
sheet.resize((2 * sheet.width, 2 * sheet.height)).quantize().save(folder / "concept_vectors.png", optimize=True)
