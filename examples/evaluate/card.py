"""Read the cards of three methods on one image, and what speaks against each of them."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

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


def scenes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise around 0 with one patch at a random place, and the kind of the patch."""
    images, kinds = 0.3 * torch.randn(n, 1, 32, 32, generator=seed), torch.randint(3, (n,), generator=seed)
    for image, kind, (row, col) in zip(images, kinds, torch.randint(22, (n, 2), generator=seed), strict=True):
        image[0, row : row + 10, col : col + 10] += 1.5 * patches[kind]
    return images, kinds


optimiser = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(25):
    images, kinds = scenes(32)
    optimiser.zero_grad()
    nn.functional.cross_entropy(net(images), kinds).backward()
    optimiser.step()
net.eval()
images, kinds = scenes(16)
upright = images[kinds == 0][:1]

# --8<-- [start:call]
explanation = attribute.input_x_gradient(net, upright, target=0)
print(explanation.card.sentences[0])  # made when it is first read, at a price that suits the method's

card = evaluate.card(net, upright, explanation, tier="standard")  # or as much as you want to know
for name, score in card.scores.items():
    print(f"{name:22}", score, score.reason[0] or evaluate.verdicts(score)[0])  # or why there is none
print(evaluate.lights(card))  # how many maps that know nothing of a model do worse
# --8<-- [end:call]

# --8<-- [start:compare]
answers = evaluate.Answers(net, upright, target=0)  # what one card has asked costs the next nothing
for explain in (attribute.input_x_gradient, attribute.grad_cam, attribute.guided_backprop):
    explanation = explain(net, upright, target=0)
    card = evaluate.card(net, upright, explanation, tier="standard", answers=answers)
    print(f"\n{explanation.method}: {card.sentences[0]}")
    for warning in evaluate.warnings(explanation, card):
        print("  !", warning)
# --8<-- [end:compare]

# --8<-- [start:by_hand]
metrics = (evaluate.srg, evaluate.mu_fidelity, evaluate.class_sensitivity, evaluate.randomise_parameters)
scores = [metric(net, upright, explanation) for metric in metrics]
for score in scores:
    print(score)
# --8<-- [end:by_hand]

assert torch.isclose(card.scores["srg"].value, scores[0].value, atol=1e-4).all()
