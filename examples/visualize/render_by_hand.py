"""The same ascent in plain torch: a spectrum, random moves, the gradient of one unit, Adam."""

import torch
from torch import nn

from glasshouse import visualize

seed, shape, steps = torch.Generator().manual_seed(0), (3, 32, 40), 30
net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.GELU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()

# --8<-- [start:by_hand]
image, moves = visualize.fourier_image(), visualize.robust()
theta = image.start(shape, [seed]).requires_grad_()
mean = square = torch.zeros_like(theta)
for step in range(1, steps + 1):
    pixels = visualize.move(image.pixels(theta, shape), moves, [seed])
    activation = net[:3](pixels)[:, 2].mean()
    (gradient,) = torch.autograd.grad(activation, theta)
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    ascent = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    theta = (theta + 0.05 * ascent).detach().requires_grad_()
by_hand = image.pixels(theta, shape).detach()
# --8<-- [end:by_hand]

picture = visualize.render(net, visualize.unit("2", 2), size=shape[1:], steps=steps, seed=0)
torch.testing.assert_close(by_hand, picture.pixels, atol=1e-3, rtol=0)
print(picture)
