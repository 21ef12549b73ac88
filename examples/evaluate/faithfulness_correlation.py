"""Ask whether a map's sum over random sets of pixels tells how much the score falls without them."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    ).eval()  # fmt: skip
images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))

# --8<-- [start:call]
explanation = attribute.integrated_gradients(net, images, n_steps=16)
print(evaluate.faithfulness_correlation(net, images, explanation))

answers = evaluate.Answers(net, images, list(explanation.target))  # shared: the sets do not depend on the map
for explain in (attribute.integrated_gradients, attribute.saliency, attribute.guided_backprop):
    score = evaluate.mu_fidelity(net, images, explain(net, images), answers=answers)
    print(explain.__name__, score, "spent", score.n_forward)
# --8<-- [end:call]

# --8<-- [start:by_hand]
generator = torch.Generator().manual_seed(0)
sums, drops = [], []
with torch.no_grad():
    clean = net(images)
    target = clean.argmax(1)
    for _ in range(100):
        removed = torch.zeros(32 * 32, dtype=torch.bool)
        removed[torch.randperm(32 * 32, generator=generator)[:224]] = True
        removed = removed.view(32, 32)
        sums.append((explanation.heatmap * removed).sum((1, 2)))
        drop = clean - net(torch.where(removed, 0.0, images))
        drops.append(drop.gather(1, target[:, None])[:, 0])
sums, drops = torch.stack(sums, 1), torch.stack(drops, 1)
correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(sums, drops, strict=True)]
# --8<-- [end:by_hand]

score = evaluate.faithfulness_correlation(net, images, explanation)
torch.testing.assert_close(score.value, torch.stack(correlations), atol=1e-3, rtol=1e-3)
