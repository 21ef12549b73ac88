"""Ask whether a map foresees what a little noise, or a missing square, does to the score."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip
    net[-1].weight.data *= 100  # scores of a trained network are not all the same
images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))

# --8<-- [start:call]
gradient = attribute.saliency(net, images)
noise = evaluate.infidelity(net, images, gradient)  # values per unit of input: Gaussian noise
print(noise, "of what a map of zeros has:", noise.extras["normalised"])

added_up = attribute.integrated_gradients(net, images)
square = evaluate.infidelity(net, images, added_up, perturbation="square", convention="contribution")
print(square, "of what a map of zeros has:", square.extras["normalised"])

answers = evaluate.Answers(net, images, list(gradient.target))  # shared: the noise does not depend on the map
for explain in (attribute.saliency, attribute.guided_backprop, attribute.grad_cam):
    score = evaluate.infidelity(net, images, explain(net, images), scale="optimal", answers=answers)
    print(f"{explain.__name__:16}", score.extras["normalised"], "spent", score.n_forward)
# --8<-- [end:call]

# --8<-- [start:by_hand]
generator = torch.Generator().manual_seed(7)
misses = []
with torch.no_grad():
    clean = net(images)
    target = clean.argmax(1, keepdim=True)
    for _ in range(100):
        change = 0.2 * torch.randn(3, 32, 32, generator=generator)
        foreseen = (gradient.native * change).sum((1, 2, 3))
        drop = (clean - net(images - change)).gather(1, target)[:, 0]
        misses.append((foreseen - drop) ** 2)
misses = torch.stack(misses)
value, error = misses.mean(0), misses.std(0) / 10
# --8<-- [end:by_hand]

assert ((noise.value - value).abs() < 5 * (noise.stderr**2 + error**2).sqrt()).all()
assert (noise.extras["normalised"] < 1).all()
