"""Take one cell at a time: what does its value in the map foretell?"""

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
explanation = attribute.integrated_gradients(net, images, target=0)
estimate = evaluate.faithfulness_estimate(net, images, explanation)  # does a cell's value tell what removing it costs?
print(estimate)
print(evaluate.monotonicity(net, images, explanation))  # how often the score does not fall as cells come in
print(evaluate.monotonicity_correlation(net, images, explanation))  # does |value| tell how much any change costs?
silent = evaluate.non_sensitivity(net, images, explanation)  # where one of map and model says "does not matter"
print(silent, "missed", silent.extras["missed"], "in vain", silent.extras["in_vain"])
# --8<-- [end:call]

# --8<-- [start:by_hand]
rows, cols = estimate.settings["grid"]  # 7 × 7
cell = (torch.arange(32) * rows // 32)[:, None] * cols + torch.arange(32) * cols // 32
with torch.no_grad():
    clean = net(images)[0, 0]
    values, drops = [], []
    for number in range(rows * cols):
        values.append(explanation.heatmap[0][cell == number].sum())
        drops.append(clean - net(torch.where(cell == number, 0.0, images))[0, 0])
correlation = torch.corrcoef(torch.stack([torch.stack(values), torch.stack(drops)]))[0, 1]
# --8<-- [end:by_hand]

torch.testing.assert_close(estimate.value[0], correlation, atol=1e-3, rtol=1e-3)


class Either(nn.Module):
    """Sees red in one of two places, or in both: an "or"."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = 10 * torch.maximum(x[:, 0, 4:14, 3:13].mean((1, 2)), x[:, 0, 18:28, 20:30].mean((1, 2)))
        return torch.stack([score, 0 * score], 1)


# --8<-- [start:sets]
either = Either()
twice = torch.zeros(1, 3, 32, 32)
twice[0, 0, 4:14, 3:13] = twice[0, 0, 18:28, 20:30] = 1.0
shares = replace(explanation, heatmap=twice[:, 0] / 20)  # Shapley values: half of the score in each place
alone = evaluate.faithfulness_estimate(either, twice, shares, grid=(7, 7))
sets = evaluate.sensitivity_n(either, twice, shares, grid=(7, 7))
print(alone, alone.reason)
for size, correlation in zip(sets.settings["sizes"], sets.extras["by_size"][0].tolist(), strict=True):
    print(f"{size:3} of 49 cells removed: {correlation:.2f}")
# --8<-- [end:sets]
