"""How concentrated, how scattered and how rough a map is: no model is asked."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

# Strided convolutions leave a checkerboard in the gradient.
with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))

# --8<-- [start:call]
for explanation in (attribute.saliency(net, images), attribute.grad_cam(net, images, layer="2")):
    print(explanation.method)
    print(evaluate.sparseness(net, images, explanation))  # 0: spread evenly; 1 - 1/d: one pixel
    print(evaluate.entropy(net, images, explanation))
    print(evaluate.effective_complexity_count(net, images, explanation))  # pixels above 1 % of the largest
    spread = evaluate.spread(net, images, explanation)  # of the top 5 % of pixels
    print(spread, "in", spread.extras["components"].tolist(), "parts")
    print(evaluate.total_variation(net, images, explanation))
    print(evaluate.high_frequency(net, images, explanation))  # white noise has about 0.75, a checkerboard 1
# --8<-- [end:call]

# --8<-- [start:by_hand]
heatmap = attribute.saliency(net, images).heatmap
down, across = heatmap.diff(dim=1).abs().sum((1, 2)), heatmap.diff(dim=2).abs().sum((1, 2))
variation = (down + across) / heatmap.abs().sum((1, 2))
count = (heatmap.abs() > 0.01 * heatmap.abs().amax((1, 2), keepdim=True)).sum((1, 2))
# --8<-- [end:by_hand]

gradient, cam = attribute.saliency(net, images), attribute.grad_cam(net, images, layer="2")
torch.testing.assert_close(evaluate.total_variation(net, images, gradient).value, variation)
torch.testing.assert_close(evaluate.effective_complexity_count(net, images, gradient).value, count.float())
for metric in (evaluate.total_variation, evaluate.high_frequency):
    assert metric(net, images, gradient).mean > 2 * metric(net, images, cam).mean
