"""Do filters and prototypes follow the parts of rendered creatures? One that does, and some that do not."""

import torch
from torch import Tensor, nn

from glasshouse import core, data, evaluate

scenes = data.scenes("creatures", 60, size=64, seed=0)
names = ["eye", "head", "body", "legs"]
rows = [scenes.part(name) for name in names]
parts, masks, boxes = scenes.parts[:, rows], scenes.masks[:, rows], scenes.boxes[:, rows]

# Eight random filters of two layers, and a ninth that is made from the truth: it points at the eye.
with torch.random.fork_rng():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()).eval()
with torch.no_grad():
    maps = net(scenes.images)
place = core.geometry(net, scenes.images)["3"]  # which pixel each position looks at


def towards(part: Tensor) -> Tensor:
    """A map that is highest at the position nearest to a part."""
    line = place.rows.start + place.rows.jump * torch.arange(place.grid[0])
    away = (line[:, None] - part[:, 0, None, None]) ** 2 + (line - part[:, 1, None, None]) ** 2
    return torch.exp(-away / 50)[:, None]


maps = torch.cat([maps, towards(parts[:, 0])], 1)

# --8<-- [start:call]
seen = evaluate.location_instability(maps, parts, size=(64, 64), place=place)
print(seen)  # peaks anywhere, and peaks of other images, beside it
print(seen.per_filter, seen.chance.mean(1))
# --8<-- [end:call]

# --8<-- [start:detectors]
marks = evaluate.part_interpretability(maps, masks, place=place, field_px=9, level=0.98)
print(marks)
print(marks.share[8], "of the images in which each part is seen are marked by the last filter")
print(marks.rate(8, 0))
# --8<-- [end:detectors]

# --8<-- [start:location]
peaks = parts[:, 0, :2] + 2.0  # what a model says of the eye: always two pixels too low, and too far to the right
print(evaluate.part_localisation(peaks, parts[:, :1], size=(64, 64), boxes=boxes[:, :1]))
# --8<-- [end:location]

# --8<-- [start:prototypes]
print(evaluate.prototype_purity(maps, parts, size=(64, 64), place=place))
print(evaluate.prototype_consistency(maps, parts, size=(64, 64)))
with torch.no_grad():
    noisy = torch.cat([net(evaluate.with_noise(scenes.images)), maps[:, 8:]], 1)
print(evaluate.prototype_stability(maps, noisy, parts, size=(64, 64)))
print(evaluate.part_coverage(maps, parts, size=(64, 64)))
# --8<-- [end:prototypes]

# --8<-- [start:deletion]
largest = nn.Sequential(net, nn.AdaptiveMaxPool2d(1), nn.Flatten())  # eight classes, one for each filter's peak
print(evaluate.prototype_deletion(largest, scenes.images, maps[:, :8], of_prototypes=torch.arange(8), half_px=6))
# --8<-- [end:deletion]

# --8<-- [start:by_hand]
eye, last = parts[:, 0], maps[:, 8].flatten(1).argmax(1)
peak = torch.stack([last // place.grid[1], last % place.grid[1]], 1) * place.rows.jump + place.rows.start
distance = (peak - eye[:, :2]).norm(dim=1) / (64**2 + 64**2) ** 0.5
instability = distance[eye[:, 2] > 0].std()  # of the images in which the eye is seen
# --8<-- [end:by_hand]

torch.testing.assert_close(seen.table[8, 0].float(), instability)
assert seen.per_filter[8] < seen.per_filter[:8].nanmean()
