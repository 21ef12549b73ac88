"""Which few units of a middle layer are enough for the class, and what each of them looks for."""

import os
from pathlib import Path

import skimage.data
from PIL import Image, ImageDraw, ImageFont

from glasshouse import attribute, visualize, zoo
from glasshouse.report.picture import to_image

STEPS, SIDE, SMALL, GAP = int(os.environ.get("GLASSHOUSE_STEPS", "48")), 224, 128, 16
model = zoo.load("efficientnet_lite0")
folder = Path(skimage.data.__file__).parent
images = model.preprocess([folder / "coffee.png", folder / "chelsea.png"])

# --8<-- [start:call]
found = attribute.channel_extremal_perturbation(
    model, images, layer="blocks.5.2", areas=(0.05, 0.1, 0.2), n_steps=100, learning_rate=0.05
)

print(found, [model.label(index) for index in found.target])
print(found.top(4))  # n k: the units that are kept first
print(found.extras["masks"].shape)  # n a k: how much of each unit is kept, for each area
print(found.score, found.extras["reward"])  # with all units, and with those kept alone
# --8<-- [end:call]

# --8<-- [start:class]
ranking = found.values.mean(0)  # over photographs of one class this ranks the units of the class
print(ranking.topk(4).indices)
# --8<-- [end:class]

# --8<-- [start:beside]
for name in ("gradient_x_activation", "gradient", "ablation"):
    print(name, found.extras[name].topk(4).indices.tolist())
# --8<-- [end:beside]

sheet = Image.new("RGB", (SIDE + 4 * (SMALL + GAP), 2 * SIDE + GAP), "white")
draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
pixels = model.preprocess.pixels(images)
for row in range(2):
    top, best, without = row * (SIDE + GAP), found.top(4)[row].tolist(), found.extras["ablation"][row]
    sheet.paste(to_image(pixels[row]), (0, top))
    drawn = visualize.render(model, visualize.unit(found.layer, best), size=SMALL, steps=STEPS)
    for column, unit in enumerate(best):
        left = SIDE + GAP + column * (SMALL + GAP)
        sheet.paste(to_image(drawn.pixels[column]), (left, top + 26))
        draw.text((left, top + 160), f"unit {unit}", "#1a1a1a", font)
        draw.text((left, top + 180), f"without it {found.score[row] - without[unit]:.1f}", "#1a1a1a", font)
    kept = ", ".join(f"{reward:.1f}" for reward in found.extras["reward"][row].tolist())
    words = f"{model.label(found.target[row])}: score {found.score[row]:.1f}; of 5, 10, 20 % of the units {kept}"
    draw.text((SIDE + GAP, top + 2), words, "#1a1a1a", font)
target = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
target.mkdir(parents=True, exist_ok=True)
sheet.quantize().save(target / "channel_extremal_perturbation.png", optimize=True)
