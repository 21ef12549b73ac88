"""Find the images that excite two filters most, where in each of them, and what the filters saw there."""

import torch
from torch import nn

from glasshouse import dissect

# Two filters, for upright and for level edges, and 200 images that show one small bar each on noise.
net = nn.Sequential(nn.Conv2d(1, 2, 5, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
edge = torch.tensor([-2.0, -1, 0, 1, 2]).expand(5, 5) / 15
with torch.no_grad():
    net[0].weight.copy_(torch.stack([edge, edge.T])[:, None])

seed = torch.Generator().manual_seed(0)
pixels = 0.1 * torch.rand(200, 1, 32, 32, generator=seed)
for image, (row, column) in enumerate(torch.randint(0, 24, (200, 2), generator=seed).tolist()):
    height, width = (9, 3) if image % 2 else (3, 9)
    pixels[image, 0, row : row + height, column : column + width] = 0.5 + 0.5 * (image / 200)

# --8<-- [start:call]
seen = dissect.exemplars(net, pixels, layer="1", k=9)

print(seen)
print(seen.unit(0))
print(seen.strongest.ids[0])  # indices of the nine images, the strongest first
print(seen.strongest.boxes[0, 0])  # top, left, bottom, right of what the unit saw in the first
# --8<-- [end:call]

# --8<-- [start:show]
patches = seen.patches(pixels, 0)  # k c p p: the receptive fields, cut out
masked = seen.masked(pixels, 0)  # k c h w: dark where the unit is below its threshold
typical = seen.patches(pixels, 0, group="spectrum")  # from the lowest decile of the score to the highest
# --8<-- [end:show]

print(patches.shape, masked.shape, typical.shape)
assert (seen.strongest.ids[0] % 2 == 1).all()  # the upright filter chose upright bars,
assert (seen.strongest.ids[1] % 2 == 0).all()  # the level one level bars,
assert (seen.strongest.ids > 150).all()  # and both the bright ones
