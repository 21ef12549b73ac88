"""A study of a classifier of houses in bad light: what its units detect, and what classes lose without them."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from glasshouse import Study, data, zoo

n = int(os.environ.get("GLASSHOUSE_IMAGES", "300"))
folder = Path(tempfile.mkdtemp()) / "houses"

# --8<-- [start:call]
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", n, size=model.preprocess.size[0])
noise = 0.12 * torch.randn(scenes.images.shape, generator=torch.Generator().manual_seed(0))
scenes = replace(scenes, images=(scenes.images + noise).clamp(0, 1))  # without noise it never errs

with Study(folder, model, data.with_labels(scenes), layers=["stages"]) as study:
    study.scan(min_images=2).ablate()

layer = Study(folder)["stages"]  # read again, without network and images
print(layer.dissection)
print(layer.units(order_by="iou", descending=True, limit=3))
print(layer.concept_ablation)  # without the 20 units that detect each concept best
print(layer.alignment)  # do classes lose most without the units of what they show?
# --8<-- [end:call]

assert len(layer.units()) == 128
assert layer.alignment.value > 0.2
