"""What a study says of one layer, read once, in the form in which pages need it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import Noun
from glasshouse.core.errors import not_found
from glasshouse.core.labelled import Label
from glasshouse.dissect import Ablation, Dissection, Exemplars, Selectivity
from glasshouse.report.study_question import Answer, answer
from glasshouse.study.store import Store
from glasshouse.visualize import Picture

N_HUES = 8  # colours of categories in style.css
N_TOP = 5
Row: TypeAlias = dict[str, Any]
N = TypeVar("N", bound=Noun)


@dataclass(frozen=True)
class Concept:
    """How well one unit agrees with one concept.

    Args:
        low, high: ends of the 95 % confidence interval; not-a-number where there is none.
        chance: the IoU that position alone would give.
    """

    label: Label
    iou: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Losses:
    """What classes lose without each unit, the tables of an `Ablation`, worked out once.

    Args:
        low, high: 95 % confidence interval of `damage`, for each number by itself.
    """

    damage: Float[Tensor, "g c"]
    low: Float[Tensor, "g c"]
    high: Float[Tensor, "g c"]
    overall: Float[Tensor, " g"]
    overall_error: Float[Tensor, " g"]
    worst: Int[Tensor, " g"]


@dataclass(frozen=True, eq=False, repr=False)
class LayerFacts:
    """What a study knows of a layer; None where that was not studied.

    Args:
        told: what `study.json` says of the layer.
        units: facts of each unit, by its number.
        packs: names of the kinds of pictures that are kept of units.
        groups: what is lost without all units of a concept, where that was studied.
    """

    store: Store
    name: str
    told: Row
    units: dict[int, Row]
    packs: frozenset[str]
    exemplars: Exemplars | None
    dissection: Dissection | None
    selectivity: Selectivity | None
    ablation: Ablation | None
    groups: Ablation | None
    picture: Picture | None

    @cached_property
    def numbers(self) -> list[int]:
        """The units, those first that agree best with a concept, else those that peak highest; then by number."""
        order = "iou" if self.dissection else "peak"

        def place(unit: int) -> tuple[float, int]:
            value = self.fact(unit, order)
            return (torch.inf if value is None else -float(value), unit)

        return sorted(self.units, key=place)

    @cached_property
    def dead(self) -> frozenset[int]:
        """Units that are 0 at every position of every image."""
        return frozenset(unit for unit in self.units if self.fact(unit, "resting") == 1)

    @cached_property
    def detectors(self) -> frozenset[int]:
        """Units whose best concept passes the least IoU."""
        return frozenset(unit for unit in self.units if self.fact(unit, "detector"))

    @property
    def min_iou(self) -> float:
        """What a detector's IoU must be above."""
        return self.dissection.min_iou if self.dissection else 0.04

    def fact(self, unit: int, name: str) -> Any:
        """A fact of a unit; None where it is not known."""
        return self.units[unit].get(name)

    def hue(self, category: str | None) -> int:
        """Which of the colours stands for a category, from 1 on; 0 for none."""
        categories = self.dissection.categories if self.dissection else ()
        return categories.index(category) % N_HUES + 1 if category in categories else 0

    @cached_property
    def end(self) -> float:
        """Where bars of IoU end: the largest in the layer, or the upper end of its interval."""
        ends = [self.fact(unit, name) or 0.0 for unit in self.units for name in ("iou", "iou_high")]
        return max([*ends, 2 * self.min_iou])

    @cached_property
    def _best(self) -> dict[int, list[Concept]]:
        """Of each unit the concepts that it agrees with best."""
        found = self.dissection
        if found is None:
            return {}
        k = min(N_TOP, len(found.labels))
        columns = found.iou.sort(dim=1, descending=True, stable=True).indices[:, :k]
        rows = torch.arange(len(found.units))[:, None].expand_as(columns)
        limits = found.limits(rows.flatten(), columns.flatten()).unflatten(0, (len(rows), k))
        numbers = torch.cat([torch.stack([t.gather(1, columns) for t in (found.iou, found.chance_iou)], 2), limits], 2)
        return {
            unit: [
                Concept(found.labels[column], iou, low, high, chance)
                for column, (iou, chance, low, high) in zip(chosen, table, strict=True)
            ]
            for unit, chosen, table in zip(found.units.tolist(), columns.tolist(), numbers.tolist(), strict=True)
        }

    def concepts(self, unit: int) -> list[Concept]:
        """What a unit agrees with best, at most five concepts; of a dead unit there is nothing to say."""
        return [] if unit in self.dead else self._best.get(unit, [])

    @cached_property
    def single(self) -> Ablation | None:
        """The ablation, if units were taken away one by one."""
        return self.ablation if self.ablation and self.ablation.traits else None

    @cached_property
    def losses(self) -> Losses | None:
        """What is lost without each unit by itself."""
        found = self.single
        if found is None:
            return None
        return Losses(found.damage, *found.interval(), found.overall_drop, found.overall_error, found.worst_class)

    @cached_property
    def answer(self) -> Answer | None:
        """Whether units that detect what a class is named for matter for it."""
        return answer(self.dissection, self.single) if self.dissection and self.single else None

    def damage_row(self, unit: int) -> int | None:
        """The row of a unit in the ablation."""
        return self._ablated.get(str(unit))

    @cached_property
    def _ablated(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.single.names)} if self.single else {}

    def pictures(self, unit: int, kind: str) -> list[str]:
        """The pictures of a unit as `data:` addresses."""
        if kind not in self.packs:
            return []
        pictures = self.store.patches(self.name, unit, kind)
        return [f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" for picture in pictures]

    @cached_property
    def image_names(self) -> dict[int, str]:
        """What the images that pages show are called."""
        if self.exemplars is None:
            return {}
        groups = (self.exemplars.strongest, self.exemplars.spectrum)
        shown = sorted({number for group in groups for number in group.ids.flatten().tolist()})
        return {row["number"]: row["id"] for row in self.store.images(shown)} or dict(self.exemplars.names)

    @cached_property
    def seen_row(self) -> dict[int, int]:
        """The row of each unit in `exemplars`."""
        return {} if self.exemplars is None else {unit: row for row, unit in enumerate(self.exemplars.units.tolist())}


def read_layer(store: Store, layer: str) -> LayerFacts:
    """Everything a study says of a layer, pictures left on the disk."""
    told = next((row for row in store.about["layers"] if row["name"] == layer), {})
    files = store.files(layer=layer)
    nouns = {file["name"] for file in files if file["kind"] == "noun"}

    def noun(name: str, kind: type[N]) -> N | None:
        return store.noun(name, kind, layer) if name in nouns else None

    exemplars, dissection = noun("exemplars", Exemplars), noun("dissection", Dissection)
    return LayerFacts(
        store,
        layer,
        dict(told),
        {int(row["unit"]): row for row in store.units(layer)},
        frozenset(file["name"] for file in files if file["kind"] == "pack"),
        exemplars,
        dissection if dissection is not None and len(dissection.labels) else None,
        noun("selectivity", Selectivity),
        noun("ablation", Ablation),
        noun("concept_ablation", Ablation),
        noun("picture", Picture),
    )


def chosen_layers(store: Store, layers: Sequence[str] | None) -> list[str]:
    """Some layers of a study, which must know them; None is all that anything was found out about."""
    known = store.layers()
    if layers is None:
        found = {file["layer"] for file in store.files()}
        return [layer for layer in known if layer in found]
    for layer in layers:
        if layer not in known:
            raise not_found("studied layer", layer, known)
    return list(layers)
