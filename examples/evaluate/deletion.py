"""Score a map by deleting what it marks, and take the same curve by hand."""

from dataclasses import replace

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
deletion = evaluate.deletion(net, images, explanation)
insertion = evaluate.insertion(net, images, explanation)
gain = evaluate.srg(net, images, explanation, baseline="mean")

print(deletion)  # area under the curve of the probability: lower is better
print(insertion)  # higher is better
print(gain)  # with a standard error; 0 is chance
curve = deletion.extras["curve"]  # n steps, from the clean to the empty image
# --8<-- [end:call]

# --8<-- [start:by_hand]
order = explanation.heatmap[0].flatten().argsort(descending=True)
steps = [round(step * 1024 / 224) for step in range(225)]
probabilities = []
for count in steps:
    deleted = images.clone().flatten(2)
    deleted[:, :, order[:count]] = 0  # the baseline, in the model's input space
    with torch.no_grad():
        probabilities.append(net(deleted.view_as(images)).softmax(1)[0, 0])
area = torch.trapezoid(torch.stack(probabilities), torch.tensor(steps) / 1024)
# --8<-- [end:by_hand]

torch.testing.assert_close(deletion.value[0], area, atol=1e-4, rtol=1e-3)
assert float(gain.value) > 0.5
noise = replace(explanation, heatmap=torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1)))
assert evaluate.deletion(net, images, noise).value > deletion.value
