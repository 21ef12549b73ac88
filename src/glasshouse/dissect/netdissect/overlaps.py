"""Pixels that units and concepts share, counted over a data set."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.labelled import Batch
from glasshouse.core.stats.hashing import scramble
from glasshouse.core.stats.protocol import Counted
from glasshouse.dissect.netdissect.enlarging import Hits

SIDE = 16  # of the coarse grid that chance agreement is computed on


def _whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@dataclass(eq=False, repr=False)
class Marks:
    """What is marked in the n images of a batch.

    Args:
        planes: label numbers, 0 is none.
        whole: labels of the whole image.
        pixels: that carry each label; a pixel that carries it in two planes counts twice.
        categories: those in which anything is marked: a label that belongs to them, wherever it is written.
    """

    planes: Int[Tensor, "n m h w"]
    whole: Int[Tensor, "n q"]
    pixels: Int[Tensor, "n c"]
    categories: Bool[Tensor, "n k"]

    @classmethod
    def of(cls, batch: Batch, belongs: Bool[Tensor, "c k"], *, dedupe: bool = False) -> "Marks":
        """From a batch of a labelled data set, whose label maps have been brought to the size that counts.

        Args:
            belongs: the category of each label, by number.
            dedupe: take off labels that a pixel carries already.
        """
        planes, whole = batch["planes"].long(), batch["whole"].long()
        if dedupe:
            planes, whole = _once(planes, whole)
        (n, _, height, width), n_labels = planes.shape, len(belongs)
        start = n_labels * torch.arange(n)[:, None]
        pixels = torch.bincount((planes.flatten(1) + start).flatten(), minlength=n * n_labels).view(n, n_labels)
        pixels.scatter_add_(1, whole, torch.full_like(whole, height * width))
        pixels[:, 0] = 0
        return cls(planes, whole, pixels, (pixels > 0).float() @ belongs.float() > 0)


def _once(planes: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Label maps in which no pixel carries a label twice, and none that holds for the whole image."""
    same = (whole[:, :, None] == whole[:, None, :]).tril(-1).any(2)
    whole = whole.masked_fill(same, 0)
    for place in range(planes.shape[1]):
        plane = planes[:, place]
        before = (planes[:, :place] == plane[:, None]).any(1) | (whole[..., None, None] == plane[:, None]).any(1)
        planes = planes.index_copy(1, torch.tensor([place]), plane.masked_fill(before, 0)[:, None])
    return planes, whole


@dataclass(eq=False, repr=False)
class ConceptOverlap(Counted):
    """Areas of units, of concepts, and of what they share, in pixels and in random groups of images.

    Groups are by scrambled id, so that nothing depends on the order of the images; leaving out one after the other
    tells how much a ratio would differ on other images. Column 0 stands for no label, and is not used.

    Args:
        n_labels: the largest label number.
    """

    n_units: int
    n_labels: int
    n_categories: int
    n_groups: int = 20
    shared: Int[Tensor, "g u c"] = field(init=False)
    area: Int[Tensor, "g u k"] = field(init=False)
    truth: Int[Tensor, "g c"] = field(init=False)
    n_images: Int[Tensor, " g"] = field(init=False)
    n_marked: Int[Tensor, " k"] = field(init=False)
    n_with: Int[Tensor, " c"] = field(init=False)
    fired: Int[Tensor, "u cells"] = field(init=False)
    marked: Int[Tensor, "c cells"] = field(init=False)

    def __post_init__(self) -> None:
        groups, units, labels, categories = self.n_groups, self.n_units, self.n_labels + 1, self.n_categories + 1
        self.shared, self.area = _whole(groups, units, labels), _whole(groups, units, categories)
        self.truth, self.n_images, self.n_marked = _whole(groups, labels), _whole(groups), _whole(categories)
        self.n_with = _whole(labels)
        self.fired, self.marked = _whole(units, SIDE**2), _whole(labels, SIDE**2)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n_units, self.n_labels) if self.n_images.any() else (0, 0)

    def update(self, hits: Iterable[Hits], marks: Marks, ids: Int[Tensor, " n"]) -> None:
        """Count the pixels that units mark in some images, and what is marked there."""
        n, _, height, width = marks.planes.shape
        group = scramble(ids, 0).remainder(self.n_groups)
        labels = self.n_labels + 1
        shared, planes, cells = self.shared.view(-1), marks.planes.flatten(2), _cells(height, width)
        areas = _whole(n, self.n_units)
        for image, unit, pixel in (tuple(index.cpu() for index in part) for part in hits):
            start = (group[image] * self.n_units + unit) * labels
            for plane in planes.unbind(1):
                label = plane[image, pixel]
                _count(shared, (start + label)[label > 0])
            _count(areas.view(-1), image * self.n_units + unit)
            _count(self.fired.view(-1), unit * SIDE**2 + cells[pixel])
        for image, slot in marks.whole.nonzero().tolist():
            self.shared[group[image], :, marks.whole[image, slot]] += areas[image]
        present = torch.cat([marks.categories, torch.ones(n, 1, dtype=torch.bool)], 1).long()
        self.area.index_add_(0, group, areas[:, :, None] * present[:, None, :])
        self.truth.index_add_(0, group, marks.pixels)
        self.n_images.index_add_(0, group, torch.ones(n, dtype=torch.int64))
        self.n_marked += present.sum(0)
        self.n_with += (marks.pixels > 0).sum(0)
        self._count_places(marks, cells)

    def _count_places(self, marks: Marks, cells: Int[Tensor, " p"]) -> None:
        """In which cells of the coarse grid each label lies."""
        place = (marks.planes.flatten(2) * SIDE**2 + cells).flatten()
        self.marked += torch.bincount(place, minlength=self.marked.numel()).view_as(self.marked)
        everywhere = torch.bincount(cells, minlength=SIDE**2)
        self.marked += torch.bincount(marks.whole.flatten(), minlength=len(self.marked))[:, None] * everywhere

    def by_chance(self, height: int, width: int) -> Float[Tensor, "u c"]:
        """Pixels that unit and concept would share if images and labels were paired at random.

            E[|M_u ∩ L_c|] = Σ_p |{x: p in M_u(x)}| · |{x: p in L_c(x)}| / n

        with the same sum over the cells of a coarse grid in place of the pixels p.
        """
        pixels = torch.bincount(_cells(height, width), minlength=SIDE**2).clamp(min=1)
        return self.fired.double() / pixels @ self.marked.double().T / self.n_images.sum().clamp(min=1)

    def _join(self, other: "ConceptOverlap") -> None:
        for name in self._counted():
            setattr(self, name, getattr(self, name) + getattr(other, name))


def _count(into: Int[Tensor, " slots"], index: Int[Tensor, " entries"]) -> None:
    """Add 1 to each slot for every time it is named."""
    into.index_add_(0, index, torch.ones_like(index))


def _cells(height: int, width: int) -> Int[Tensor, " p"]:
    """The cell of a coarse grid that each pixel lies in."""
    row, col = (torch.arange(side) * SIDE // side for side in (height, width))
    return (row[:, None] * SIDE + col).flatten()
