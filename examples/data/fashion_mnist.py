"""Fashion-MNIST where it is installed, else stand-ins for it in files written here. Then the mean ankle boot."""

import shutil
import struct
import tempfile
from pathlib import Path

import torch

from glasshouse import data
from glasshouse.core import MissingPackage

# --8<-- [start:format]
folder = Path(tempfile.mkdtemp())
pixels = torch.randint(0, 256, (10, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
for split in ("train", "t10k"):
    images, labels = (folder / f"{split}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    images.write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, 10, 28, 28) + pixels.numpy().tobytes())
    labels.write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 10) + bytes(range(10)))
# --8<-- [end:format]

try:
    data.fashion_mnist(limit=1)
    path = None
except MissingPackage as error:
    print(error)
    path = folder

# --8<-- [start:call]
train = data.fashion_mnist(path)  # None is where it is installed
test = data.fashion_mnist(path, split="test", limit=1000)

print(train, test)
print("\n".join(train.chosen))  # which files were read, and whether the labels are the published ones
print(train.images.shape, train.targets.bincount())
print(train.ids[5], train.class_names[train.targets[5]], train[5]["image"].shape)
# --8<-- [end:call]

# --8<-- [start:classes]
boots = train.subset(train.targets == train.class_names.index("Ankle boot"))
mean = boots.images.double().mean(0)[0] / 255
# --8<-- [end:classes]

print("\n".join("".join(" .:-=+*#%@"[int(level * 9.99)] for level in row) for row in mean[::2].tolist()))
assert boots.targets.unique().tolist() == [9]
assert path is None or torch.equal(boots.images[0, 0], pixels[9])
shutil.rmtree(folder)
