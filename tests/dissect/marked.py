"""A labelled data set in memory, and Network Dissection of it by loops over images, units, labels and pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glasshouse.core.labelled import Label

NAMES = ("color", "object", "part")


class Marked:
    """Images with label maps and labels of whole images, all of them random."""

    categories = NAMES

    def __init__(self, n: int = 24, image: tuple[int, int] = (14, 18), labels: tuple[int, int] = (7, 9), seed: int = 0):
        source = torch.Generator().manual_seed(seed)
        # Numbers have gaps. Label 7 is written into planes of two categories, and belongs to one of them.
        kinds = {1: "color", 2: "color", 4: "object", 5: "object", 7: "part", 9: "part", 12: "object"}
        self.labels = tuple(Label(number, f"l{number}", kind) for number, kind in kinds.items())
        self.images = torch.randn(n, 3, *image, generator=source).double()
        self.planes = torch.zeros(n, 3, *labels, dtype=torch.long)
        self.plane_category = torch.full((n, 3), -1)
        self.whole = torch.zeros(n, 2, dtype=torch.long)
        written = {0: (0, 1, 2), 1: (0, 4, 5, 7), 2: (0, 7, 9)}
        for row in range(n):
            for place, category in enumerate(([], [0], [1, 1], [2, 1], [0, 1, 2])[row % 5]):
                numbers = torch.tensor(written[category])
                drawn = torch.randint(0, len(numbers), labels, generator=source)
                self.planes[row, place], self.plane_category[row, place] = numbers[drawn], category
            if row % 3 == 0:
                self.whole[row] = torch.tensor([(12, 0), (7, 12), (12, 12)][row // 3 % 3])
        self.ids = [f"photo {row}" for row in range(n)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        places = {"plane_category": self.plane_category[index], "whole_category": (self.whole[index] > 0).long() - 1}
        return {"image": self.images[index], "planes": self.planes[index], "whole": self.whole[index], **places}


@dataclass
class Loops:
    """What the loops give: thresholds, and pixels by unit and by label number."""

    thresholds: list[float]
    shared: np.ndarray
    area: np.ndarray
    everywhere: np.ndarray
    truth: np.ndarray
    seen_in: np.ndarray

    def iou(self, unit: int, label: int, local: bool = True) -> float:
        """As sec. 2 of the paper has it, with the areas of the category's images or of all."""
        area = self.area[unit, label] if local else self.everywhere[unit]
        return self.shared[unit, label] / max(area + self.truth[label] - self.shared[unit, label], 1)


def mixed(a: float, b: float, share: float) -> float:
    return a + share * (b - a)


def enlarged(grid: np.ndarray, y: float, x: float, border: str) -> float:
    """A map's value between its grid points: the four around it, weighted by how near they are."""

    def value(i: int, j: int) -> float:
        inside = 0 <= i < grid.shape[0] and 0 <= j < grid.shape[1]
        return grid[i, j] if inside else 0.0

    if border == "goes on":
        y, x = min(max(y, 0.0), grid.shape[0] - 1.0), min(max(x, 0.0), grid.shape[1] - 1.0)
    i, j = int(np.floor(y)), int(np.floor(x))
    top = mixed(value(i, j), value(i, j + 1), x - j) if x > j else value(i, j)
    bottom = mixed(value(i + 1, j), value(i + 1, j + 1), x - j) if x > j else value(i + 1, j)
    return mixed(top, bottom, y - i) if y > i else top


def place_of(pixel: int, n_pixels: int, n_image: int, n_points: int, start: float, jump: float, how: str) -> float:
    """Where on the grid a pixel of the label map lies."""
    if how == "half_pixel":
        return (pixel + 0.5) / n_pixels * n_points - 0.5
    step = n_image / n_pixels
    step = round(step) if step >= 1 and abs(step - round(step)) < 0.05 else step
    return (pixel * step - start) / jump


def loops(
    maps: Tensor,
    items: Sequence[dict[str, Tensor]],
    labels: Sequence[Label],
    *,
    start: float,
    jump: float,
    size: tuple[int, int],
    how: str = "centers",
    level: float = 0.995,
    over_enlarged: bool = False,
    dedupe: bool = False,
) -> Loops:
    """Everything in double precision, one number at a time."""
    n, u, *grid = maps.shape
    last, image = max(label.number for label in labels), tuple(items[0]["image"].shape[1:])
    kinds = {label.number: label.category for label in labels}
    at = [
        [place_of(p, size[axis], image[axis], grid[axis], start, jump, how) for p in range(size[axis])]
        for axis in (0, 1)
    ]
    border = "zero" if how == "zero" else "goes on"
    large = np.array(
        [
            [[[enlarged(maps[x, k].numpy(), y, z, border) for z in at[1]] for y in at[0]] for k in range(u)]
            for x in range(n)
        ]
    )
    values = large if over_enlarged else maps.numpy()
    found = [float(np.quantile(values[:, k], level, method="hazen")) for k in range(u)]
    shared, area = np.zeros((u, last + 1), int), np.zeros((u, last + 1), int)
    everywhere, truth, seen_in = np.zeros(u, int), np.zeros(last + 1, int), np.zeros(last + 1, int)
    for x, item in enumerate(items):
        planes = [nearest(plane.numpy(), size) for plane in item["planes"]]
        carried = [[[int(plane[y, z]) for plane in planes] for z in range(size[1])] for y in range(size[0])]
        whole = [number for number in item["whole"].tolist() if number]
        here: set[int] = set()
        for y in range(size[0]):
            for z in range(size[1]):
                numbers: Any = [number for number in carried[y][z] if number] + whole
                numbers = set(numbers) if dedupe else numbers
                for number in numbers:
                    truth[number] += 1
                    here.add(number)
                    for k in range(u):
                        shared[k, number] += int(large[x, k, y, z] > found[k])
        for number in here:
            seen_in[number] += 1
        marked = {kinds[number] for number in here}
        for k in range(u):
            active = int((large[x, k] > found[k]).sum())
            everywhere[k] += active
            for number, kind in kinds.items():
                area[k, number] += active if kind in marked else 0
    return Loops(found, shared, area, everywhere, truth, seen_in)


def nearest(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The label at each new pixel's centre."""
    rows, cols = (
        [int(np.floor((p + 0.5) * old / new)) for p in range(new)] for new, old in zip(size, plane.shape, strict=True)
    )
    return plane[rows][:, cols]


def random_net(n_units: int = 5, seed: int = 0) -> nn.Sequential:
    """In double precision. Layer `0` has its first position at pixel 1 and the next two further; `1` is a ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, n_units, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_units, 2)
        )
    return net.double().eval()
