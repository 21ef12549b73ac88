"""Ask how much a map moves when the image hardly does, and whether equal maps mean equal decisions."""

import torch
from torch import nn

from glasshouse import attribute, evaluate
from glasshouse.core import Model, Preprocess

with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    ).eval()  # fmt: skip
model = Model.of(net, preprocess=Preprocess(size=(24, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
pixels = torch.rand(6, 3, 24, 32, generator=torch.Generator().manual_seed(1))
images = model.preprocess.normalise(pixels)

# --8<-- [start:call]
for explain in (attribute.saliency, attribute.input_x_gradient, attribute.grad_cam):
    explanation = explain(model, images)
    print(f"\n{explanation.method}")
    print(evaluate.max_sensitivity(model, images, explanation, radius=0.02))  # of pixels in 0…1: 5 levels of 255
    print(evaluate.avg_sensitivity(model, images, explanation, radius=0.02))
    print(evaluate.local_lipschitz(model, images, explanation, radius=0.02))
    print(
        evaluate.continuity(model, images, explanation),
        evaluate.continuity(model, images, explanation, equivariant=True),
    )
    for metric in (
        evaluate.relative_input_stability,
        evaluate.relative_output_stability,
        evaluate.relative_representation_stability,
    ):
        score = metric(model, images, explanation, denom="norm", radius=0.02)
        print(score, "dropped", score.extras["dropped"].tolist())
# --8<-- [end:call]

# --8<-- [start:seeds]
for n_samples in (4, 40):
    smooth = attribute.smooth(model, images, n_samples=n_samples)
    print(n_samples, "samples:", evaluate.ranking_stability(model, images, smooth, across="seeds"))
# --8<-- [end:seeds]

# --8<-- [start:groups]
draws = torch.Generator().manual_seed(2)
scenes = 0.3 * torch.rand(60, 3, 24, 32, generator=draws)  # a bright square in one of four places, red or blue
for scene, place, colour in zip(scenes, range(60), torch.randint(2, (60,), generator=draws).tolist(), strict=True):
    row, column = 2 + 12 * (place % 2), 2 + 18 * (place // 2 % 2)
    scene[2 * colour, row : row + 9, column : column + 9] = 1.0
many = model.preprocess.normalise(scenes)
with torch.no_grad():
    net[-1].bias -= net(many).mean(0)  # so that all classes occur

explanation = attribute.input_x_gradient(model, many)
for score in (
    evaluate.consistency(model, many, explanation),
    evaluate.sufficiency(model, many, explanation, similarity=0.2),
):
    print(score, "with", score.extras["neighbours"].mean().item(), "other images of like maps on average")
# --8<-- [end:groups]

# --8<-- [start:by_hand]
explanation = attribute.input_x_gradient(model, images)
predicted, worst = net(images).argmax(1), torch.zeros(6)
for number in range(10):
    draws = torch.Generator().manual_seed(number)
    step = (2 * torch.rand(3, 24, 32, generator=draws, dtype=torch.float64) - 1).float()
    copies = images + 0.02 / 0.25 * step  # the radius, in units of the model's input
    moved = attribute.input_x_gradient(model, copies, list(explanation.target)).native
    change = (moved - explanation.native).flatten(1).norm(dim=1) / explanation.native.flatten(1).norm(dim=1)
    worst = torch.where(net(copies).argmax(1) == predicted, worst.maximum(change), worst)
# --8<-- [end:by_hand]

score = evaluate.max_sensitivity(model, images, explanation, radius=0.02)
torch.testing.assert_close(score.value, worst, atol=1e-4, rtol=1e-3)
