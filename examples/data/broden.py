"""Make a small data set in Broden's format from photographs and masks, check it, and read it label by label."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch.utils.data import DataLoader

from glasshouse import data
from glasshouse.core import sweep
from glasshouse.core.stats import Moments

place = TemporaryDirectory()
folder = Path(place.name)

# Ten photographs of a roof under the sky, and a mask for each: 1 is sky, 2 is roof.
for part in ("photos", "masks"):
    (folder / part).mkdir()
for number in range(10):
    height = 8 + 2 * number
    mask = torch.ones(32, 48, dtype=torch.uint8)
    mask[-height:] = 2
    pixels = torch.tensor([[0, 0, 0], [120, 170, 230], [150, 60, 40]], dtype=torch.uint8)[mask.long()]
    Image.fromarray(pixels.numpy()).save(folder / "photos" / f"{number}.png")
    Image.fromarray(mask.numpy()).save(folder / "masks" / f"{number}.png")

# --8<-- [start:build]
items = data.labelled_images(folder / "photos", {"object": folder / "masks"}, size=(32, 32), plane_size=(16, 16))
roofs = data.export_broden(items, folder / "roofs", vocabulary={"object": ("-", "sky", "roof")})
print(roofs)
print(data.check_broden(folder / "roofs"))
# --8<-- [end:build]

# --8<-- [start:call]
roofs = data.broden(folder / "roofs", categories=["object"], split="train", size=(64, 64))
print(roofs.labels[0])
item = roofs[0]
print(item["image"].shape, item["planes"].shape)  # 3 h w pixels in 0…1, m sh sw label numbers
batch = next(iter(DataLoader(roofs, batch_size=4)))
# --8<-- [end:call]
assert batch["planes"].shape == (4, 1, 16, 16)


# --8<-- [start:sweep]
def share(batch: dict[str, torch.Tensor], ids: torch.Tensor) -> tuple[torch.Tensor]:
    """The share of pixels of each label, in each image of a batch."""
    numbers = torch.tensor([label.number for label in roofs.labels])
    return ((batch["planes"][..., None] == numbers).double().flatten(1, 3).mean(1),)


mean = sweep(share, roofs, Moments(), on_skip=print).mean
# --8<-- [end:sweep]

print({label.name: round(float(x), 3) for label, x in zip(roofs.labels, mean.flatten(), strict=True)})
torch.testing.assert_close(float(mean.sum()), 1.0)

# --8<-- [start:own]
maps = [torch.tensor([[1, 2], [0, 1]]), torch.tensor([[0, 3], [0, 0]])]  # the dominant one first
own = data.LabelledImage("mine/1.png", torch.zeros(4, 4, 3, dtype=torch.uint8), {"part": maps}, {"scene": [1]})
words = {"part": ("-", "wall", "roof", "window"), "scene": ("-", "street-s")}
print(data.export_broden([own], folder / "own", vocabulary=words))
# --8<-- [end:own]
place.cleanup()
