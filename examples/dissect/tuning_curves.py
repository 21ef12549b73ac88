"""What early units of EfficientNet-Lite0 are tuned to, beside filters whose tuning is known."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from glasshouse import dissect, zoo
from glasshouse.dissect import stimuli
from glasshouse.report.picture import to_image

quick = "GLASSHOUSE_STEPS" in os.environ
angles = range(0, 360, 30 if quick else 10)

# Four Gabor filters, set by hand: their preferences must come out as they went in.
truth = (0, 30, 90, 120)
glass = nn.Sequential(nn.Conv2d(1, 4, 17, bias=False), nn.ReLU()).eval()
with torch.no_grad():
    for unit, degrees in enumerate(truth):
        wave = stimuli.gabor(degrees, 0.125, sigma=3).pixels((17, 17), channels=1)
        glass[0].weight[unit] = wave - wave.mean()
over = {"orientation": range(0, 180, 15), "frequency": (0.0625, 0.125, 0.25)}
known = dissect.tuning_curves(glass, "grating", over, layer="1", size=17, channels=1)

# --8<-- [start:call]
model = zoo.load("efficientnet_lite0")
tuning = dissect.tuning_curves(
    model, "curve", {"orientation": angles, "radius": (6, 12, 24)}, layer="blocks.2.1", size=80
)

print(tuning)
unit = int(tuning.units[tuning.selectivity().argmax()])
one = tuning.unit(unit)
print(one)  # what it likes best
print(one.half_width())  # how many degrees away from that it answers half as much
print(one.echo(180))  # how much of that it answers to the curve turned by half a turn
print(one.reach("radius"))  # which radii it answers at least half as much
# --8<-- [end:call]

# --8<-- [start:own]
own = dissect.tuning_curves(
    model, lambda gap: stimuli.line(0, width=gap), {"gap": (1, 2, 4)}, layer="blocks.0", size=32
)
# --8<-- [end:own]

assert known.preferred().tolist() == list(truth)
assert known.preferred("frequency").tolist() == [0.125] * 4
assert own.responses.shape == (16, 3)

W, H, font = 300, 190, ImageFont.load_default(13)
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")


def panel(values, curves, names, title, pictures):
    """One chart: curves over degrees, and above them what was shown."""
    sheet = Image.new("RGB", (W, H), "white")
    pen, top = ImageDraw.Draw(sheet), float(curves.max())
    for place, picture in enumerate(pictures):
        sheet.paste(to_image(picture).resize((36, 36)), (20 + round(place * (W - 76) / (len(pictures) - 1)), 22))
    for curve, colour, name, at in zip(curves, COLOURS, names, range(4), strict=False):
        xs = [20 + (W - 40) * float((v - values[0]) / (values[-1] - values[0])) for v in values]
        ys = [H - 26 - (H - 100) * max(0.0, float(height)) / top for height in curve]
        pen.line(list(zip(xs, ys, strict=True)), fill=colour, width=2, joint="curve")
        pen.text((20 + at * 58, H - 18), name, fill=colour, font=font)
    pen.line([(20, H - 25), (W - 20, H - 25)], fill="#888888")
    pen.text((W - 46, H - 18), f"{float(values[-1]):.0f}°", fill="black", font=font)
    pen.text((20, 4), title, fill="black", font=font)
    return sheet


steps = torch.tensor(known.axes["orientation"])
shown = [stimuli.grating(float(step), 0.125).pixels((40, 40)) for step in steps[::3]]
panels = [panel(steps, known.curve(), [f"{at}°" for at in truth], "Gabor filters at 0°, 30°, 90°, 120°", shown)]
best = tuning.selectivity().nan_to_num().masked_fill(tuning.peak < tuning.peak.median(), 0).topk(5).indices
steps = torch.tensor(tuning.axes["orientation"])
shown = [stimuli.curve(at, 12).pixels((40, 40)) for at in (0, 72, 144, 216, 288, 359)]
for row in best.tolist():
    heights = (tuning.responses[row] - tuning.blank[row]).T
    names = [f"r = {radius:.0f}" for radius in tuning.axes["radius"]]
    panels.append(panel(steps, heights, names, f"blocks.2.1, unit {int(tuning.units[row])}: curves", shown))
figure = Image.new("RGB", (3 * W, 2 * H), "white")
for place, one_panel in enumerate(panels):
    figure.paste(one_panel, (place % 3 * W, place // 3 * H))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure.quantize().save(folder / "tuning_curves.png", optimize=True)
