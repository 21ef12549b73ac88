"""Ask models whose inner truth is known: what an explanation should say, and what it does say."""

import torch

from glasshouse import attribute
from glasshouse.core.generative import Generator, LayerEdit
from glasshouse.data import glass

# --8<-- [start:call]
model = glass.logic_gates()  # and, or, xor of two patches, wherever they are
images = torch.zeros(1, 3, 48, 48)
images = glass.stamp(images, glass.plate(6), 4, 6)
images = glass.stamp(images, glass.plate(9), 30, 26)

truth = model.truth
print(model(images))  # and, or, xor: 1, 1, 0
print(truth.region_names, truth.shapley(images)[0])  # 1/2, 1/2, 0 for each of the patches
print(truth.removal(images)[0])  # 1 for and, 0 for or, -1 for xor
# --8<-- [end:call]

assert torch.allclose(truth.shapley(images)[0], torch.tensor([0.5, 0.5, 0.0]).expand(2, 3), atol=1e-4)

# --8<-- [start:check]
heatmap = attribute.input_x_gradient(model, images, model.index("and")).heatmap.abs()
share = heatmap[truth.pixels(images)].sum() / heatmap.sum()
print(f"{share:.0%} of the heat map lies where the evidence is")
# --8<-- [end:check]

assert not heatmap[~truth.pixels(images)].any()

# --8<-- [start:units]
wired = glass.wired_classifier()
print(wired.truth.units["code"], wired.truth.idle["code"])  # units that some class reads, and the others
rotated = glass.planted_concept("red", unit=5, shared=(1, 5, 6))
print(rotated.truth.directions["code"][5])  # where in the layer "red" is: no single unit
# --8<-- [end:units]

assert wired.truth.idle["code"] == (5, 6, 7)

# --8<-- [start:generator]
network = glass.MaskGenerator(64, rotation=glass.random_rotation(12), n_artifacts=2)
generator = Generator.of(network)
z = generator.sample_z(4, seed=0)
house = network.units_of("class", "house")
without = generator.synthesize(z, edits=[LayerEdit("occupancy", units=house)]).image
print(network.units[house[0]], network.factor_names[1], network.directions[1])
# --8<-- [end:generator]

label = 1 + glass.CLASSES.index("house")
whole = network.seen(z.data)[:, label - 1] == 1  # not the soft pixels of outlines
assert whole.any()
assert (network.segment(network(z.data))[whole] == label).all()
assert (network.segment(without)[whole] == 0).all()
