"""Name what units mark by formulas of concepts, and see how much of the gain is left on other images."""

import os
from pathlib import Path

import torch

from glasshouse import data, dissect, zoo
from glasshouse.report.picture import to_image

model = zoo.load("houses_cnn")
n_images = int(os.environ.get("GLASSHOUSE_IMAGES", 300))
scenes, others = (data.scenes("houses", n_images, seed=seed, size=model.preprocess.size[0]) for seed in (3, 4))

# --8<-- [start:call]
images = data.inputs(data.with_labels(scenes), model.preprocess)
activations = dissect.activations(model, images, layer="stages.1", label_size=(32, 32))
seen = dissect.compositional_labels(activations, length=3, level=0.98)

print(seen)
for row in seen.iou[:, -1].topk(5).indices:
    unit = int(seen.units[row])
    print(f"{unit:4} {seen.formula(unit, 1):12} {seen.iou[row, 0]:.2f}   {seen.formula(unit)} {seen.iou[row, -1]:.2f}")
# --8<-- [end:call]

# --8<-- [start:check]
fresh = data.inputs(data.with_labels(others), model.preprocess)
elsewhere = dissect.activations(model, fresh, layer="stages.1", label_size=(32, 32))
print(seen.iou.mean(0))  # of one, two and three concepts, where they were chosen
print(seen.iou_on(elsewhere).mean(0))  # the same formulas on images that they were not chosen in
# --8<-- [end:check]

# --8<-- [start:chance]
mismatched = dissect.Activations(**{**vars(activations), "maps": activations.maps.roll(1, 0)})
print(dissect.compositional_labels(mismatched, level=0.98).iou.mean(0))  # maps of one image, labels of another
# --8<-- [end:chance]

assert (seen.iou.diff(dim=1) >= 0).all()
torch.testing.assert_close(seen.iou_on(activations), seen.iou)


def shown(unit: int) -> torch.Tensor:
    """Three images that a unit marks: as they are, what it marks, and where its formula is true."""
    row = seen.units.tolist().index(unit)
    order = (
        (activations.maps[:, row] > seen.thresholds[row]).flatten(1).sum(1).argsort(descending=True, stable=True)[:3]
    )
    size = scenes.images.shape[-1]
    maps = torch.nn.functional.interpolate(activations.rows(order)[:, row : row + 1], (32, 32), mode="bilinear")
    marks = torch.stack([(maps[:, 0] > seen.thresholds[row]).float(), seen.masks(activations, unit, order).float()], 1)
    light = torch.nn.functional.interpolate(marks, (size, size), mode="nearest")
    parts = [
        [scenes.images[i], *(scenes.images[i] * (0.2 + 0.8 * m) for m in mark[:, None])]
        for i, mark in zip(order, light, strict=True)
    ]
    return torch.cat([part for image in parts for part in image], 2)


folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
gain = (seen.iou[:, -1] - seen.iou[:, 0]) * (seen.iou[:, 0] > 0.15)
picture = to_image(torch.cat([shown(int(seen.units[row])) for row in gain.topk(3).indices], 1))
print([seen.formula(int(seen.units[row])) for row in gain.topk(3).indices])
picture.resize((picture.width * 2, picture.height * 2), 0).quantize().save(
    folder / "compositional_labels.png", optimize=True
)
