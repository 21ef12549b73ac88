"""Measure how much of the image units really see, at three depths, beside what the layers would let them see."""

import os
from pathlib import Path

import torch

from glasshouse import data, dissect, zoo
from glasshouse.report.picture import to_image

model = zoo.load("houses_cnn")
n_images = int(os.environ.get("GLASSHOUSE_IMAGES", 200))
scenes = data.scenes("houses", n_images, seed=3, size=model.preprocess.size[0])
images = data.inputs(scenes, model.preprocess)
units, k = [0, 1, 2, 3], max(1, min(4, n_images // 50))

# --8<-- [start:call]
found = {}
for layer in ("stages.0", "stages.1", "stages.2"):
    seen = dissect.exemplars(model, images, layer=layer, units=units, k=k)
    found[layer] = dissect.receptive_fields(model, images, seen, sliding_window_shapes=7, strides=3)
    print(found[layer])

fields = found["stages.2"]
print(fields.size, fields.window)  # pixels, measured and by the layers
print(fields.fields.shape)  # u h w: mean change around each unit's own place, which is in the middle
# --8<-- [end:call]

for fields in found.values():
    assert (fields.size <= max(fields.window) + 7).all()
assert found["stages.0"].size.mean() < found["stages.2"].size.mean()
assert found["stages.2"].size.mean() < 0.75 * found["stages.2"].window[0]


def shown(fields: dissect.ReceptiveFields) -> torch.Tensor:
    """One tile per unit: its field, the window of the layers as a frame, and the part that counts outlined."""
    side, size = 65, fields.fields.shape[1]
    tiles = []
    for unit in range(len(fields.units)):
        field = fields.fields[unit] / fields.fields[unit].max()
        tile = torch.zeros(3, side, side)
        low = max(0, (side - size) // 2)
        cut = max(0, (size - side) // 2)
        inner = field[cut : cut + side, cut : cut + side]
        tile[:, low : low + len(inner), low : low + len(inner)] = inner
        inside = (tile[0] >= fields.level).float()
        edge = inside - (-torch.nn.functional.max_pool2d(-inside[None], 3, 1, 1)[0])
        tile = torch.where(edge > 0, torch.tensor([1.0, 0.6, 0.1])[:, None, None], tile)
        first, last = side // 2 - fields.window[0] // 2, side // 2 + fields.window[0] // 2
        for line in (first, last):
            tile[:, line, first : last + 1] = tile[:, first : last + 1, line] = torch.tensor([0.2, 0.6, 1.0])[:, None]
        tiles.append(torch.nn.functional.pad(tile, (1, 1, 1, 1), value=0.3))
    return torch.cat(tiles, 2)


folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
picture = to_image(torch.cat([shown(fields) for fields in found.values()], 1))
picture.resize((picture.width * 3, picture.height * 3), 0).quantize().save(
    folder / "receptive_fields.png", optimize=True
)
