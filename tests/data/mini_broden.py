"""A small data set in Broden's format, written with plain csv and Pillow, and what is in it.

64 images and 20 labels, with every way of filling a cell: nothing, one label map, several, one number, several,
both, and zeros for labels that were left out. Numbers have gaps, and go beyond 255.
"""

import csv
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = ("color", "object", "material", "part", "scene", "texture")
SIZE, PLANE_SIZE = (16, 12), (8, 6)
NAMES = {
    1: "black-c",
    2: "red-c",
    3: "sky",
    4: "tree",
    5: "fabric",
    6: "tür",
    8: "wheel",
    9: "leaf, dry",
    10: "wood",
    11: "metal",
    12: "café-s",
    13: "street-s",
    14: "海-s",
    15: "dotted",
    16: "striped",
    17: 'a "quoted" name',
    255: "two hundred and fifty-five",
    256: "two hundred and fifty-six",
    300: "lamp",
    4000: "far away",
}
SYNONYMS = {5: ("cloth", "Stoff"), 14: ("sea", "mer"), 300: ("Leuchte",)}
USED_IN = {
    "color": (1, 2),
    "object": (3, 4, 5, 6, 17, 300, 4000),
    "material": (5, 10, 11),
    "part": (8, 9, 255, 256),
    "scene": (12, 13, 14),
    "texture": (15, 16),
}


@dataclass
class Truth:
    """What one image shows, by category."""

    image: str
    split: str
    pixels: np.ndarray
    planes: dict[str, list[np.ndarray]] = field(default_factory=dict)
    whole: dict[str, list[int]] = field(default_factory=dict)
    cells: dict[str, str] = field(default_factory=dict)


def write(root: Path) -> list[Truth]:
    """Write the data set into a folder, and say what is in it, in the order of its index."""
    draw = np.random.default_rng(0)
    truths = [_truth(number, draw) for number in range(64)]
    for truth in truths:
        file = root / "images" / truth.image
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth.pixels).save(file)
        for category, planes in truth.planes.items():
            names = [f"{truth.image[:-4]}_{category}_{place}.png" for place in range(len(planes))]
            for name, plane in zip(names, planes, strict=True):
                rgb = np.stack([plane % 256, plane // 256, 0 * plane], 2).astype(np.uint8)
                Image.fromarray(rgb).save(root / "images" / name)
            truth.cells[category] = ";".join([*names, truth.cells.get(category, "")]).strip(";")
    sides = (*SIZE, *PLANE_SIZE)
    rows = [[t.image, t.split, *sides, *(t.cells.get(c, "") for c in CATEGORIES)] for t in truths]
    _table(root / "index.csv", ["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES], rows)
    _write_labels(root, truths)
    return truths


def _truth(number: int, draw: np.random.Generator) -> Truth:
    def plane(category: str) -> np.ndarray:
        return draw.choice([0, *USED_IN[category]], PLANE_SIZE)

    suffix = "jpg" if number % 8 == 7 else "png"
    split = "train" if number % 4 else "val"
    truth = Truth(f"src{number % 3}/{number:04d}.{suffix}", split, draw.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    if number != 5:  # one image has nothing at all
        truth.planes["color"] = [plane("color")]
    if number % 8 in (0, 1):
        truth.planes["object"] = [plane("object") for _ in range(1 + number % 8)]
    if number % 8 == 2:  # several label maps, and both kinds in one cell
        truth.planes["part"] = [plane("part") for _ in range(3)]
        truth.planes["material"] = [plane("material")]
        truth.whole["material"], truth.cells["material"] = [10], "10"
    if number % 8 == 3:
        truth.whole["scene"], truth.cells["scene"] = [12 + number % 3], str(12 + number % 3)
    if number % 8 == 4:
        truth.whole["texture"], truth.cells["texture"] = [16, 15], "16;15"
    if number % 8 == 5 and number != 5:
        truth.cells["scene"] = "0"
        truth.whole["texture"], truth.cells["texture"] = [15], "0;15"
    if number % 8 == 6:
        truth.planes["object"] = [plane("object")]
        truth.planes["material"] = [plane("material")]
    return truth


def _write_labels(root: Path, truths: list[Truth]) -> None:
    frequency: dict[str, Counter[int]] = {category: Counter() for category in CATEGORIES}
    coverage: dict[str, defaultdict[int, float]] = {category: defaultdict(float) for category in CATEGORIES}
    for truth in truths:
        for category in CATEGORIES:
            seen = Counter(dict.fromkeys(truth.whole.get(category, []), 1.0))
            for plane in truth.planes.get(category, []):
                for number in plane[plane > 0].tolist():
                    seen[number] += 1 / plane.size
            for number, share in seen.items():
                frequency[category][number] += 1
                coverage[category][number] += share
    listed = []
    for category in CATEGORIES:
        numbers = sorted(frequency[category], key=lambda number: -frequency[category][number])
        rows = [[i + 1, n, NAMES[n], frequency[category][n], coverage[category][n]] for i, n in enumerate(numbers)]
        _table(root / f"c_{category}.csv", ["code", "number", "name", "frequency", "coverage"], rows)
        total = sum(frequency[category].values())
        listed.append([category, min(numbers), max(numbers), len(numbers), total])
    _table(root / "category.csv", ["name", "first", "last", "count", "frequency"], listed)
    rows = []
    for number, name in NAMES.items():
        within = {category: frequency[category][number] for category in CATEGORIES if frequency[category][number]}
        images = ";".join(f"{category}({n})" for category, n in sorted(within.items(), key=lambda pair: -pair[1]))
        covers = sum(coverage[category][number] for category in within)
        rows.append([number, name, images, sum(within.values()), covers, ";".join(SYNONYMS.get(number, ()))])
    _table(root / "label.csv", ["number", "name", "category", "frequency", "coverage", "syns"], rows)


def _table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
