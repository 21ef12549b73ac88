"""Inverters of three layers of the houses classifier: what each layer has kept of scenes they were not trained on."""

import os
from pathlib import Path

import torch

from glasshouse import data, visualize, zoo
from glasshouse.core import ablate
from glasshouse.report.scenes import contact_sheet, stack_sheets

STEPS = int(os.environ.get("GLASSHOUSE_STEPS", "600"))
IMAGES = int(os.environ.get("GLASSHOUSE_IMAGES", "2000"))
LAYERS = ("stages.0", "stages.2", "flatten")
model = zoo.load("houses_cnn")
images = model.preprocess.normalise(data.scenes("houses", IMAGES, seed=1, size=64).images)
others = data.scenes("houses", min(240, IMAGES), seed=2, size=64)
held_out = model.preprocess.normalise(others.images)
batch_size = min(32, IMAGES // 3)

# --8<-- [start:call]
inverters = [
    visualize.train_inverter(model, images, layer=layer, steps=STEPS, batch_size=batch_size, width=64).measured(
        model, held_out
    )
    for layer in LAYERS
]
for inverter in inverters:
    print(inverter)  # error: distance from the image over the mean distance of two images
# --8<-- [end:call]

blank = (others.images - others.images.mean(0)).square().mean((1, 2, 3)).sqrt() / inverters[0].spread
print(f"error of the mean image: {blank.mean():.3f}")
shown, rows, headings = held_out[:8], [others.images[:8]], ["images that no inverter was trained on"]
for inverter in inverters:
    drawn = inverter.through(model, held_out)
    mean, margin = float(inverter.error.mean()), 1.96 * float(inverter.error.std()) / len(held_out) ** 0.5
    with torch.no_grad():
        same = model(model.preprocess.normalise(drawn)).argmax(1) == model(held_out).argmax(1)
    rows.append(drawn[:8])
    headings.append(
        f"{inverter.layer}, {inverter.units} units on {inverter.grid[0]} x {inverter.grid[1]}: "
        f"error {mean:.3f} ± {margin:.3f}, {inverter.psnr.mean():.1f} dB, same class for {same.float().mean():.0%}"
    )

# --8<-- [start:change]
middle = inverters[1]
maps = middle.maps(model, shown)  # n k i j, to be changed at will and then drawn
strongest = maps.mean((0, 2, 3)).topk(16).indices.tolist()

without = middle.through(model, shown, ablate(strongest))
alone = middle.through(model, shown, visualize.only(strongest))
shuffled = middle.through(model, shown, visualize.permuted())
typical = middle.reconstruct(visualize.class_means(middle.maps(model, held_out), others.categories))
# --8<-- [end:change]

rows += [without, alone, shuffled, typical[:8]]
headings += [
    f"{middle.layer} without its 16 strongest units",
    f"{middle.layer} with these alone",
    f"{middle.layer} with its units in another order",
    f"{middle.layer}, mean features of the first classes",
]
print("\n".join(headings))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
sheets = [contact_sheet(torch.nn.functional.interpolate(row, scale_factor=1.5), across=8) for row in rows]
folder.mkdir(parents=True, exist_ok=True)
stack_sheets(sheets, headings).quantize().save(folder / "train_inverter.png", optimize=True)

assert all(inverter.loss.min() < inverter.loss[0] for inverter in inverters)
if STEPS >= 300:
    errors = [inverter.error for inverter in inverters]
    assert (errors[0] < errors[1]).float().mean() > 0.95  # each layer has lost what the one before has,
    assert (errors[1] < errors[2]).float().mean() > 0.6
    assert errors[2].mean() < 0.95 * blank.mean()  # and the last still tells more than the mean image
