"""Everything that is known of a scene: label planes, masks of parts that are hidden in part, boxes and middles."""

import os
from pathlib import Path

import torch

from glasshouse import data
from glasshouse.report.scenes import contact_sheet, mark_parts, paint_labels, stack_sheets

SIZE, PLANES = 160, ("object", "part", "material", "color", "texture")

# --8<-- [start:call]
creature = data.scenes("creatures", 1, size=SIZE, fixed={"category": "ibrik", "occluder": "post", "occluder_x": 0.55})

body, legs = creature.part("body"), creature.part("legs")
seen, whole = creature.masks[0, body], creature.amodal[0, body]  # where it shows; where it would, were nothing in front
row, column, share = creature.parts[0, body].tolist()  # its middle, and how much of it shows
print(creature.part_names)
print(f"body: {int(seen.sum())} of {int(whole.sum())} px are seen ({share:.0%}), middle at {row:.0f}, {column:.0f}")
# --8<-- [end:call]
assert not (seen & ~whole).any()
assert not (seen & creature.masks[0, legs]).any()  # visible masks never overlap
assert 0.3 < share < 1

# --8<-- [start:planes]
plane = creature.labels["part"]  # n h w, places in creature.vocabulary["part"]
names = [creature.vocabulary["part"][number] for number in plane.unique()]
post = creature.mask_of("post", plane="object")  # n h w, bool
# --8<-- [end:planes]
assert "post" in names
assert post.any()


def planes_of(scenes: data.Scenes) -> list[torch.Tensor]:
    """The first scene and its label planes, in colours."""
    return [scenes.images[:1], *(paint_labels(scenes.labels[name], scenes.vocabulary[name]) for name in PLANES)]


def lit(mask: torch.Tensor) -> torch.Tensor:
    """The scene where a mask is, and pale elsewhere."""
    return torch.where(mask, creature.images[0], 0.15 * creature.images[0] + 0.85)[None]


house = data.scenes(
    "houses", 1, size=SIZE, seed=9, fixed={"main": "house", "companion": "tree", "time": "day", "ground": "meadow"}
)
boxes = [mark_parts(scene, 0)[None] for scene in (creature, house)]
parts = [lit(masks[0, body]) for masks in (creature.masks, creature.amodal)]
back = [lit(masks[0, creature.part("back")]) for masks in (creature.masks, creature.amodal)]
sheets = [
    contact_sheet(torch.cat(planes_of(creature)), across=6, captions=["scene", *PLANES]),
    contact_sheet(torch.cat(planes_of(house)), across=6, captions=["scene", *PLANES]),
    contact_sheet(
        torch.cat([*parts, *back, *boxes]),
        across=6,
        captions=["body, seen", "body, whole", "back, seen", "back, whole", "boxes, middles", "boxes, middles"],
    ),
]
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
stack_sheets(sheets).save(out / "scene_labels.png", optimize=True)
