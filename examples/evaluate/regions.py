"""Remove patches, superpixels and imputed pixels in the order of a map, and take the first curve by hand."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

# A network that measures how much red and how much blue it sees, and an image with a patch of each.
net = nn.Sequential(
    nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)
).eval()
with torch.no_grad():
    net[0].weight.copy_(torch.tensor([[1.0, -1, -1], [-1, -1, 1]]).view(2, 3, 1, 1))
    net[0].bias.fill_(0.3)
    net[4].weight.copy_(torch.tensor([[40.0, -20.0], [-20.0, 40.0]]))
images = 0.1 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
images[0, 0, 4:14, 3:13] = 1.0
images[0, 2, 18:28, 20:30] = 0.9

# --8<-- [start:call]
explanation = attribute.input_x_gradient(net, images, target=0)
print(
    evaluate.region_perturbation(net, images, explanation)
)  # patches of 9 px, overwritten with noise: higher is better
print(evaluate.selectivity(net, images, explanation))  # patches of 8 px, all of them: lower is better
print(evaluate.irof(net, images, explanation))  # share of the score that goes: higher is better

gain = evaluate.road(net, images, explanation)  # pixels filled in from their neighbours; 0 is chance
print(gain)
print(gain.extras["most_first"], gain.extras["least_first"])  # n fractions: the two curves
# --8<-- [end:call]

# --8<-- [start:superpixels]
labels = torch.zeros(1, 32, 32, dtype=torch.long)  # any numbers, from skimage.segmentation.slic or elsewhere
labels[0, 4:14, 3:13], labels[0, 18:28, 20:30], labels[0, 28:] = 1, 2, 3
print(evaluate.irof(net, images, explanation, segments=labels))
# --8<-- [end:superpixels]

# --8<-- [start:by_hand]
patch = (torch.arange(32) * 4 // 32)[:, None] * 4 + torch.arange(32) * 4 // 32  # 4 × 4 patches, numbered
importance = torch.stack([explanation.heatmap[0][patch == number].sum() for number in range(16)])
overwritten, scores = images.clone(), []
with torch.no_grad():
    scores.append(net(overwritten).softmax(1)[0, 0])
    for number in importance.argsort(descending=True):
        overwritten[:, :, patch == number] = 0
        scores.append(net(overwritten).softmax(1)[0, 0])
curve = torch.stack(scores)
mean_drop = (curve[0] - curve).mean()  # AOPC
# --8<-- [end:by_hand]

score = evaluate.region_perturbation(net, images, explanation, grid=(4, 4), baseline="mean")
torch.testing.assert_close(score.value[0], mean_drop, atol=1e-5, rtol=1e-4)
selectivity = evaluate.selectivity(net, images, explanation, grid=(4, 4))
torch.testing.assert_close(selectivity.value[0], torch.trapezoid(curve) / 16, atol=1e-5, rtol=1e-4)
assert float(gain.value) > 3 * float(gain.stderr)
