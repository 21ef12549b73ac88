"""Fit a linear stand-in to a network, see how far it decides alike, and whether others would say the same."""

import torch
from torch import Tensor, nn

from glasshouse import evaluate

# A network that has learnt to tell how a patch on noise is striped: upright, level or not at all.
seed = torch.Generator().manual_seed(0)
with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
stripes = torch.cos(torch.arange(10) * 2 * torch.pi / 3).expand(10, 10)
patches = torch.stack([stripes, stripes.T, torch.full((10, 10), 0.5)])


def scenes(n: int) -> tuple[Tensor, Tensor]:
    """Noise around 0 with one patch at a random place, and the kind of the patch."""
    images, kinds = 0.3 * torch.randn(n, 1, 32, 32, generator=seed), torch.randint(3, (n,), generator=seed)
    for image, kind, (row, col) in zip(images, kinds, torch.randint(22, (n, 2), generator=seed), strict=True):
        image[0, row : row + 10, col : col + 10] += 0.7 * patches[kind]
    return images, kinds


optimiser = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(40):
    images, kinds = scenes(32)
    optimiser.zero_grad()
    nn.functional.cross_entropy(net(images), kinds).backward()
    optimiser.step()
net.eval().requires_grad_(False)


def features(images: Tensor) -> Tensor:
    """Six numbers that a person can check: mean, variance, least and largest value, change along rows and columns."""
    rows, cols = images.diff(dim=2).square().mean((1, 2, 3)), images.diff(dim=3).square().mean((1, 2, 3))
    flat = images.flatten(1)
    return torch.stack([flat.mean(1), flat.var(1), flat.amin(1), flat.amax(1), rows, cols], 1)


def fit(x: Tensor, goal: Tensor) -> Tensor:
    """Weights of a linear model with a constant, by least squares; x is standardised first."""
    return torch.linalg.lstsq(nn.functional.pad(x, (0, 1), value=1.0), goal).solution


images, kinds = scenes(600)
x, logits = features(images), net(images)
x = (x - x[:300].mean(0)) / x[:300].std(0)
weights = fit(x[:300], logits[:300])
surrogate = nn.functional.pad(x, (0, 1), value=1.0) @ weights

# --8<-- [start:call]
fidelity = evaluate.surrogate_fidelity(
    logits[300:],
    surrogate[300:],
    kinds[300:],
    slices={"dark": images[300:].mean((1, 2, 3)) < 0, "bright": images[300:].mean((1, 2, 3)) >= 0},
    images=range(300, 600),
    fitted_on=range(300),  # of which none may be among `images`
)
print(fidelity)
print(fidelity.sentence)
print("R² of the logit", fidelity.r2, "±", fidelity.r2_error)
print("where the network is wrong:", fidelity.where_wrong)
print("worst slice:", *fidelity.worst)
print("look at images", fidelity.disagreement[:5].tolist())
# --8<-- [end:call]

# --8<-- [start:alternative]
to_labels = fit(x[:300], nn.functional.one_hot(kinds[:300], 3).float())
interpretable = nn.functional.pad(x, (0, 1), value=1.0) @ to_labels  # the same model, trained on the truth
print(evaluate.compare_models(logits[300:], interpretable[300:], kinds[300:]))
# --8<-- [end:alternative]

# --8<-- [start:rashomon]
others = [fit(x[rows], logits[rows]) for rows in torch.arange(300).split(30)]
scores = [
    evaluate.surrogate_fidelity(logits[300:], nn.functional.pad(x[300:], (0, 1), value=1.0) @ other) for other in others
]
names = torch.stack([other[:-1].abs().sum(1) for other in others])  # weight of each feature over all classes
print(evaluate.rashomon(names, scores, delta=0.05, top=3))
# --8<-- [end:rashomon]

# --8<-- [start:by_hand]
same = logits[300:].argmax(1) == surrogate[300:].argmax(1)
agreement = float(same.double().mean())
commonest = float(logits[300:].argmax(1).bincount().max()) / 300
# --8<-- [end:by_hand]

assert fidelity.agreement.share == agreement
assert fidelity.chance == commonest < agreement
