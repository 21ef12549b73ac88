"""Compare maps with masks of the objects, and two scores with the same numbers by hand."""

import torch
from torch import nn

from glasshouse import attribute, evaluate

# A network that measures how much red, green, blue and yellow it sees, and images with a patch of red and one of blue.
net = nn.Sequential(
    nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4, bias=False)
).eval()
with torch.no_grad():
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    net[0].weight.copy_(colours.view(4, 3, 1, 1))
    net[0].bias.copy_(torch.tensor([0.0, 0, 0, -1]))
    net[4].weight.copy_(50 * torch.eye(4) - 10)
images = 0.1 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
red, blue = torch.zeros(2, 4, 32, 32, dtype=torch.bool)
for place in range(4):
    red[place, 4 + place : 14, 3:13] = True
    blue[place, 18:28, 14 + 2 * place : 30] = True
images[:, 0][red] = 1.0
images[:, 2][blue] = 0.9

# --8<-- [start:call]
explanation = attribute.input_x_gradient(net, images, target=0)  # class 0 is red
print(evaluate.pointing_game(net, images, explanation, red))  # does the highest point hit?
mass = evaluate.relevance_mass(net, images, explanation, red)  # which part of the positive mass lies inside?
print(mass, mass.extras["lead"])  # the lead over chance, which is the mask's share of each image

order = evaluate.ordering(explanation, red)  # one sort for all that look at ranks
rank = evaluate.relevance_rank(net, images, explanation, red, order=order)
auc = evaluate.localisation_auc(net, images, explanation, red, order=order)
print(rank, auc, evaluate.mean_iou(net, images, explanation, red, order=order), sep="\n")

gap = evaluate.class_localisation_gap(net, images, explanation, red, blue)  # more on the red patch than on the blue?
print(gap)
# --8<-- [end:call]

# --8<-- [start:boxes]
threshold = evaluate.choose_threshold(explanation, evaluate.mask_boxes(red))  # on a validation split
print(evaluate.max_box_acc(net, images, explanation, red, threshold=threshold))
# --8<-- [end:boxes]

# --8<-- [start:mosaics]
# Images of one colour each: put four together, and ask on which the map of a colour lies.
singles = torch.where(red[:, None], colours.clamp(min=0).view(4, 3, 1, 1), images.clamp(max=0.1))
score = evaluate.grid_pointing_game(net, singles, [0, 1, 2, 3], attribute.input_x_gradient)
print(score)  # one value per mosaic and class
# --8<-- [end:mosaics]

# --8<-- [start:disconnected]
# The colours are read from one cell, and no feature sees beyond its cell: what is marked elsewhere is wrong.
features, head = net[:2], net[2:]
exact = evaluate.disconnected_pointing_game(features, head, singles, [0, 1, 2, 3], attribute.input_x_gradient)
cam = evaluate.disconnected_pointing_game(features, head, singles, [0, 1, 2, 3], attribute.grad_cam)
print(exact, cam, sep="\n")  # Grad-CAM marks its units wherever they are active
# --8<-- [end:disconnected]

# --8<-- [start:by_hand]
positive = explanation.heatmap.clamp(min=0)
shares = (positive * red).sum((1, 2)) / positive.sum((1, 2))

pairs = []
for heatmap, mask in zip(explanation.heatmap, red, strict=True):
    gaps = heatmap[mask][:, None] - heatmap[~mask]  # every pixel inside against every pixel outside
    pairs.append((gaps > 0).float().mean() + (gaps == 0).float().mean() / 2)
# --8<-- [end:by_hand]

torch.testing.assert_close(mass.value, shares)
torch.testing.assert_close(auc.value, torch.stack(pairs))
assert float(gap.value.min()) > 0.9
assert score.mean > 0.9
torch.testing.assert_close(exact.value, torch.ones(64))
