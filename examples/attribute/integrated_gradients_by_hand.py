"""Integrated gradients as a loop, and the same from one call."""

from pathlib import Path

import skimage.data
import torch

from glasshouse import attribute, zoo

model = zoo.load("efficientnet_lite0")
images = model.preprocess(Path(skimage.data.__file__).parent / "chelsea.png")

# --8<-- [start:by_hand]
target = int(model(images)[0].argmax())
total = torch.zeros_like(images)
for step in range(10):
    place = (step + 0.5) / 10  # the midpoint of each tenth of the way
    point = (place * images).requires_grad_()
    (gradient,) = torch.autograd.grad(model(point)[0, target], point)
    total += gradient / 10
values = images * total  # the way starts at 0, so image minus baseline is the image
# --8<-- [end:by_hand]

called = attribute.integrated_gradients(model, images, target, n_steps=10, rule="midpoint")
assert (called.native - values).norm() < 0.01 * values.norm()  # rounding opens or closes a ReLU here and there
