"""Run the network once, keep what a layer gave, and ask several questions of it."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from glasshouse import data, dissect, zoo

N = int(os.environ.get("GLASSHOUSE_IMAGES", "120"))
place = TemporaryDirectory()
folder = Path(place.name)

# --8<-- [start:call]
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", N, seed=3, size=model.preprocess.size[0])
labelled = data.inputs(data.with_labels(scenes), model.preprocess)

kept = dissect.activations(model, labelled, layer="stages", label_size=(32, 32))
print(kept)
print(kept.maps.shape, kept.targets[:5])  # n u i j, and the class of each image
# --8<-- [end:call]

# --8<-- [start:read]
doors = kept.concepts(["door"])  # n 1 a b, where each is marked
inside = kept.on_grid(["door"])  # n 1 i j, the same on the layer's grid
at_doors = (kept.maps * inside).sum((0, 2, 3)) / inside.sum()  # mean of each unit
print((at_doors / kept.maps.mean((0, 2, 3))).topk(3), doors.double().mean())
# --8<-- [end:read]

# --8<-- [start:files]
files = dissect.activations(model, labelled, layer="stages", label_size=(32, 32), dtype="float16", into=folder)
for start in range(0, len(files), 64):  # a block at a time: the maps may be larger than memory
    block = files.rows(slice(start, start + 64))
# --8<-- [end:files]

assert torch.equal(files.maps, kept.maps.half())
assert torch.equal(files.planes, kept.planes)
del files
place.cleanup()
