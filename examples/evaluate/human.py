"""Ask people, and simulated students, whether explanations help them to tell what a model does."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from glasshouse import attribute, evaluate, report

seed = torch.Generator().manual_seed(0)


class Patch(nn.Module):
    """Answers with the strongest colour of one patch and sees nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patch = x[:, :, 4:12, 20:28].mean((2, 3))
        return torch.cat([patch, patch[:, :2].sum(1, keepdim=True) / 2], 1)


def scenes(n: int) -> torch.Tensor:
    """Squares of random colours."""
    return nn.functional.interpolate(torch.rand(n, 3, 8, 8, generator=seed), (32, 32))


net, images = Patch().eval(), scenes(24)
names = ["red", "green", "blue", "yellow"]
ranked = net(images).argsort(1, descending=True)  # of each image, the predicted class first
folder = tempfile.TemporaryDirectory()

# --8<-- [start:study]
four = [attribute.input_x_gradient(net, images, ranked[:, place].tolist()) for place in range(4)]
study = evaluate.human_study("distinction", images, four, n_trials=12, seed=2024)
page, key = report.write_form(study, folder.name)  # hand out form-….html, keep key-….json

print(study)
# --8<-- [end:study]

# --8<-- [start:other_kinds]
truth = ranked[:, 0].clone()
truth[:12] = ranked[:12, 1]  # as if half of the predictions were wrong
agreement = evaluate.human_study("agreement", images, four[0], truth=truth, class_names=names)

other = attribute.saliency(net, images)  # stands for the maps of a second model
bias = evaluate.human_study("bias", images, [four[0], other], truth=[True, False], n_maps=4)
report.write_form(bias, folder.name, instructions="The models were asked for the strongest colour.")
# --8<-- [end:other_kinds]

# What the form saves; here somebody who finds three of four maps.
lines = ["study,participant,trial,answer,confidence"]
for number, trial in enumerate(study.trials):
    said = study.key.answers[trial.name] if number % 4 else ""
    lines.append(f"{study.name},ann,{trial.name},{said},3")
answers = Path(folder.name) / "answers.csv"
answers.write_text("\n".join(lines))

# --8<-- [start:score]
score = evaluate.score_study(key, [answers])
print(score)  # with an exact interval; chance is 25 %
for person in score.participants:
    print(person.name, person.n_right, "of", person.n_answered, "right,", person.n_missing, "left open")
# --8<-- [end:score]

# --8<-- [start:students]
lessons, tests = scenes(60), scenes(200)
found = evaluate.simulated_students(net, lessons, tests, {"saliency": attribute.saliency}, grid=(8, 8))
for method, gain in found.items():
    print(f"{method:9}", gain)
# --8<-- [end:students]

# --8<-- [start:by_hand]
said = net(lessons).argmax(1)
maps = attribute.saliency(net, lessons, said.tolist()).heatmap
cells = nn.functional.avg_pool2d(lessons, 4).flatten(2).double()
weight = nn.functional.avg_pool2d(maps, 4).flatten(1).double()
cells_of_tests = nn.functional.avg_pool2d(tests, 4).flatten(2).double()
right = []
for test, answer in zip(cells_of_tests, net(tests).argmax(1), strict=True):
    gap = ((test - cells) / cells.std(0)).square().sum(1)  # of each lesson, in each cell
    distance = (weight * gap).sum(1) / weight.sum(1)  # where that lesson's map says that it matters
    nearest = said[distance.topk(5, largest=False).indices]
    votes = nearest.bincount(1 + 0.5 ** torch.arange(1.0, 6.0), minlength=4)  # the nearest decides equal votes
    right.append(votes.argmax() == answer)
# --8<-- [end:by_hand]

assert len(agreement.trials) == 24
assert (score.n_answered, score.n_missing, score.accuracy) == (9, 3, 1.0)
assert found["saliency"].interval_over_random[0] > 0
assert found["constant"].gain == 0
by_hand = float(torch.stack(right).double().mean())
assert by_hand == found["saliency"].accuracy[0]
folder.cleanup()
