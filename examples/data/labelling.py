"""Bring scenes, a folder with masks, or photographs and a network that segments into a form that can be dissected."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor

from glasshouse import data, dissect
from glasshouse.core.labelled import completed
from glasshouse.data import glass

place = TemporaryDirectory()
folder = Path(place.name)
for part in ("photos", "masks"):
    (folder / part).mkdir()
for number in range(4):
    mask = torch.ones(32, 48, dtype=torch.uint8)
    mask[-8 - 2 * number :] = 2
    pixels = torch.tensor([[0, 0, 0], [120, 170, 230], [150, 60, 40]], dtype=torch.uint8)[mask.long()]
    Image.fromarray(pixels.numpy()).save(folder / "photos" / f"{number}.png")
    Image.fromarray(mask.numpy()).save(folder / "masks" / f"{number}.png")

# --8<-- [start:call]
scenes = data.scenes("shapes", 40, seed=0, size=64)
labelled = data.with_labels(scenes)  # objects, parts, materials, colours, textures; the kind of place for the whole
print(labelled)
print(labelled.labels[0], labelled[0]["planes"].shape)

photos = data.folder(folder / "photos", masks=folder / "masks")
roofs = data.with_labels(photos, ["sky", "roof"])  # what 1 and 2 in the masks mean
print(roofs.labels)
# --8<-- [end:call]

# --8<-- [start:inputs]
model = glass.colour_detector()
fed = data.inputs(labelled, model.preprocess)  # images as the model takes them, label maps as they are
seen = dissect.units(model, fed, layer="inside_on", level=0.98, min_images=1)
print(seen)
# --8<-- [end:inputs]


# --8<-- [start:segmented]
def paint(images: Tensor) -> Tensor:
    """Any network or function from images to numbers `n h w`, or to scores `n l h w`; this one compares colours."""
    found = model.truth.regions(images)
    return torch.where(found.any(1), found.long().argmax(1) + 1, 0)


painted = data.segmented(scenes, paint, model.class_names, category="color")
seen = dissect.units(model, painted, layer="inside_on", mode="2020", min_images=1)
print([seen.label(unit).name for unit in range(8)])
# --8<-- [end:segmented]

batch = completed(painted, {"image": scenes.images[:2]})
assert torch.equal(batch["planes"][:, 0], paint(scenes.images[:2]))
found = [unit for unit in range(8) if seen.label(unit).name == model.class_names[unit]]
assert len(found) == len(seen.labels), "every paint that is shown has its unit"
place.cleanup()
