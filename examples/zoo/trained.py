"""Models trained here: what two generators draw, and what happens to roofs when a few units are switched off."""

import os
from pathlib import Path

import torch

from glasshouse import zoo
from glasshouse.core.generative import Generator, LayerEdit
from glasshouse.report import contact_sheet, stack_sheets

# --8<-- [start:call]
generator = Generator.of(zoo.load("houses_gan").module)
segmenter = zoo.load("houses_segmenter")
roof = segmenter.class_names.index("roof")

z = generator.sample_z(48, seed=3)
drawn = generator.synthesize(z, retain=["layers.1"])
roofs = segmenter.module(drawn.pixels).argmax(1) == roof

# the quarter of the 8 × 8 layer's units that are most active where roofs are, beside everywhere else
there = torch.nn.functional.adaptive_avg_pool2d(roofs[:, None].float(), 8)
maps = drawn.activations["layers.1"]
lean = (maps * there).sum((0, 2, 3)) / there.sum() - (maps * (1 - there)).sum((0, 2, 3)) / (1 - there).sum()
units = lean.topk(32).indices.tolist()
without = generator.synthesize(z, edits=[LayerEdit("layers.1", units=units)])
left = (segmenter.module(without.pixels).argmax(1) == roof).sum() / roofs.sum()
print(f"{float(left):.0%} of the roofs' pixels are left")
# --8<-- [end:call]
assert left < 0.6

styled = Generator.of(zoo.load("houses_stylegan").module)
rows = [drawn.pixels[:32], without.pixels[:16], styled.synthesize(styled.sample_z(32, seed=3)).pixels]
big = [torch.nn.functional.interpolate(images, scale_factor=2, mode="nearest") for images in rows]
headings = ["houses_gan", "the first sixteen, with 32 of 128 units of layers.1 switched off", "houses_stylegan"]
page = stack_sheets([contact_sheet(images, across=16) for images in big], headings)

out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
page.save(out / "trained.png", optimize=True)
