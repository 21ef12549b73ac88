"""The first filters of EfficientNet-Lite0, and what the patch embedding of a small vision transformer spans."""

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glasshouse import visualize, zoo
from glasshouse.report.picture import to_image

model = zoo.load("efficientnet_lite0")

# --8<-- [start:call]
seen = visualize.first_layer_filters(model)

print(seen)
print(seen.units[seen.dead])  # hardly any weight at all: their pictures are rounding noise
print(seen.colour.sort(descending=True).indices[:5])  # the filters that see most of their energy in colour
print(seen.duplicates)  # pairs along one line
sheet = seen.sheet(columns=8, zoom=14)  # c h w in 0…1
# --8<-- [end:call]

# --8<-- [start:pixels]
on_pixels = visualize.first_layer_filters(model, acting_on="pixels")  # W / std, with the model's preprocessing
# --8<-- [end:pixels]

# --8<-- [start:components]
embedding = visualize.first_layer_filters(zoo.load("creatures_vit"))
components = embedding.components(28)
print(components)  # with the share of the filters' variance that they hold together
# --8<-- [end:components]

font, edge, head = ImageFont.load_default(15), 16, 30
panels = [
    (f"EfficientNet-Lite0, {len(seen.units)} filters of 3 x 3", sheet),
    (f"creatures_vit, first 28 components of {len(embedding.units)} filters", components.sheet(columns=7, zoom=6)),
]
pictures = [to_image(picture) for _, picture in panels]
width, height = sum(p.width for p in pictures) + 3 * edge, max(p.height for p in pictures) + head + 2 * edge
figure = Image.new("RGB", (width, height), "white")
left = edge
for (words, _), picture in zip(panels, pictures, strict=True):
    ImageDraw.Draw(figure).text((left, edge - 4), words, "#1a1a1a", font=font)
    figure.paste(picture, (left, edge + head - 8))
    left += picture.width + edge
folder = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
folder.mkdir(parents=True, exist_ok=True)
figure.save(folder / "first_layer_filters.png", optimize=True)

assert seen.weights.shape == (32, 3, 3, 3)
assert (seen.norm[seen.dead] < 1e-6).all()
std = model.preprocess.std
assert on_pixels.weights[:, 0].allclose(seen.weights[:, 0] / std[0])
