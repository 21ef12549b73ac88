"""Change one thing in rendered scenes and nothing else; see which pixels that changed."""

import os
from pathlib import Path

import torch

from glasshouse import data
from glasshouse.report.scenes import contact_sheet, stack_sheets

SIZE = 120
clear = {"occluder": "none", "tail_shown": "yes", "crown_shown": "yes"}
creatures = data.scenes("creatures", 3, size=SIZE, seed=4, fixed={**clear, "category": torch.tensor([9, 2, 5])})

# --8<-- [start:call]
without = creatures.do(remove="tail")
painted = creatures.do(swap={"hue": 0.6, "texture": "rings"})
elsewhere = creatures.do(background="snow")
moved = creatures.do(move=(0.08, -0.05))  # to the right and down, in image sides

changed = (without.images - creatures.images).abs().amax(1)  # n h w: which pixels the tail accounts for
# --8<-- [end:call]

# --8<-- [start:restore]
assert torch.equal(without.do(restore="tail").images, creatures.images)  # to the bit
some = creatures.do(remove="tail", where=torch.tensor([True, False, False]))
assert torch.equal(some.images[1:], creatures.images[1:])
# --8<-- [end:restore]
assert not without.amodal[:, without.part("tail")].any()
assert torch.equal(without.factors["hue"], creatures.factors["hue"])

houses = data.scenes("houses", 3, size=SIZE, seed=11, fixed={"main": "house", "time": "day", "companion": "tree"})


def difference(after: data.Scenes, before: data.Scenes) -> torch.Tensor:
    """Where two sets of scenes differ: light where they do not, black where by all of a channel's range."""
    return 0.95 - 0.95 * (after.images - before.images).abs().amax(1, keepdim=True).expand(-1, 3, -1, -1).sqrt()


def sheet(before: data.Scenes, edits: dict[str, data.Scenes]) -> list:
    """One row for each scene: as it was, then each edit with its difference; names below the last row."""
    columns = [before.images, *(c for after in edits.values() for c in (after.images, difference(after, before)))]
    rows = list(torch.stack(columns, 1))
    names = ["as drawn", *(name for edit in edits for name in (edit, "changed"))]
    return [contact_sheet(row, across=9, captions=names if row is rows[-1] else ()) for row in rows]


edits = {"remove tail": without, "swap colours": painted, "background": elsewhere, "move": moved}
built = {
    "remove door": houses.do(remove="door"),
    "remove tree": houses.do(remove="tree"),
    "swap main: car": houses.do(swap={"main": "car"}),
    "swap time: night": houses.do(swap={"time": "night"}),
}
blocks = [stack_sheets(sheet(*pair), gap_px=6) for pair in ((creatures, edits), (houses, built))]
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
stack_sheets(blocks).save(out / "counterfactuals.png", optimize=True)
