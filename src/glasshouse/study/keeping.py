"""From results to a study: whole nouns, facts of each unit, and small pictures."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import Model, resize
from glasshouse.core.fingerprints import names_of
from glasshouse.core.shards import Data
from glasshouse.data import inputs
from glasshouse.dissect import Ablation, Dissection, Exemplars, Picks, Selectivity
from glasshouse.dissect.exhibits import image_of
from glasshouse.study.store import Store, encode_jpeg

SIDE = 96  # pixels along the longer side of a kept picture
HELD = 4096  # pictures held in memory while packs are written
DIM = 0.4  # brightness outside a unit's mask
N_LABELS = 5  # concepts written down for each unit


def keep_exemplars(store: Store, found: Exemplars, data: Data, model: Model) -> None:
    """The strongest images of each unit, darkened outside its mask, and those of its range."""
    store.put_noun("exemplars", found, found.layer)
    rows = range(len(found.units))
    facts = {name: getattr(found, name).tolist() for name in ("units", "peak", "mean", "resting", "threshold")}
    facts["unit"], facts["dead"] = facts.pop("units"), found.dead.tolist()
    store.put_units(found.layer, [{name: values[row] for name, values in facts.items()} for row in rows])
    names = names_of(data)
    if not store.images():
        store.put_images({"id": str(name)} for name in names)
    small = thumbnails(data, model)
    store.put_patches(found.layer, by_unit(found, lambda row: masked(found, row, small)))
    store.put_patches(found.layer, by_unit(found, lambda row: plain(found.spectrum, row, small)), "spectrum")


def keep_dissection(store: Store, found: Dissection) -> None:
    """What each unit detects, with intervals, and the table of all units and concepts."""
    store.put_noun("dissection", found, found.layer)
    store.put_array(found.layer, "iou", found.iou.float())
    limits, chance, detectors = found.interval(), found.chance_iou, found.detectors
    best = found.iou.sort(dim=1, descending=True, stable=True)
    facts, labels = list[dict[str, object]](), list[dict[str, object]]()
    for row, unit in enumerate(found.units.tolist()):
        first = found.labels[int(best.indices[row, 0])]
        facts.append(
            {
                "unit": unit,
                "label": first.name,
                "category": first.category,
                "iou": float(best.values[row, 0]),
                "iou_low": float(limits[row, 0]),
                "iou_high": float(limits[row, 1]),
                "chance_iou": float(chance[row, best.indices[row, 0]]),
                "detector": bool(detectors[row]),
            }
        )
        first_few = zip(best.values[row, :N_LABELS].tolist(), best.indices[row, :N_LABELS].tolist(), strict=True)
        for value, column in first_few:
            label = found.labels[column]
            labels.append({"unit": unit, "label": label.name, "category": label.category, "iou": value})
    store.put_units(found.layer, facts)
    store.put_labels(found.layer, labels, "dissection")


def keep_selectivity(store: Store, found: Selectivity, model: Model) -> None:
    """How strongly each unit prefers a class, and which."""
    store.put_noun("selectivity", found, found.layer)
    pairs = zip(found.units.tolist(), found.index.tolist(), found.preferred.tolist(), strict=True)
    store.put_units(
        found.layer,
        [{"unit": unit, "selectivity": index, "preferred": model.label(best)} for unit, index, best in pairs],
    )


def keep_ablation(store: Store, found: Ablation, name: str) -> None:
    """What each class loses without each unit, or without groups of them."""
    store.put_noun(name, found, found.layer)
    if name != "ablation":
        return
    store.put_array(found.layer, "damage", found.damage.float())
    columns = zip(
        (units[0] for units in found.members),
        found.overall_drop.tolist(),
        found.max_class_drop.tolist(),
        found.worst_class.tolist(),
        strict=True,
    )
    store.put_units(
        found.layer,
        [
            {"unit": unit, "overall_drop": drop, "max_class_drop": worst, "worst_class": found.class_name(name)}
            for unit, drop, worst, name in columns
        ],
    )


def thumbnails(data: Data, model: Model) -> Callable[[int], Float[Tensor, "c h w"]]:
    """Small pictures of a data set's images, as the model sees them; the last few thousand are held."""
    seen = inputs(data, model.preprocess)

    @lru_cache(maxsize=HELD)
    def small(index: int) -> Tensor:
        pixels = model.preprocess.pixels(image_of(seen[index])[None])
        height, width = pixels.shape[2:]
        scale = min(1.0, SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return (resize(pixels, size)[0].clamp(0, 1) * 255).byte()

    return lambda index: small(index).float() / 255


def masked(found: Exemplars, row: int, small: Callable[[int], Tensor]) -> list[bytes]:
    """The strongest images of a unit, dark where it is below its threshold."""
    pictures: list[bytes] = []
    for index, grid in zip(found.strongest.ids[row].tolist(), found.maps[row], strict=True):
        picture = small(index)
        inside = resize(grid[None, None].float(), (picture.shape[1], picture.shape[2]))[0, 0] > found.threshold[row]
        pictures.append(encode_jpeg(torch.where(inside, picture, DIM * picture)))
    return pictures


def plain(picks: Picks, row: int, small: Callable[[int], Tensor]) -> list[bytes]:
    """Images of a group, as they are."""
    return [encode_jpeg(small(index)) for index in picks.ids[row].tolist()]


def by_unit(found: Exemplars, draw: Callable[[int], list[bytes]]) -> Iterator[list[bytes]]:
    """The pictures of every unit up to the largest number; units that were not asked for have none."""
    row_of = {unit: row for row, unit in enumerate(found.units.tolist())}
    for unit in range(int(found.units.max()) + 1):
        yield draw(row_of[unit]) if unit in row_of else []
