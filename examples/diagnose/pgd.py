"""Creatures that a network takes for whatever it is told to, by changes of 8/255."""

import os
from pathlib import Path

import torch

from glasshouse import data, diagnose, report, zoo

model = zoo.load("creatures_cnn")
scenes = data.scenes("creatures", 8, size=64, seed=1_000_005, labels=False)
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
goal = (scenes.categories + 1) % len(model.class_names)
attacked = diagnose.pgd(model, images, goal, targeted=True)

print(attacked)
print(attacked.success, attacked.distance)  # which ended where they should, and how far they went
far = diagnose.pgd(model, images, norm="l2", epsilon=1.0, step_size=0.2)  # away from the top class, in another ball
print(far)
# --8<-- [end:call]

changed = model.preprocess.pixels(attacked.images)
pairs = zip(attacked.before.tolist(), attacked.after.tolist(), strict=True)
names = [f"{model.label(before)} to {model.label(after)}" for before, after in pairs]
rows = [scenes.images, (0.5 + 15 * (changed - scenes.images)).clamp(0, 1), changed]
big = [torch.nn.functional.interpolate(row, scale_factor=2, mode="nearest") for row in rows]
sheets = [report.contact_sheet(row, across=8) for row in big[:2]]
sheets.append(report.contact_sheet(big[2], across=8, captions=names))

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
page = report.stack_sheets(sheets, ["clean", "the change, 15 times as strong", "clean and change together"])
page.quantize().save(folder / "pgd.png", optimize=True)
