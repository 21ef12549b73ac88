"""Everything about the units of two layers in one pass over rendered houses."""

import os
import tempfile
from pathlib import Path

from glasshouse import data, dissect, zoo

n = int(os.environ.get("GLASSHOUSE_IMAGES", "200"))
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", n, size=model.preprocess.size[0])
images = data.inputs(data.with_labels(scenes), model.preprocess)

with tempfile.TemporaryDirectory() as folder:
    # --8<-- [start:call]
    found = dissect.scan(model, images, layers=["stages.1", "stages"], keep=Path(folder), min_images=2)

    for layer in found.layers:
        print(found.exemplars[layer])  # strongest, weakest, random images; thresholds
        print(found.dissections[layer])  # what each unit detects
        print(found.selectivity[layer])  # how much it prefers one class
        print(found.activations[layer])  # all maps, for Net2Vec, concept vectors, dictionaries, …
    # --8<-- [end:call]

    alone = dissect.exemplars(model, images, layer="stages")
    assert (found.exemplars["stages"].strongest.ids == alone.strongest.ids).all()
    assert len(found.activations["stages"]) == n
