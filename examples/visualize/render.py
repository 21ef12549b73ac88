"""Draw what three filters look for, and set the pictures beside noise."""

import torch
from torch import nn

from glasshouse import visualize

# Three filters of a network: a red-green edge, a fine diagonal grating, a yellow spot.
net = nn.Sequential(nn.Conv2d(3, 3, 9, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
y, x = torch.meshgrid(torch.arange(-4.0, 5), torch.arange(-4.0, 5), indexing="ij")
window = torch.exp(-(x**2 + y**2) / 8)
with torch.no_grad():
    net[0].weight[0] = torch.stack([x.sign(), -x.sign(), 0 * x]) * window
    net[0].weight[1] = torch.cos(2 * (x + y)) * window
    net[0].weight[2] = torch.stack([window, window, -2 * window])

noise = torch.rand(100, 3, 64, 64, generator=torch.Generator().manual_seed(0))

# --8<-- [start:call]
picture = visualize.render(net, visualize.unit("1", [0, 1, 2]), size=64, steps=96, reference=noise)

print(picture)  # activation: what each finished picture reaches
print(picture.excess)  # how far that is above the best reference image
for label, photo in zip(picture.labels, picture.photos(), strict=True):
    print(label, photo.size)  # a PIL image, to show or to save
# --8<-- [end:call]

# --8<-- [start:compose]
objective = visualize.unit("1", 0) + 0.1 * visualize.diversity("0") - 1e-4 * visualize.total_variation()
varied = visualize.render(net, objective, n_images=3, size=64, steps=64, preset="fourier")
# --8<-- [end:compose]
print(varied)
assert (picture.excess > 0).all()
