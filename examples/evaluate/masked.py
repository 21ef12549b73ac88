"""Look at an image through its map, and disturb what is marked and what is not."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

# A network that measures how much red and how much blue it sees, and images with a patch of each.
net = nn.Sequential(
    nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)
).eval()
with torch.no_grad():
    net[0].weight.copy_(torch.tensor([[1.0, -1, -1], [-1, -1, 1]]).view(2, 3, 1, 1))
    net[0].bias.zero_()
    net[4].weight.copy_(torch.tensor([[10.0, -5.0], [-5.0, 10.0]]))
images = 0.3 * torch.rand(4, 3, 24, 32, generator=torch.Generator().manual_seed(0))
images[:, 0, 4:14, 3:17] = torch.tensor([0.6, 0.8, 1.0, 1.2]).view(4, 1, 1)
images[:, 2, 14:22, 18:30] = 0.7

# --8<-- [start:call]
explanation = attribute.grad_cam(net, images, target=0, layer="1")
answers = evaluate.Answers(net, images, list(explanation.target))  # the three below need the same two passes
drop = evaluate.average_drop(net, images, explanation, answers=answers)
rise = evaluate.increase_in_confidence(net, images, explanation, answers=answers)
gain = evaluate.average_gain(net, images, explanation, answers=answers)
print(drop, rise, gain, sep="\n")

both = evaluate.adcc(net, images, explanation)  # runs Grad-CAM once more, on the masked images
print(both, {name: value.mean().item() for name, value in both.extras.items()})
# --8<-- [end:call]

# --8<-- [start:needed]
print(evaluate.pgi(net, images, explanation))  # noise on the top quarter should move the score …
print(evaluate.pgu(net, images, explanation))  # … more than noise on the rest
print(evaluate.pgi(net, images, explanation, baseline="mean"))  # what if it were not there at all?
for baseline in ("noise", "mean"):  # pixels that must stay for the score to stay
    needed = evaluate.effective_complexity(net, images, explanation, baseline=baseline)
    print(needed, needed.extras["share"])
# --8<-- [end:needed]

# --8<-- [start:by_hand]
heatmap = explanation.heatmap
low, high = heatmap.amin((1, 2), keepdim=True), heatmap.amax((1, 2), keepdim=True)
mask = ((heatmap - low) / (high - low))[:, None]
with torch.no_grad():
    before, behind = net(images).softmax(1)[:, 0], net(images * mask).softmax(1)[:, 0]
drops = (before - behind).clamp(min=0) / before
gains = (behind - before).clamp(min=0) / (1 - before)
# --8<-- [end:by_hand]

torch.testing.assert_close(drop.value, drops, atol=1e-5, rtol=1e-4)
torch.testing.assert_close(gain.value, gains, atol=1e-5, rtol=1e-4)
torch.testing.assert_close(rise.value, (behind > before).float())
