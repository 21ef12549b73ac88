"""Network Dissection: which unit detects which concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import default_collate  # pyright: ignore[reportUnknownVariableType]

from glasshouse.core import BadInput, LayerGeometry, Model, Progress, Units, registered
from glasshouse.core.labelled import Label, Labelled, completed, find_labels, last_number, resize_labels
from glasshouse.core.shards import Engine, serial
from glasshouse.core.stats import Quantiles, Stat, UpperTail
from glasshouse.core.stats.hashing import scramble
from glasshouse.dissect.netdissect.dissection import Dissection
from glasshouse.dissect.netdissect.enlarging import Enlargement, Enlarging
from glasshouse.dissect.netdissect.overlaps import ConceptOverlap, Marks
from glasshouse.dissect.passes import Course, Part, Read, key_of, reading, run

Mode: TypeAlias = Literal["2017", "2020"]
LEVEL: dict[Mode, float] = {"2017": 0.995, "2020": 0.99}
ENLARGING: dict[Mode, Enlarging] = {"2017": "centers", "2020": "zero"}
N_SAMPLED = 4096  # images that thresholds are read off where they are not read off all
MOST_KEPT = 2**25  # numbers kept of the first pass (134 MB), so that the second needs no network
MOST_RANKED = 2**24  # of the largest activations kept to read thresholds off exactly; else a sketch stands in
MOST_COUNTED = 2**22  # entries of the tables of all groups


@registered(
    "dissect",
    paper="Bau et al., CVPR 2017; PNAS 2020",
    warning="a unit is compared with the concepts of the data set only; its label is the best of these.",
    example={"batch_size": 8, "min_images": 1},
)
def units(
    model: Model | nn.Module,
    data: Labelled,
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    concepts: Sequence[str | int] | None = None,
    mode: Mode = "2017",
    level: float | None = None,
    thresholds: Float[Tensor, " u"] | Literal["auto", "exact"] = "auto",
    enlarging: Enlarging | None = None,
    label_size: tuple[int, int] | None = None,
    rotation: Float[Tensor, "u u"] | None = None,
    dedupe: bool = False,
    min_iou: float = 0.04,
    min_images: int = 10,
    batch_size: int = 16,
    shard_size: int = 1024,
    into: Path | None = None,
    engine: Engine = serial,
    progress: Progress | None = None,
) -> Dissection:
    """How far the pixels that each unit of `layer` marks are the pixels of each concept.

        M_u(x) = enlarge(A_u(x)) > T_u        where P(a_u > T_u) = 1 - level
        IoU(u, c) = Σ_x |M_u(x) ∩ L_c(x)| / Σ_x |M_u(x) ∪ L_c(x)|

    A unit is a detector of its best concept if their IoU is above 0.04. Bau, Zhou, Khosla, Oliva and Torralba,
    "Network Dissection", CVPR 2017, sec. 2; mode "2020" as in Bau et al., "Understanding the role of individual units
    in a deep neural network", PNAS 2020: thresholds at 0.99 of the enlarged maps, label maps at a quarter of the
    image's size, and M_u counted in all images, not only in those with anything marked in the concept's category.

    Differs: no label is left out of crowded images (the reference keeps the 2048 largest counts of each). Thresholds
    are read off all images up to 4096, and wherever the layer's maps fit in memory; else off a uniform sample of 4096,
    and `n_for_threshold` says so. The reference reads quantile 994/999: pass `level=994/999`.

    Args:
        data: images with label maps: `data.broden`, or `data.with_labels` around scenes or a folder with masks.
        layer: None takes the last one with positions. units: numbers of output channels; None takes all.
        concepts: names or numbers; None takes all that appear.
        thresholds: one per unit, or "exact" to read them off all images, however many.
        label_size: height and width that label maps are brought to; None keeps them (2020: a quarter of the image).
        rotation: orthogonal matrix Q; the units are then Q a in place of a, see `rotation`.
        dedupe: count a label that lies twice on a pixel, as object and as material, once.
        min_images: concepts that are seen in fewer are left out.
        into: folder for partial results, from which an interrupted pass goes on.
    """
    settings = Settings(mode, level, enlarging, label_size, dedupe, min_iou, min_images)
    with reading(model, data, [layer], units) as read:
        (layer, place), chosen = next(iter(read.places.items())), next(iter(read.units.values()))
        for name, given in (("thresholds", thresholds), ("rotation", rotation)):
            if isinstance(given, Tensor) and len(given) != len(chosen):
                raise BadInput(f"{name} has {len(given)} rows for {len(chosen)} units.", "Give one for each.")
        task = Counting(place, chosen, data, settings)
        wanted = find_labels(data.labels, concepts)
        said = f"{chosen.tolist()} {settings} {_said(thresholds)} {_said(rotation)}"
        key = key_of(model, f"dissection of {layer} {said}") if into else ""
        course = Course(batch_size, into, key, engine, progress, shard_size)
        maps = read if rotation is None else Turned(read, layer, {layer: rotation})
        if engine is serial and len(data) * len(chosen) * prod(place.grid) <= MOST_KEPT:
            maps = Remembered(maps, len(data))
        if isinstance(thresholds, Tensor):
            limits, n_read = {layer: thresholds}, 0
        else:
            limits, n_read = find_thresholds(maps, data, {layer: task}, thresholds == "exact", course)
        analyses = {layer: {"overlap": Overlapping(task, limits[layer])}}
        seen = run(maps, data, analyses, course.below("counts"))[layer]["overlap"]["overlap"]
    return task.finish(seen, limits[layer], n_read, wanted, {"mode": mode, "batch_size": batch_size})


@dataclass(frozen=True)
class Settings:
    """How units and concepts are compared; None is the mode's own, or for groups as many as there is room for."""

    mode: Mode = "2017"
    level: float | None = None
    enlarging: Enlarging | None = None
    label_size: tuple[int, int] | None = None
    dedupe: bool = False
    min_iou: float = 0.04
    min_images: int = 10
    n_groups: int | None = None


class Counting:
    """What is to be counted of one layer."""

    def __init__(self, place: LayerGeometry, units: Int[Tensor, " u"], data: Labelled, settings: Settings):
        self.place, self.units, self.data, self.settings = place, units, data, settings
        self.level = LEVEL[settings.mode] if settings.level is None else settings.level
        if not 0 < self.level < 1:
            raise BadInput(f"level {self.level} is not between 0 and 1.", "0.995 marks the top half per cent.")
        quarter = (max(place.image[0] // 4, 1), max(place.image[1] // 4, 1))
        first = completed(data, default_collate([data[0]]))["planes"]
        size = settings.label_size or (quarter if settings.mode == "2020" else (first.shape[2], first.shape[3]))
        self.enlarge = Enlargement.of(place, size, settings.enlarging or ENLARGING[settings.mode])
        self.belongs = torch.zeros(last_number(data) + 1, len(data.categories), dtype=torch.bool)
        for label in data.labels:
            self.belongs[label.number, data.categories.index(label.category)] = True

    def read_values(self, maps: Units) -> Float[Tensor, "n k h w"]:
        """The activations that thresholds are quantiles of."""
        return self.enlarge.whole(maps) if self.settings.mode == "2020" else maps

    def distribution(self, n_images: int) -> UpperTail | Quantiles:
        """The statistic that thresholds are read off: exact where that fits in memory."""
        grid = self.enlarge.size if self.settings.mode == "2020" else self.place.grid
        tail = UpperTail(self.level, n_images * prod(grid))
        return tail if tail.n_kept * len(self.units) <= MOST_RANKED else Quantiles()

    def tables(self) -> ConceptOverlap:
        """Empty counts, in as many groups of images as there is room for."""
        n_labels, n_categories = self.belongs.shape
        room = MOST_COUNTED // (len(self.units) * n_labels)
        n_groups = self.settings.n_groups or min(max(room, 4), 20)
        return ConceptOverlap(len(self.units), n_labels - 1, n_categories, n_groups)

    def finish(
        self,
        seen: ConceptOverlap,
        limits: Float[Tensor, " u"],
        n_read: int,
        wanted: Sequence[Label],
        settings: dict[str, Any],
    ) -> Dissection:
        """The counts of the concepts that were seen often enough."""
        kept = tuple(label for label in wanted if seen.n_with[label.number] >= self.settings.min_images)
        if not kept:
            raise BadInput(
                f"none of the {len(wanted)} concepts is seen in {self.settings.min_images} images or more.",
                "Give more images, or a smaller min_images.",
            )
        columns = torch.tensor([label.number for label in kept])
        height, width = self.enlarge.size
        return Dissection(
            self.place.name,
            self.units,
            kept,
            tuple(self.data.categories),
            limits.cpu(),
            self.level,
            n_read,
            rank_error=getattr(self.distribution(n_read), "rank_error", 0.0) if n_read else 0.0,
            shared=seen.shared[:, :, columns],
            area=seen.area,
            truth=seen.truth[:, columns],
            n_images=seen.n_images,
            n_marked=seen.n_marked,
            n_pixels=height * width,
            chance=seen.by_chance(height, width)[:, columns],
            local=self.settings.mode == "2017",
            min_iou=self.settings.min_iou,
            settings=settings,
        )


@dataclass(frozen=True)
class Overlapping:
    """The second pass: pixels shared by units and concepts."""

    task: Counting
    limits: Float[Tensor, " u"]

    def stats(self) -> dict[str, Stat]:
        return {"overlap": self.task.tables()}

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Any, ...]]:
        batch = completed(self.task.data, batch)
        batch = {**batch, "planes": resize_labels(batch["planes"], self.task.enlarge.size)}
        marks = Marks.of(batch, self.task.belongs, dedupe=self.task.settings.dedupe)
        return {"overlap": (self.task.enlarge.hits(maps, self.limits), marks, ids)}


@dataclass(frozen=True)
class Levelling:
    """The first pass: what the thresholds are read off."""

    task: Counting
    n_images: int

    def stats(self) -> dict[str, Stat]:
        return {"values": self.task.distribution(self.n_images)}

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Any, ...]]:
        return {"values": (self.task.read_values(maps),)}


def find_thresholds(
    read: Read, data: Labelled, tasks: Mapping[str, Counting], exact: bool, course: Course
) -> tuple[dict[str, Tensor], int]:
    """Each unit's threshold in each layer, and how many images they were read off."""
    part: Any = data
    if not (exact or isinstance(read, Remembered)) and len(data) > N_SAMPLED:
        part = Part(data, scramble(torch.arange(len(data)), 0).argsort()[:N_SAMPLED].sort().values)
    analyses = {layer: {"levels": Levelling(task, len(part))} for layer, task in tasks.items()}
    seen = run(read, part, analyses, course.below("thresholds"))
    return {layer: seen[layer]["levels"]["values"].at(task.level) for layer, task in tasks.items()}, len(part)


class Remembered:
    """A reader that runs the network once for each image."""

    def __init__(self, read: Read, n_images: int):
        self.read, self.n_images = read, n_images
        self.maps: dict[str, Tensor] = {}
        self.known = torch.zeros(n_images, dtype=torch.bool)

    def __call__(self, batch: Any, ids: Int[Tensor, " n"]) -> Mapping[str, Units]:
        if self.known[ids].all():
            return {layer: maps[ids] for layer, maps in self.maps.items()}
        found = self.read(batch, ids)
        for layer, maps in found.items():
            room = self.maps.setdefault(layer, maps.new_empty(self.n_images, *maps.shape[1:]))
            room[ids.to(room.device)] = maps
        self.known[ids] = True
        return found


@dataclass(frozen=True)
class Turned:
    """A reader of one layer that gives its units along other directions of their space, by the name of the matrix.

    Args:
        turns: orthogonal matrices; None leaves the units as they are.
    """

    read: Read
    layer: str
    turns: Mapping[str, Float[Tensor, "u u"] | None]

    def __call__(self, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, Units]:
        maps = self.read(batch, ids)[self.layer]
        return {
            name: maps if turn is None else torch.einsum("vu,nuij->nvij", turn.to(maps), maps)
            for name, turn in self.turns.items()
        }


def _said(value: Any) -> str:
    """A setting in words that differ where its values do."""
    return sha256(value.double().cpu().numpy().tobytes()).hexdigest()[:8] if isinstance(value, Tensor) else str(value)
