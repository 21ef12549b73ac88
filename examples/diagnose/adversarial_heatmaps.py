"""Whether heat maps give attacked images away, and whether they lead back to the right answer, method by method."""

import json
import os
from functools import partial
from pathlib import Path

import torch

from glasshouse import attribute, data, diagnose, report, zoo

model = zoo.load("creatures_cnn")
count = int(os.environ.get("GLASSHOUSE_IMAGES", "32"))
scenes = data.scenes("creatures", count, size=64, seed=1_000_005, labels=False)
images = model.preprocess.normalise(scenes.images)

# --8<-- [start:call]
attacked = diagnose.pgd(model, images, epsilon=4 / 255, step_size=1 / 255, n_steps=5, random_start=False)
print(attacked)

methods = {
    "meaningful_perturbation": partial(attribute.meaningful_perturbation, n_steps=40, chunk=25),
    "saliency": attribute.saliency,
    "guided_backprop": attribute.guided_backprop,
    "grad_cam": attribute.grad_cam,
}
found, back = {}, {}
for name, explain in methods.items():
    found[name] = diagnose.detect_adversarial(model, images, attacked, explain=explain, chunk=50)
    remove = None if name == "meaningful_perturbation" else 0.1
    back[name] = diagnose.recover_labels(model, attacked, scenes.categories, explain=explain, remove=remove, chunk=50)
# --8<-- [end:call]

# --8<-- [start:table]
DETECTION = ("accuracy", "stderr", "control", "control_stderr")
RECOVERY = ("top", "stderr", "control", "control_stderr", "top_k", "attacked_top_k", "truth", "removed")
for name in methods:
    told, recovered = found[name].to_dict(), back[name].to_dict()
    row = {"detection": {key: round(told[key], 3) for key in DETECTION}}
    row["recovery"] = {key: round(recovered[key], 3) for key in RECOVERY}
    print(f"{name}: {json.dumps(row)}")
# --8<-- [end:table]

shown = attacked.changed.nonzero()[:10, 0]
pairs = {"clean": images[shown], "attacked": attacked.images[shown]}
sheets, headings = [], []
for state, batch in pairs.items():
    pixels, tops = model.preprocess.pixels(batch), model.module(batch).argmax(1).tolist()
    rows = {f"{state}, and what the model says": pixels}
    for name in ("meaningful_perturbation", "saliency"):
        rows[f"{name}, {state}"] = report.overlay(pixels, methods[name](model, batch))
    for place, (heading, row) in enumerate(rows.items()):
        big = torch.nn.functional.interpolate(row, scale_factor=1.5, mode="bilinear")
        names = [] if place else [model.label(top) for top in tops]
        sheets.append(report.contact_sheet(big, across=len(shown), captions=names))
        headings.append(heading)
page = report.stack_sheets(sheets, headings, gap_px=10)

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
page.save(folder / "adversarial_heatmaps.png", optimize=True)
