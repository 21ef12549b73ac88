"""Network Dissection of a small network trained on houses: what its units detect, how well, and how sure that is."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFont

from glasshouse import data, dissect, zoo
from glasshouse.report.picture import to_image

N = int(os.environ.get("GLASSHOUSE_IMAGES", "480"))

# --8<-- [start:call]
model = zoo.load("houses_cnn")
scenes = data.scenes("houses", N, seed=3, size=model.preprocess.size[0])
labelled = data.inputs(data.with_labels(scenes), model.preprocess)

seen = dissect.units(model, labelled)

print(seen)
print(seen.by_category())  # unique detectors, each unit counted in every category in which it passes
best = int(seen.iou.amax(1).argmax())
print(seen.label(best), seen.iou[best].max(), seen.interval()[best])  # IoU and its 95 % limits
# --8<-- [end:call]

# --8<-- [start:more]
print(seen.of("door").topk(3))  # the units that overlap most with one concept
print(seen.significant.sum(), "units are above what position alone would give")
print(seen.iqr[best].max(), seen.chance_iou[best, seen.best[best]])
# --8<-- [end:more]

with TemporaryDirectory() as place:
    # --8<-- [start:table]
    path = seen.to_csv(f"{place}/houses_cnn.csv")  # the layout of the published tables
    tally = dissect.read_tally(path)
    print(tally.unique("any"), tally.unique("best"))
    # --8<-- [end:table]
    assert tally.by_category() == seen.by_category()

# The best unit of each of the eight concepts that most units detect, on the images that excite it most.
detected = [(seen.label(unit), unit) for unit in seen.detectors.nonzero()[:, 0].tolist()]
counts: dict[str, list[int]] = {}
kinds: dict[str, str] = {}
for label, unit in detected:
    counts.setdefault(label.name, []).append(unit)
    kinds[label.name] = label.category
concepts = sorted(counts, key=lambda name: -len(counts[name]))
chosen = [max(counts[name], key=lambda unit: float(seen.iou[unit].max())) for name in concepts[:8]]
strongest = dissect.exemplars(model, labelled, layer=seen.layer, units=chosen, k=5)

SCALE, TILE, GAP, EDGE, HEAD, BAR = 2, 84, 4, 20, 24, 17
INK, FAINT = "#1a1a1a", "#767676"
PAINT = {"object": "#3b6ea5", "part": "#c2693c", "material": "#7a5c99", "color": "#b8a02e", "texture": "#4f8f5b"}


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


width = 2 * (5 * (TILE + GAP) + EDGE) + EDGE
rows = -(-len(chosen) // 2)
top = rows * (HEAD + TILE + 12) + EDGE
sheet = Image.new("RGB", (width * SCALE, (top + 34 + BAR * len(concepts) + EDGE) * SCALE), "white")
draw = ImageDraw.Draw(sheet)
limits = seen.interval()
for place, unit in enumerate(chosen):
    left = EDGE + place % 2 * (5 * (TILE + GAP) + EDGE)
    head = 12 + place // 2 * (HEAD + TILE + 12)
    label, row = seen.label(unit), seen.row(unit)
    low, high = limits[row].tolist()
    draw.text((left * SCALE, head * SCALE), f"{label.name}, unit {unit}", INK, font=font(13))
    words = f"IoU {float(seen.iou[row].max()):.2f} ({low:.2f} to {high:.2f})"
    draw.text(((left + 5 * (TILE + GAP) - GAP) * SCALE, (head + 1) * SCALE), words, FAINT, font=font(12), anchor="ra")
    for number, photo in enumerate(strongest.masked(scenes.images, unit, dim=0.4)):
        tile = to_image(photo).resize((TILE * SCALE, TILE * SCALE), Image.Resampling.LANCZOS)
        sheet.paste(tile, ((left + number * (TILE + GAP)) * SCALE, (head + HEAD - 3) * SCALE))
total = f"{int(seen.detectors.sum())} of {len(seen.units)} units are detectors. Units by best concept:"
draw.text((EDGE * SCALE, (top + 2) * SCALE), total, INK, font=font(13))
place = width - EDGE
for kind in reversed([kind for kind in PAINT if kind in kinds.values()]):
    draw.text((place * SCALE, (top + 3) * SCALE), kind, FAINT, font=font(12), anchor="ra")
    place -= round(draw.textlength(kind, font(12)) / SCALE) + 16
    draw.rectangle([x * SCALE for x in (place, top + 5, place + 10, top + 15)], PAINT[kind])
    place -= 14
most = max(len(units) for units in counts.values())
for number, name in enumerate(concepts):
    line = top + 30 + BAR * number
    draw.text(((EDGE + 92) * SCALE, line * SCALE), name, INK, font=font(12), anchor="ra")
    length = (width - 2 * EDGE - 140) * len(counts[name]) / most
    bar = (EDGE + 102, line + 1, EDGE + 102 + length, line + BAR - 4)
    draw.rectangle([x * SCALE for x in bar], PAINT.get(kinds[name], FAINT))
    draw.text(((bar[2] + 6) * SCALE, line * SCALE), str(len(counts[name])), FAINT, font=font(12))
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet.quantize(dither=Image.Dither.NONE).save(folder / "units.png", optimize=True)

assert seen.detectors.any()
assert seen.false_positive_rate < 0.05
