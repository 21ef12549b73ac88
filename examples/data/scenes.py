"""Render three worlds, a grid of two factors and a biased set; then write scenes to disk and read them back."""

import os
import shutil
import tempfile
from pathlib import Path

import torch

from glasshouse import data
from glasshouse.data.scene_files import write_scenes
from glasshouse.report.scenes import contact_sheet, stack_sheets

# --8<-- [start:call]
houses = data.scenes("houses", 20, size=112, seed=3)

print(houses, houses.images.shape)
print([houses.class_names[category] for category in houses.categories[:3]])
print(houses.named("time")[:3], houses.factors["horizon"][:3])
print(houses.mask_of("door", "part").shape)  # n h w
print(houses.boxes[0, houses.part("door")])  # top, left, bottom, right
# --8<-- [end:call]

creatures = data.scenes("creatures", 20, size=112, seed=3)
figures = data.scenes("shapes", 20, size=112, seed=3, n_objects=3)

# --8<-- [start:same]
later = data.scenes("houses", 4, size=112, seed=3, start=16)
assert torch.equal(later.images, houses.images[16:])
# --8<-- [end:same]

# --8<-- [start:grid]
factors = {"wag": 5, "tilt": 2}
rows = data.scenes("creatures", grid=factors, size=112, fixed={"category": "jurna", "texture": "dots"})
number = data.scene_grid("creatures", factors)
print(number.levels(torch.tensor([7])))  # which level of each factor scene 7 has
# --8<-- [end:grid]
assert number.index(torch.tensor([[3, 1]])).tolist() == [7]

# --8<-- [start:together]
table = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7]])
biased = data.scenes("houses", 20, size=112, seed=3, together=[data.Joint(("main", "ground"), table)])
# --8<-- [end:together]
assert (biased.factors["main"] == biased.factors["ground"]).float().mean() > 0.5

folder = Path(tempfile.mkdtemp())
# --8<-- [start:write]
written = write_scenes(houses, folder / "houses")  # or format="broden"
print(written, written.ids[0], written[0]["mask"].unique())
# --8<-- [end:write]
assert torch.equal(written.targets, houses.categories)
shutil.rmtree(folder)

sheets = [contact_sheet(s.images, across=10) for s in (houses, creatures, figures, rows)]
titles = ["houses", "creatures", "shapes, three in each", "a grid: five angles of the tail by two of the body"]
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
stack_sheets(sheets, titles).save(out / "scenes.png", optimize=True)
