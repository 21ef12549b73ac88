"""Hold maps against what each part is worth to the model, one's own too; then put the metrics to the test."""

import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, data, evaluate, report, zoo
from glasshouse.core import Explanation
from glasshouse.data import glass
from glasshouse.evaluate.truth.controls import oracle
from glasshouse.report.picture import to_image

N = max(8, min(48, int(os.environ.get("GLASSHOUSE_IMAGES", "12"))))

# --8<-- [start:call]
model = zoo.load("creatures_cnn")
scenes = data.scenes("creatures", N, size=64, seed=1000)
methods = {
    "lrp": attribute.lrp,
    "grad_cam": attribute.grad_cam,
    "guided_backprop": attribute.guided_backprop,
}
found = evaluate.benchmark(model, scenes, methods)
print(found.table())
print(found.ranking("importance"), found.flags("guided_backprop"))
# --8<-- [end:call]


# --8<-- [start:peer]
def gradient(model, images, classes):
    """Any callable will do: images as the model gets them, one class for each, signed maps `n h w`."""
    images = images.clone().requires_grad_()
    scores = model(images).gather(1, classes[:, None])
    (slope,) = torch.autograd.grad(scores.sum(), images)
    return slope.abs().amax(1)


mine = evaluate.benchmark(model, scenes, {"my gradient": gradient})
print(mine.scores["my gradient"]["importance"], mine.flags("my gradient"))
# --8<-- [end:peer]

# --8<-- [start:game]
few = data.scenes("creatures", 4, size=64, seed=1000)  # the first of the same scenes
game = evaluate.play(model, few, ["tail", "legs", "back", "body", "head"])  # 2^5 renderings of each
checked = evaluate.benchmark(model, few, methods, game=game)
print(checked.checks_table())
print(game.shapley)
# --8<-- [end:game]

# --8<-- [start:judge]
wired = glass.wired_classifier()  # its formula is known, so nothing is estimated
shapes = data.scenes("shapes", 16, size=32, seed=3, n_objects=2)
metrics = {"srg": {"n_steps": 8}, "mu_fidelity": {"n_samples": 64}, "monotonicity": {}}
judged = evaluate.judge(wired, evaluate.glass_game(wired, shapes.images), metrics)
print(judged.table())
print(judged.passing, judged.faults("monotonicity"))
# --8<-- [end:judge]

# --8<-- [start:page]
page = report.truth_page({"methods": found, "metrics": judged})  # HTML that opens by a double click
# --8<-- [end:page]

SCALE, TILE, GAP, LEFT, PLOT = 2, 128, 10, 16, 430
INK, SOFT, BLUE, LINE = "#1a1a1a", "#6a6a6a", "#0b5a8a", "#c8c8c8"
ROWS = 3
effects = evaluate.part_effects(model, scenes)
classes = torch.tensor(effects.target)
seen, against = effects.effect.isfinite().sum(1), (effects.effect < 0).any(1)
shown = (seen + 9 * against).argsort(descending=True, stable=True)[:ROWS]  # some part speaks against the class
images = effects.images[shown]
columns = {"oracle": oracle(effects.effect, effects.masks)[shown]}
columns |= {name: method(model, images, classes[shown]).heatmap for name, method in methods.items()}
columns["my gradient"] = gradient(model, images, classes[shown])
painted = {"scene": scenes.images[shown]}
for name, maps in columns.items():
    frame = Explanation(maps, maps, name, tuple(classes[shown].tolist()), effects.score[shown], {})
    painted[name] = report.overlay(scenes.images[shown], frame)

WIDTH, HEIGHT = LEFT + len(painted) * (TILE + GAP) + PLOT, 32 + ROWS * (TILE + GAP) + 4
sheet = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), "white")
draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(SCALE * 15), ImageFont.load_default(SCALE * 13)


def at(*places: float) -> tuple[float, ...]:
    """Places on the sheet, which is drawn larger than it is saved."""
    return tuple(SCALE * place for place in places)


for column, (name, tiles) in enumerate(painted.items()):
    left = LEFT + column * (TILE + GAP)
    draw.text(at(left, 6), name.replace("_", " "), INK, font=font)
    for row, tile in enumerate(tiles):
        picture = to_image(tile).resize(at(TILE, TILE), Image.Resampling.BICUBIC)
        sheet.paste(picture, at(left, 32 + row * (TILE + GAP)))

scores = {**found.scores, **mine.scores}
order = sorted(scores, key=lambda name: -scores[name]["importance"].mean)
left, right, top = LEFT + len(painted) * (TILE + GAP) + 140, WIDTH - 90, 40
step = (HEIGHT - top - 40) / len(order)
chance = scores["constant"]["importance"].mean


def x_of(value: float) -> float:
    """Where a correlation lies."""
    return left + (right - left) * max(0.0, min(1.0, value))


draw.text(at(left - 124, 6), "rank correlation with what parts are worth", INK, font=font)
draw.line(at(x_of(chance), top - 6, x_of(chance), HEIGHT - 30), SOFT, SCALE)
for row, name in enumerate(order):
    y, score = top + (row + 0.5) * step, scores[name]["importance"]
    control = name in ("oracle", "centre", "edges", "constant", "random")
    draw.text(at(left - 12, y), name.replace("_", " "), SOFT if control else INK, font=small, anchor="rm")
    draw.line(at(left, y, right, y), "#e8e8e8", SCALE)
    draw.line(at(x_of(score.mean - score.error), y, x_of(score.mean + score.error), y), BLUE, 2 * SCALE)
    x = x_of(score.mean)
    draw.ellipse(at(x - 5, y - 5, x + 5, y + 5), fill="white" if control else BLUE, outline=BLUE, width=2 * SCALE)
    draw.text(at(right + 12, y), f"{score.mean:.2f} ± {score.error:.2f}", INK, font=small, anchor="lm")
for value in (0.0, 0.5, 1.0):
    draw.text(at(x_of(value), HEIGHT - 16), f"{value:g}", SOFT, font=small, anchor="mm")

folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
sheet = sheet.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
sheet.quantize(256, kmeans=3).save(folder / "truth.png", optimize=True)

assert found.ranking()[0] == "oracle"
assert found.scores["oracle"]["importance"].mean > 0.999
assert found.scores["lrp"]["importance"].mean > chance
assert "class-insensitive" in found.flags("guided_backprop")
assert "class-insensitive" not in found.flags("grad_cam")
assert mine.scores["constant"]["importance"].mean == chance
assert checked.checks["oracle"]["correctness"].mean > 0.99
assert judged.auroc["mu_fidelity"] > judged.auroc["monotonicity"]
assert ">Methods</h2>" in page
