"""Give the category away by something that is not its reason; then take that away, or make it lie."""

import os
from pathlib import Path
from typing import get_args

import torch

from glasshouse import data
from glasshouse.data.world.shortcuts import ShortcutKind
from glasshouse.report.scenes import contact_sheet, stack_sheets

SIZE = 120

# --8<-- [start:call]
mark = data.Shortcut("watermark", strength=0.8)
train = data.scenes("creatures", 500, size=32, shortcut=mark, labels=False)
tests = {
    split: data.scenes("creatures", 9, size=SIZE, seed=1, shortcut=mark, split=split)
    for split in ("aligned", "conflicting", "absent")
}
told = (train.signal == train.categories).float().mean()
print(f"the mark is right in {told:.0%} of the images")  # 0.8 + 0.2 / 12
# --8<-- [end:call]
assert abs(told - (0.8 + 0.2 / 12)) < 0.06

# --8<-- [start:do]
marked = tests["aligned"]
lying = marked.do(signal=(marked.categories + 1) % 12)
clean = marked.do(signal=-1)
where = marked.shortcut_mask  # n h w: the pixels that give the category away
# --8<-- [end:do]
assert torch.equal(clean.images, tests["absent"].images)
same = (lying.images == marked.images).all(1)
assert same[~where].float().mean() > 0.99

kinds = get_args(ShortcutKind)
plain = data.scenes("creatures", 3, size=SIZE, seed=4, fixed={"category": torch.tensor([9, 2, 5])})
shown = {
    kind: data.scenes(
        "creatures", 3, size=SIZE, seed=4, fixed={"category": torch.tensor([9, 2, 5])}, shortcut=data.Shortcut(kind)
    ).images
    for kind in kinds
}
shown["pattern, 40-fold"] = (0.5 + 40 * (shown["pattern"] - plain.images)).clamp(0, 1)
rows = list(torch.stack([plain.images, *shown.values()], 1))
names = ["none", *shown]
every = [contact_sheet(row, across=9, captions=names if row is rows[-1] else ()) for row in rows]


def said(scenes: data.Scenes) -> list[str]:
    """What each scene is, and what its mark says."""
    signals = [scenes.class_names[s] if s >= 0 else "nothing" for s in scenes.signal.tolist()]
    return [f"{scenes.class_names[c]}: {s}" for c, s in zip(scenes.categories.tolist(), signals, strict=True)]


splits = [contact_sheet(scenes.images, across=9, captions=said(scenes)) for scenes in tests.values()]
out = Path(os.environ.get("GLASSHOUSE_FIGURES", "figures"))
out.mkdir(parents=True, exist_ok=True)
sheets = [stack_sheets(every, gap_px=6), *splits]
titles = [
    "every kind, telling the category each time",
    "aligned: what each one is, and what its mark says",
    "conflicting",
    "absent",
]
stack_sheets(sheets, titles).save(out / "shortcuts.png", optimize=True)
