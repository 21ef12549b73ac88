"""What a layer gave for every image of a data set, kept, for analyses that come back to it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate  # pyright: ignore[reportUnknownVariableType]

from glasshouse.core import LayerGeometry, Model, Noun, Progress, Units, registered
from glasshouse.core.labelled import Label, completed, concept_masks, find_labels, resize_labels
from glasshouse.core.shards import Data, Engine, serial
from glasshouse.core.stats import Stat
from glasshouse.core.stats.protocol import Counted
from glasshouse.dissect.exhibits import known_targets
from glasshouse.dissect.passes import Course, key_of, reading, run

Kept: TypeAlias = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Noun):
    """What u units of a layer gave for n images, and what is marked in those.

    Args:
        maps: float16 or float32; they may lie in a file and be read as they are used, so take some rows at a time.
        targets: number of the class of each image, -1 where there is none.
        planes: label numbers at `planes`' own resolution, 0 is none; without label maps there are no planes (m = 0).
        whole: labels of the whole image, filled up with 0.
        labels: what the numbers mean.
        image_size: height and width of the inputs in pixels.
        names: what the data set calls its images.
    """

    layer: str
    units: Int[Tensor, " u"]
    maps: Float[Tensor, "n u i j"]
    targets: Int[Tensor, " n"]
    planes: Int[Tensor, "n m a b"]
    whole: Int[Tensor, "n q"]
    labels: tuple[Label, ...]
    image_size: tuple[int, int]
    names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        n, u, i, j = self.maps.shape
        marked = f", {len(self.labels)} concepts" if self.labels else ""
        return f"Activations({self.layer}, {n} images × {u} units × {i}×{j}{marked})"

    def __len__(self) -> int:
        return len(self.maps)

    def rows(self, rows: slice | Int[Tensor, " r"]) -> Float[Tensor, "r u i j"]:
        """The maps of some images, in float32."""
        return self.maps[rows].float()

    def concepts(
        self, wanted: Sequence[str | int] | None = None, rows: slice | Int[Tensor, " r"] = slice(None)
    ) -> Bool[Tensor, "r c a b"]:
        """Where each concept (by name or number; None is all) is marked, at the resolution of `planes`."""
        numbers = [label.number for label in find_labels(self.labels, wanted)]
        return concept_masks(self.planes[rows], self.whole[rows], numbers)

    def on_grid(
        self, wanted: Sequence[str | int] | None = None, rows: slice | Int[Tensor, " r"] = slice(None)
    ) -> Bool[Tensor, "r c i j"]:
        """Where each concept is marked on the layer's grid: the label at the middle of each position's cell."""
        numbers = [label.number for label in find_labels(self.labels, wanted)]
        planes = self.planes[rows]
        small = resize_labels(planes, (self.maps.shape[2], self.maps.shape[3]))
        return concept_masks(small, self.whole[rows], numbers)


@registered("dissect", example={"batch_size": 8})
def activations(
    model: Model | nn.Module,
    data: Data,
    *,
    layer: str | None = None,
    units: Sequence[int] | None = None,
    label_size: tuple[int, int] | None = None,
    dtype: Kept = "float32",
    batch_size: int = 16,
    shard_size: int = 1024,
    into: Path | None = None,
    engine: Engine = serial,
    progress: Progress | None = None,
) -> Activations:
    """The maps of `layer` for all of `data`, with classes and label maps where there are any.

    For `n` images they take `n · u · i · j` numbers of 4 bytes (2 in float16): in memory, or with `into` in files
    there, which are read as they are used. A killed pass goes on from there.

    Args:
        data: images `n c h w`, or items as `exemplars` and `units` read them.
        layer: None takes the last one with positions.
        units: numbers of output channels; None takes all.
        label_size: height and width that label maps are kept at; None keeps them as they are.
        dtype: float16 halves the room and rounds to 3 digits.
    """
    with reading(model, data, [layer], units) as read:
        (layer, place), chosen = next(iter(read.places.items())), next(iter(read.units.values()))
        keeping = Keeping.of(place, chosen, data, label_size, dtype, into)
        key = key_of(model, f"{layer} {chosen.tolist()} in {dtype}, labels {label_size}") if into else ""
        course = Course(batch_size, into, key, engine, progress, shard_size).below("parts")
        run(read, data, {layer: {"rows": keeping}}, course)
        return keeping.finish(read.names, {"dtype": dtype, "batch_size": batch_size})


@dataclass(frozen=True)
class Rows:
    """An array with one row per image, in memory or in a file, which any process may fill."""

    shape: tuple[int, ...]
    dtype: str
    held: NDArray[Any] | Path

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: str, path: Path | None) -> "Rows":
        """Zeros; what a killed pass wrote into the file stays."""
        if path is None or 0 in shape:
            return cls(shape, dtype, np.zeros(shape, dtype))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
            part.rename(path) if not path.exists() else part.unlink()
        return cls(shape, dtype, path)

    def array(self) -> NDArray[Any]:
        """All rows, to be read and written."""
        held = self.held
        return held if isinstance(held, np.ndarray) else np.load(held, mmap_mode="r+", allow_pickle=False)


@dataclass(frozen=True)
class Keeping:
    """What is kept of one layer while a pass goes by."""

    place: LayerGeometry
    units: Int[Tensor, " u"]
    data: Data
    label_size: tuple[int, int] | None
    rows: dict[str, Rows]

    @classmethod
    def of(
        cls,
        place: LayerGeometry,
        units: Int[Tensor, " u"],
        data: Data,
        label_size: tuple[int, int] | None,
        dtype: Kept,
        into: Path | None,
    ) -> "Keeping":
        """Room for all images of a data set."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "maps": ((len(units), *place.grid), dtype),
            "targets": ((), "int64"),
            "planes": ((0, 1, 1), "int32"),
            "whole": ((0,), "int64"),
        }
        if hasattr(data, "labels"):
            batch = completed(data, default_collate([data[0]]))
            m, height, width = batch["planes"].shape[1:]
            shapes["planes"] = ((m, *(label_size or (height, width))), "int32")
            shapes["whole"] = ((batch["whole"].shape[1],), "int64")
        rows = {
            name: Rows.of((len(data), *shape), kind, into / f"{name}.npy" if into else None)
            for name, (shape, kind) in shapes.items()
        }
        return cls(place, units, data, label_size, rows)

    def stats(self) -> dict[str, Stat]:
        return {"written": Written()}

    def count(self, maps: Units, batch: Any, ids: Int[Tensor, " n"]) -> dict[str, tuple[Any, ...]]:
        found = {"maps": maps.cpu(), "targets": known_targets(batch, len(ids))}
        if hasattr(self.data, "labels"):
            batch = completed(self.data, batch)
            found["planes"] = resize_labels(batch["planes"], self.label_size) if self.label_size else batch["planes"]
            found["whole"] = batch["whole"]
        for name, values in found.items():
            self.rows[name].array()[ids.numpy()] = values.numpy()
        return {"written": (ids,)}

    def finish(self, names: Sequence[Any], settings: dict[str, Any]) -> Activations:
        """What has been kept."""
        maps, targets, planes, whole = (torch.from_numpy(rows.array()) for rows in self.rows.values())
        return Activations(
            self.place.name,
            self.units,
            maps,
            targets,
            planes,
            whole,
            labels=tuple(getattr(self.data, "labels", ())),
            image_size=self.place.image,
            names=tuple(str(name) for name in names) if hasattr(self.data, "ids") else (),
            settings=settings,
        )


@dataclass(eq=False, repr=False)
class Written(Counted):
    """How many images have been written. The rows themselves go where they belong, from any worker."""

    n: int = field(init=False, default=0)

    @property
    def shape(self) -> tuple[int, ...]:
        return (min(self.n, 1),)

    def update(self, ids: Int[Tensor, " n"]) -> None:
        """These images have been written."""
        self.n += len(ids)

    def _join(self, other: "Written") -> None:
        self.n += other.n
