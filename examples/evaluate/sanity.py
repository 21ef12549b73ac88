"""Ask whether a map depends on the weights, on the class and on the decision, or draws the image whatever they are."""

import copy

import torch
from torch import nn

from glasshouse import attribute, evaluate

# A network that has learnt to tell upright from level stripes, and one that was given the labels at random.
seed = torch.Generator().manual_seed(0)


def scenes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a striped patch at a random place, and the direction of its stripes."""
    images, kinds = 0.3 * torch.randn(n, 1, 24, 24, generator=seed), torch.randint(2, (n,), generator=seed)
    wave = 1.5 * torch.cos(torch.arange(9) * 2 * torch.pi / 3).expand(9, 9)
    for image, kind, (row, col) in zip(images, kinds, torch.randint(15, (n, 2), generator=seed), strict=True):
        image[0, row : row + 9, col : col + 9] += wave.T if kind else wave
    return images, kinds


def trained(shuffled: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        images, kinds = scenes(32)
        kinds = kinds[torch.randperm(32, generator=seed)] if shuffled else kinds
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), kinds).backward()
        optimiser.step()
    return net.eval()


net, other_net = trained(shuffled=False), trained(shuffled=True)
images, _ = scenes(4)

# --8<-- [start:call]
for explain in (attribute.saliency, attribute.guided_backprop, attribute.grad_cam):
    explanation = explain(net, images)
    print(f"\n{explanation.method}")
    print(evaluate.randomise_parameters(net, images, explanation))  # random weights: 1 means it never looked at them
    print(evaluate.smooth_mprt(net, images, explanation, n_samples=20))  # the same, without the noise of gradients
    print(evaluate.efficient_mprt(net, images, explanation))  # disorder gained by forgetting: 0 means none
    print(evaluate.data_randomisation(net, images, explanation, other_model=other_net))
    print(evaluate.random_logit(net, images, explanation))  # another class: 1 means it does not matter
    print(evaluate.logit_distance(net, images, explanation))
    print(evaluate.image_recovery(net, images, explanation))
    print(evaluate.input_invariance(net, images, explanation))
# --8<-- [end:call]

# --8<-- [start:cascade]
explanation = attribute.input_x_gradient(net, images)
score = evaluate.randomise_parameters(net, images, explanation, order="top_down", how="reset")
for layer, similarity in zip(score.settings["layers"], score.extras["cascade"].mean(0), strict=True):
    print(f"down to layer {layer}: {similarity:+.2f}")
# --8<-- [end:cascade]

# --8<-- [start:adversarial]
twins, step = images.clone(), 0.2
target = list(explanation.target)
for _ in range(20):  # steps that raise the other class, as diagnose.pgd takes them
    twins = twins - step * attribute.saliency(net, twins, target).native.sign()
print(evaluate.adversarial_sensitivity(net, images, explanation, adversarial=twins))
# --8<-- [end:adversarial]

# --8<-- [start:by_hand]
forgetful = copy.deepcopy(net)
draws = torch.Generator().manual_seed(0)
for parameter in forgetful.parameters():
    order = torch.randperm(parameter.numel(), generator=draws)
    parameter.data = parameter.data.flatten()[order].view_as(parameter)
again = attribute.input_x_gradient(forgetful, images, target)
ranks = [maps.abs().flatten(1).argsort(1).argsort(1).double() for maps in (explanation.heatmap, again.heatmap)]
by_hand = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)])
# --8<-- [end:by_hand]

drawn = evaluate.randomise_parameters(net, images, explanation, n_draws=12)
assert (by_hand - drawn.value).abs().max() < 12**0.5 * 5 * drawn.stderr.max()
