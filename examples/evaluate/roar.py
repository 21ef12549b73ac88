"""Retrain without what a map marks, with it alone, and without as many random pixels."""

import torch

from glasshouse import attribute, evaluate
from glasshouse.core.mask import blend
from glasshouse.evaluate.faithfulness.retraining import train_small_cnn


def scenes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a square at a random place: red is class 0, blue class 1."""
    draws = torch.Generator().manual_seed(seed)
    images, kinds = 0.5 * torch.randn(n, 3, 14, 14, generator=draws), torch.randint(2, (n,), generator=draws)
    for image, kind, (row, col) in zip(images, kinds, torch.randint(11, (n, 2), generator=draws), strict=True):
        image[2 * kind, row : row + 4, col : col + 4] += 1.5
    return images, kinds


def fit(images: torch.Tensor, kinds: torch.Tensor, seed: int) -> torch.nn.Module:
    return train_small_cnn(images, kinds, seed, n_steps=60, batch=32, width=8)


# --8<-- [start:call]
(train, train_kinds), (test, test_kinds) = scenes(300, seed=0), scenes(300, seed=1)
net = fit(train, train_kinds, 0)  # the network that is explained; each map is about the image's own class
signed = [attribute.input_x_gradient(net, *part).heatmap for part in ((train, train_kinds), (test, test_kinds))]
maps = [heatmaps.abs() for heatmaps in signed]

settings = {"fit": fit, "fractions": (0.1, 0.3), "n_seeds": 2}
removed = evaluate.roar(train, train_kinds, test, test_kinds, *maps, **settings)
kept = evaluate.kar(train, train_kinds, test, test_kinds, *maps, **settings)

print(removed)  # below 0: worse without the marked pixels than without random ones
print(kept)  # above 0: better with the marked pixels alone than with random ones
for name, result in (("clean", removed.clean), ("without", removed.accuracy), ("without random", removed.random)):
    print(f"{name:15}", result.mean(-1))
# --8<-- [end:call]

# --8<-- [start:leak]
leaking = evaluate.roar(train, train_kinds, test, test_kinds, *signed, **settings)
print("signed         ", leaking.accuracy.mean(-1))  # rises with the share removed: what is left tells the class
# --8<-- [end:leak]

# --8<-- [start:by_hand]
colour = train.mean((0, 2, 3)).view(1, 3, 1, 1)


def without(images: torch.Tensor, heatmaps: torch.Tensor, fraction: float) -> torch.Tensor:
    count = round(fraction * heatmaps[0].numel())
    least = heatmaps.flatten(1).topk(count).values[:, -1]
    return blend(images, heatmaps < least[:, None, None], colour)


retrained = fit(without(train, maps[0], 0.3), train_kinds, 0)
with torch.no_grad():
    accuracy = (retrained(without(test, maps[1], 0.3)).argmax(1) == test_kinds).float().mean()
# --8<-- [end:by_hand]

assert leaking.accuracy[1].min() > leaking.accuracy[0].max()
torch.testing.assert_close(accuracy, removed.accuracy[1, 0])
