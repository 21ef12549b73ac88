"""One pass over a data set for everything that is asked of several layers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from glasshouse.core import Model, Noun, Progress, registered
from glasshouse.core.labelled import Labelled, find_labels
from glasshouse.core.shards import Data, Engine, serial
from glasshouse.dissect.activity import Ranking
from glasshouse.dissect.exhibits import Exemplars, Reduction
from glasshouse.dissect.netdissect.detection import Counting, Mode, Overlapping, Settings, find_thresholds
from glasshouse.dissect.netdissect.dissection import Dissection
from glasshouse.dissect.passes import Analysis, Course, key_of, reading, run
from glasshouse.dissect.selectivity import Comparing, Selectivity
from glasshouse.dissect.stored import Activations, Keeping


@dataclass(frozen=True, repr=False)
class Scan(Noun):
    """What one pass found out about each layer, by the layer's name.

    Args:
        dissections: where the data set has label maps.
        selectivity: where it has classes.
        activations: where they were to be kept.
    """

    layers: tuple[str, ...]
    n_images: int
    exemplars: dict[str, Exemplars] = field(default_factory=dict[str, Exemplars])
    dissections: dict[str, Dissection] = field(default_factory=dict[str, Dissection])
    selectivity: dict[str, Selectivity] = field(default_factory=dict[str, Selectivity])
    activations: dict[str, Activations] = field(default_factory=dict[str, Activations])

    def __repr__(self) -> str:
        kinds = ("exemplars", "dissections", "selectivity", "activations")
        found = ", ".join(kind for kind in kinds if getattr(self, kind))
        return f"Scan({len(self.layers)} layers, {self.n_images} images: {found})"


@registered("dissect", example={"k": 3, "batch_size": 8})
def scan(
    model: Model | nn.Module,
    data: Data | Labelled,
    *,
    layers: Sequence[str] | None = None,
    units: Sequence[int] | None = None,
    concepts: Sequence[str | int] | None = None,
    n_classes: int | None = None,
    k: int = 9,
    score: Reduction = "max",
    mode: Mode = "2017",
    level: float = 0.995,
    min_iou: float = 0.04,
    min_images: int = 10,
    keep: Path | None = None,
    batch_size: int = 16,
    shard_size: int = 1024,
    into: Path | None = None,
    engine: Engine = serial,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scan:
    """`exemplars`, `units`, class selectivity and `activations` of several layers, for one run of the model per image.

    Thresholds for the dissection are read off up to 4096 images beforehand, which are run twice.

    Args:
        data: as `exemplars` takes it. With label maps (see `units`) the layers are dissected; with a class in each
            item and `n_classes`, selectivity is measured.
        layers: None takes the last one with positions.
        n_classes: None takes the number of the model's class names.
        keep: folder for the activations of all images; they are not kept without it.
        shard_size: images after which a partial result is written to `into`.
    """
    n_classes = (len(model.class_names) if isinstance(model, Model) else 0) if n_classes is None else n_classes
    labelled = data if isinstance(data, Labelled) else None
    settings = Settings(mode, level, min_iou=min_iou, min_images=min_images)
    with reading(model, data, list(layers or [None]), units) as read:
        asked = f"scan of {list(read.places)} {units} k={k} {score} {settings} seed={seed} {n_classes} {keep is None}"
        key = key_of(model, asked) if into else ""
        course = Course(batch_size, into, key, engine, progress, shard_size)
        ranking = {
            layer: Ranking(place, read.units[layer], len(data), k, score, level, seed)
            for layer, place in read.places.items()
        }
        counting = {
            layer: Counting(place, read.units[layer], labelled, settings)
            for layer, place in read.places.items()
            if labelled is not None
        }
        keeping = {
            layer: Keeping.of(place, read.units[layer], data, None, "float16", _folder(keep, layer))
            for layer, place in read.places.items()
            if keep is not None
        }
        comparing = {layer: Comparing(layer, read.units[layer], n_classes) for layer in read.places if n_classes}
        limits, n_read = {}, 0
        if labelled is not None:
            limits, n_read = find_thresholds(read, labelled, counting, False, course)
        overlapping = {layer: Overlapping(task, limits[layer]) for layer, task in counting.items()}
        kinds = {"ranking": ranking, "overlap": overlapping, "classes": comparing, "rows": keeping}
        analyses: dict[str, dict[str, Analysis]] = {
            layer: {kind: these[layer] for kind, these in kinds.items() if layer in these} for layer in read.places
        }
        seen = run(read, data, analyses, course.below("scan"))
        wanted = find_labels(labelled.labels, concepts) if labelled is not None else ()
        said = {"mode": mode, "batch_size": batch_size}
        return Scan(
            tuple(read.places),
            len(data),
            {layer: one.finish(seen[layer]["ranking"], data, batch_size) for layer, one in ranking.items()},
            {
                layer: task.finish(seen[layer]["overlap"]["overlap"], limits[layer], n_read, wanted, said)
                for layer, task in counting.items()
            },
            {layer: one.finish(seen[layer]["classes"]["sums"]) for layer, one in comparing.items()},
            {layer: one.finish(read.names, {"dtype": "float16"}) for layer, one in keeping.items()},
        )


def _folder(keep: Path | None, layer: str) -> Path | None:
    return keep / layer.replace("/", "_") if keep else None
