"""Read a folder with one folder per class, masks beside it and one broken file; then the same from a table."""

import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from glasshouse import data

# Discs and squares of several sizes, a mask for each, and a file that was cut short.
root = Path(tempfile.mkdtemp())
for shape in ("disc", "square"):
    for number in range(1, 13):
        photo, mask = Image.new("RGB", (40 + number, 48), "white"), Image.new("L", (40 + number, 48))
        for image, colour in ((photo, "teal"), (mask, 1)):
            draw = ImageDraw.Draw(image)
            (draw.ellipse if shape == "disc" else draw.rectangle)((10, 10, 16 + number, 16 + number), fill=colour)
        for folder, image in (("photos", photo), ("masks", mask)):
            (root / folder / shape).mkdir(parents=True, exist_ok=True)
            image.save(root / folder / shape / f"{number}.png")
broken = root / "photos/square/7.png"
broken.write_bytes(broken.read_bytes()[:60])

# --8<-- [start:call]
photos = data.folder(root / "photos", masks=root / "masks", size=32)

print(photos)
print("\n".join(photos.chosen))  # what was found, in sentences
print(photos.ids[:3], photos[0]["image"].shape, photos[0]["mask"].unique())
# --8<-- [end:call]

# --8<-- [start:check]
report = photos.check()  # reads all of them once
print(report)

left_out = {}
photos = data.folder(root / "photos", masks=root / "masks", size=32, on_skip=left_out.__setitem__)
print(photos, *left_out)
# --8<-- [end:check]

assert list(report.problems) == list(left_out) == ["square/7.png"]

# --8<-- [start:parts]
squares = photos.subset(lambda entry: entry.target == photos.class_names.index("square"))
even = photos.subset(range(0, len(photos), 2))
batch = next(iter(DataLoader(photos, batch_size=8)))
print(len(squares), len(even), batch["image"].shape, batch["mask"].shape, batch["target"])
# --8<-- [end:parts]

# --8<-- [start:manifest]
rows = [f"photos/{name},{name.split('/')[0]},{'test' if i % 4 == 0 else 'train'}" for i, name in enumerate(photos.ids)]
(root / "all.csv").write_text("\n".join(["image,label,split", *rows]))

listed = data.folder(root, manifest="all.csv", size=32)
print(listed.split("test"), listed.class_names)
# --8<-- [end:manifest]

assert len(squares) == 11
assert torch.equal(listed.targets, photos.targets)
assert all(torch.equal(one["image"], other["image"]) for one, other in zip(listed, photos, strict=True))
shutil.rmtree(root)
