"""The same in plain torch, with all activations in memory: sort, and divide by the stride."""

import torch
from torch import nn

from glasshouse import dissect

net = nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
images = torch.rand(50, 3, 32, 40, generator=torch.Generator().manual_seed(0))

# --8<-- [start:by_hand]
with torch.no_grad():
    maps = net[:2](images)  # n k i j
best = maps.flatten(2).max(2)
order = best.values.T.argsort(dim=1, descending=True, stable=True)[:, :9]
values = best.values.T.gather(1, order)
at = best.indices.T.gather(1, order)
rows, columns = at // maps.shape[3], at % maps.shape[3]
boxes = torch.stack([2 * rows, 2 * columns, 2 * rows + 5, 2 * columns + 5], 2)
# --8<-- [end:by_hand]

seen = dissect.exemplars(net, images, layer="1", k=9)
assert torch.equal(seen.strongest.ids, order)
assert torch.equal(seen.strongest.boxes, boxes)
torch.testing.assert_close(seen.strongest.values, values)

# The first patch of unit 4 gives, through the filter alone, the value it was chosen for.
patch = images[order[4, 0]][:, boxes[4, 0, 0] : boxes[4, 0, 2], boxes[4, 0, 1] : boxes[4, 0, 3]]
torch.testing.assert_close(net[0](patch[None])[0, 4, 0, 0], values[4, 0], rtol=1e-5, atol=1e-6)
print(seen)
