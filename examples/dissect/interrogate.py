"""Ask one unit of the house classifier everything, and put it on a page."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import data, dissect, zoo
from glasshouse.report.interrogations import interrogation_page
from glasshouse.report.picture import to_image

n_images = int(os.environ.get("GLASSHOUSE_IMAGES", "200"))
step = 60 if "GLASSHOUSE_STEPS" in os.environ else 15
model = zoo.load("houses_cnn")
pixels = data.scenes("houses", n_images, seed=0).images
layer, unit = "stages.1.0.relu1", 3

# --8<-- [start:call]
asked = {
    "edge": {"orientation": range(0, 360, step)},
    "line": {"orientation": range(0, 180, step), "width": (2, 4, 8)},
    "curve": {"orientation": range(0, 360, step), "radius": (4, 8, 16)},
}
found = dissect.interrogate(model, model.preprocess.normalise(pixels), layer=layer, unit=unit, stimuli=asked)

print(found)
print(found.best_stimulus)  # standard deviations above the mean
print(found.tunings["line"])
print(found.inputs)  # the units in front of it, by the size of the weights, with their sums
print(found.outputs)
# --8<-- [end:call]

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
page = interrogation_page(found, pixels, model=model)
assert "Strongest inputs" in page
assert int(found.counts.sum()) == n_images * found.exemplars.maps.shape[2] * found.exemplars.maps.shape[3]

W, H, font = 300, 170, ImageFont.load_default(13)
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77")
sheet = Image.new("RGB", (3 * W, 2 * H), "white")
pen = ImageDraw.Draw(sheet)
for place, patch in enumerate(found.exemplars.patches(pixels, unit, size=62)[:8]):
    sheet.paste(to_image(patch), (20 + place % 4 * 66, 26 + place // 4 * 66))
pen.text((20, 4), f"unit {unit} of {layer}: strongest patches", fill="black", font=font)
dense = found.log_density
finite = dense[dense.isfinite()]
low, high = float(finite.min()) - 0.3, float(finite.max())
for place, height in enumerate(dense.tolist()):
    if height > low:
        x, y = W + 20 + place * 4, H - 24 - (H - 60) * (height - low) / (high - low)
        pen.rectangle([x, y, x + 3, H - 24], fill=COLOURS[0])
pen.text((W + 20, 4), f"log density; above 0 at {found.firing:.0%} of places", fill="black", font=font)
ends = (float(found.edges[0]), float(found.edges[-1]))
pen.text((W + 20, H - 20), f"{ends[0]:.2g}", fill="black", font=font)
pen.text((2 * W - 50, H - 20), f"{ends[1]:.2g}", fill="black", font=font)
assert found.inputs is not None
end = float(found.inputs.weights.abs().max())
for place in range(min(8, len(found.inputs.units))):
    kernel, x, y = found.inputs.weights[place] / end, 2 * W + 20 + place % 4 * 66, 26 + place // 4 * 70
    red, blue = 1 - (-kernel).clamp(min=0), 1 - kernel.clamp(min=0)
    picture = to_image(torch.stack([red, red.minimum(blue), blue]))
    sheet.paste(picture.resize((48, 48), Image.Resampling.NEAREST), (x, y))
    pen.text((x, y + 49), f"{int(found.inputs.units[place])}", fill="black", font=font)
pen.text((2 * W + 20, 4), f"strongest inputs, in {found.inputs.layer}", fill="black", font=font)
for place, (name, tuning) in enumerate(found.tunings.items()):
    left, curves = place * W, tuning.deviations[0].reshape(len(tuning.axes["orientation"]), -1).T
    top, bottom = float(curves.max()), min(0.0, float(curves.min()))
    for curve, colour in zip(curves.tolist(), COLOURS, strict=False):
        xs = [left + 20 + (W - 40) * at / (len(curve) - 1) for at in range(len(curve))]
        ys = [2 * H - 24 - (H - 60) * (height - bottom) / (top - bottom) for height in curve]
        pen.line(list(zip(xs, ys, strict=True)), fill=colour, width=2, joint="curve")
    pen.text((left + 20, H + 4), f"{name}: up to {top:.1f} deviations", fill="black", font=font)
    pen.text((left + 20, 2 * H - 20), "0°", fill="black", font=font)
    pen.text((left + W - 50, 2 * H - 20), f"{tuning.axes['orientation'][-1]:.0f}°", fill="black", font=font)
sheet.quantize().save(folder / "interrogate.png", optimize=True)
