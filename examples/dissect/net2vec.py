"""Read concepts from one unit and from all units of a layer, and see how many units each of them takes."""

import os
from pathlib import Path

import torch

from glasshouse import data, dissect, zoo
from glasshouse.report.picture import to_image

model = zoo.load("houses_cnn")
n_images, epochs = int(os.environ.get("GLASSHOUSE_IMAGES", 240)), int(os.environ.get("GLASSHOUSE_STEPS", 30))
scenes = data.scenes("houses", n_images, seed=3, size=model.preprocess.size[0])

# --8<-- [start:call]
images = data.inputs(data.with_labels(scenes), model.preprocess)
activations = dissect.activations(model, images, layer="stages.1", label_size=(32, 32))
concepts = ["tree", "house", "leaf", "sky", "green-c", "door"]
seen = dissect.net2vec(activations, concepts, subsets=[5, 20, 40], epochs=epochs)

print(seen)
for row, name in enumerate(seen.names):
    print(f"{name:8} unit {seen.best[row]:3} alone {seen.single[row]:.2f}, all units {seen.score[row]:.2f}")
print(seen.curves.mean(0))  # of the 5, 20 and 40 units with the largest weights
# --8<-- [end:call]

# --8<-- [start:ask]
print(seen.nearest("tree"))  # concepts whose vectors point the same way
print(seen.nearest(seen["tree"] - seen["leaf"] + seen["door"], without=("tree", "leaf", "door")))
print(seen.needed(0.8))  # units that reach 80 % of the score of all of them
print(seen.n_among(10).max())  # for how many concepts one unit is among the ten with the largest weights
# --8<-- [end:ask]

alone = dissect.net2vec(activations, ["tree"], epochs=epochs)
torch.testing.assert_close(alone.weights[0], seen.weights[seen.row("tree")])  # concepts do not touch each other
assert (seen.needed(0.8) <= len(seen.units)).all()
assert seen.train_score.mean() > 0.5 * seen.single.mean()


def shown(name: str) -> torch.Tensor:
    """An image, the concept in it, what the best unit marks, and what the readout marks."""
    there = activations.concepts([name])[:, 0].flatten(1).sum(1)
    row, image = seen.row(name), int(there.argmax())
    unit = int(seen.best[row])
    one = (activations.rows(torch.tensor([image]))[:, unit] > seen.thresholds[unit]).float()
    marks = [
        torch.ones(1, 32, 32),
        activations.concepts([name], torch.tensor([image]))[0].float(),
        torch.nn.functional.interpolate(one[None], (32, 32), mode="bilinear")[0].gt(0).float(),
        seen.masks(activations, name, torch.tensor([image])).float(),
    ]
    light = torch.stack(marks).repeat_interleave(2, 2).repeat_interleave(2, 3)
    size = scenes.images.shape[-1]
    light = torch.nn.functional.interpolate(light, (size, size), mode="nearest")
    return torch.cat(list(scenes.images[image] * (0.2 + 0.8 * light)), 2)


folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = torch.cat([torch.cat([shown(name) for name in pair], 2) for pair in (("tree", "house"), ("leaf", "sky"))], 1)
picture = to_image(sheet)
picture.resize((picture.width * 2, picture.height * 2), 0).quantize().save(folder / "net2vec.png", optimize=True)
