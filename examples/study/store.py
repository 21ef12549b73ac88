"""Keep what a pass over images finds in a study, go on after an interruption, and read it back."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from glasshouse.core import sweep
from glasshouse.core.fingerprints import fingerprint
from glasshouse.core.stats import Moments, TopK
from glasshouse.study.store import Store, check, encode_jpeg, export, merge

seed = torch.Generator().manual_seed(0)
pixels = torch.rand(400, 3, 16, 16, generator=seed)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
with torch.no_grad():
    net[0].weight.copy_(torch.randn(8, 3, 3, 3, generator=seed))
    net[0].bias.zero_()
folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "first")


def step(batch, ids):
    with torch.no_grad():
        best = net(batch).flatten(2).max(2)
    return {"peak": (best.values,), "top": (best.values, ids, best.indices)}


# --8<-- [start:call]
with Store.create(path, net, pixels, seed=0) as store:
    with store.job("scan", fingerprint(net)) as job:
        seen = sweep(step, pixels, {"peak": Moments(), "top": TopK(4)}, shard_size=100, into=job.partials)
        store.put_array("1", "peak", seen["peak"].mean)
        store.put_array("1", "top_ids", seen["top"].ids)
        store.put_patches("1", ([encode_jpeg(pixels[i]) for i in ids] for ids in seen["top"].ids.tolist()))
        store.put_units("1", [{"unit": unit, "peak": peak} for unit, peak in enumerate(seen["peak"].mean.tolist())])
    store.note("1", 3, "likes corners", author="Ann")

print(check(path))
# --8<-- [end:call]

# --8<-- [start:read]
with Store.open(path) as store:
    print(store)
    print(store.units("1", order_by="peak", descending=True, limit=3))
    jpegs = store.patches("1", unit=3)  # the four images that excite unit 3 most
    peaks = store.array("1", "peak")  # mapped: read from the disk where it is looked at
# --8<-- [end:read]

# --8<-- [start:alone]
# without glasshouse
alone = np.load(path / "arrays" / "1" / "peak.npy", mmap_mode="r")
index = np.load(path / "blobs" / "1" / "top.idx.npy")
unit, start, end = index[12]
jpeg = (path / "blobs" / "1" / "top.pack").read_bytes()[start:end]
# --8<-- [end:alone]

# --8<-- [start:merge]
with Store.create(Path(folder.name, "second"), net, pixels) as second:  # on another machine
    second.put_units("1", [{"unit": unit, "seen_by": "second"} for unit in range(8)])
with Store.open(path, write=True) as store, Store.open(Path(folder.name, "second")) as second:
    print(merge(store, second))
    tables = export(store, path / "exports", "csv")
# --8<-- [end:merge]

assert check(path).findings == ()
assert np.array_equal(alone, seen["peak"].mean.numpy())
assert unit == 3
assert jpeg == jpegs[0]
assert len(tables) == 4
folder.cleanup()
