"""`Study`: what is found out about one network on one data set, kept in a folder and never done twice."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate  # pyright: ignore[reportUnknownVariableType]

from glasshouse.core import BadInput, Model, Progress
from glasshouse.core.engines import agree, first_process
from glasshouse.core.errors import not_found
from glasshouse.core.fingerprints import fingerprint, fingerprint_data
from glasshouse.core.labelled import Labelled
from glasshouse.core.shards import Data, Engine, serial
from glasshouse.data import inputs
from glasshouse.dissect import Ablation, Correlation, Dissection, Exemplars, Selectivity, ablate_units, scan
from glasshouse.dissect.exhibits import known_targets
from glasshouse.dissect.passes import reading
from glasshouse.study.alignment import align
from glasshouse.study.keeping import keep_ablation, keep_dissection, keep_exemplars, keep_selectivity
from glasshouse.study.store import Store
from glasshouse.visualize import Picture, render
from glasshouse.visualize import unit as unit_objective


@dataclass(frozen=True)
class StudiedLayer:
    """What a study says of one layer; what was not studied is None."""

    store: Store
    name: str

    def __repr__(self) -> str:
        known = [file["name"] for file in self.store.files("noun", self.name)]
        return f"StudiedLayer({self.name}: {', '.join(known) or 'nothing yet'})"

    @property
    def exemplars(self) -> Exemplars | None:
        return self._noun("exemplars", Exemplars)

    @property
    def dissection(self) -> Dissection | None:
        return self._noun("dissection", Dissection)

    @property
    def selectivity(self) -> Selectivity | None:
        return self._noun("selectivity", Selectivity)

    @property
    def ablation(self) -> Ablation | None:
        return self._noun("ablation", Ablation)

    @property
    def concept_ablation(self) -> Ablation | None:
        """Without the units that detect each concept best, all at once."""
        return self._noun("concept_ablation", Ablation)

    @property
    def alignment(self) -> Correlation | None:
        """Whether classes lose most without the units of what they show; see `align`."""
        found = self.concept_ablation
        return align(found) if found else None

    @property
    def picture(self) -> Picture | None:
        return self._noun("picture", Picture)

    def units(self, *, order_by: str = "unit", descending: bool = False, limit: int | None = None) -> list[Any]:
        """Facts of each unit, a dictionary each: label, IoU with its interval, activation, selectivity, damage."""
        return self.store.units(self.name, order_by=order_by, descending=descending, limit=limit)

    def _noun(self, name: str, kind: type[Any]) -> Any:
        known = any(file["name"] == name for file in self.store.files("noun", self.name))
        return self.store.noun(name, kind, self.name) if known else None


class Study:
    """Everything that is found out about a network on a data set, in one folder.

        with Study("runs/houses", model, images, layers=["stages"]) as study:
            study.scan().ablate()
        Study("runs/houses")["stages"].dissection

    What is finished is not done again, what was interrupted goes on, and the folder can be copied anywhere. To read
    it, neither network nor images are needed. Under `torchrun` each process makes the same calls; the first writes.

    Args:
        model: with its preprocessing, which brings pixels into its form, and back for pictures.
        data: images (0…1) as `data.folder`, `data.broden` and `data.with_labels` read them.
        concepts: images with label maps to dissect by; None takes `data` where it has some.
        layers: None takes the last one with positions.
        seed: of the random images among the exemplars, and of drawn pictures.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Model | None = None,
        data: Data | None = None,
        *,
        concepts: Labelled | None = None,
        layers: Sequence[str] | None = None,
        engine: Engine = serial,
        batch_size: int = 16,
        shard_size: int = 1024,
        seed: int = 0,
        progress: Progress | None = None,
    ):
        if (model is None) != (data is None):
            raise BadInput("a study needs a model and images, or neither to be read.", "Give both.")
        self.path, self.model, self.data = Path(path), model, data
        self.concepts = concepts if concepts is not None else data if isinstance(data, Labelled) else None
        self.engine, self.batch_size, self.shard_size = engine, batch_size, shard_size
        self.seed, self.progress = seed, progress
        self._layers = list(layers or ())
        self._store = self._open() if first_process() or model is None else None

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        about = self.store.about
        return f"Study('{self.path}', {about['model'].get('name', 'a network')}, layers {', '.join(self.layers)})"

    def close(self) -> None:
        """Let go of the folder; from now on it can be copied."""
        if self._store:
            self._store.close()

    @property
    def store(self) -> Store:
        """The folder itself."""
        if self._store is None:
            raise BadInput("only the first of torchrun's processes has the study open.", "Read it when all are done.")
        return self._store

    @property
    def writes(self) -> bool:
        """Whether this process has the folder open: always, but for all but the first of `torchrun`'s."""
        return self._store is not None

    @property
    def has_classes(self) -> bool:
        """Whether any of the first images has a class of the model."""
        _, data, _ = self._ready()
        items = (data[index] for index in range(min(len(data), 64)))
        return any(int(known_targets(default_collate([item]), 1)) >= 0 for item in items)

    @property
    def layers(self) -> list[str]:
        """The layers that are studied."""
        return self.store.layers()

    def __getitem__(self, layer: str) -> StudiedLayer:
        if layer not in self.layers:
            raise not_found("studied layer", layer, self.layers)
        return StudiedLayer(self.store, layer)

    def scan(self, *, k: int = 9, level: float = 0.995, min_images: int = 10) -> "Study":
        """Strongest images of every unit; with label maps what each detects, and with classes its selectivity.

        See `dissect.scan`: one run of the model per image, up to the last of the layers.
        """
        model, data, layers = self._ready()
        asked: dict[str, Any] = {"k": k, "level": level, "min_images": min_images}
        passes: list[tuple[str, Data]] = [("scan", data)]
        if self.concepts is not None and self.concepts is not data:
            passes.append(("dissect", self.concepts))
        for name, images in passes:
            with self._job(name, layers, asked) as folder:
                if folder is None:
                    continue
                found = scan(
                    model,
                    inputs(images, model.preprocess),
                    layers=layers,
                    **asked,
                    batch_size=self.batch_size,
                    shard_size=self.shard_size,
                    into=folder,
                    engine=self.engine,
                    seed=self.seed,
                    progress=self.progress,
                )
                if self._store is None:
                    continue
                for layer in layers:
                    if name == "scan":
                        keep_exemplars(self._store, found.exemplars[layer], images, model)
                    if layer in found.selectivity and name == "scan" and found.selectivity[layer].n_images.any():
                        keep_selectivity(self._store, found.selectivity[layer], model)
                    if layer in found.dissections and name == passes[-1][0]:
                        keep_dissection(self._store, found.dissections[layer])
        return self

    def ablate(self, *, n_together: int = 20) -> "Study":
        """What each class loses without each unit of each layer; images need classes. See `dissect.ablate_units`.

        Where the layer was dissected, also without the `n_together` units that detect a concept best, all at once: a
        class survives the loss of a single unit (Bau et al., PNAS 2020, remove 20).
        """
        model, data, layers = self._ready()
        images = inputs(data, model.preprocess)
        for layer in layers:
            for name, groups in (("ablation", None), ("concept_ablation", self._best_units(layer, n_together))):
                if name == "concept_ablation" and not groups:
                    continue
                with self._job(f"{name} of {layer}", [layer], {"groups": str(groups)}) as folder:
                    if folder is None:
                        continue
                    found = ablate_units(
                        model,
                        images,
                        layer=layer,
                        groups=groups,
                        batch_size=self.batch_size,
                        shard_size=self.shard_size,
                        into=folder,
                        engine=self.engine,
                        progress=self.progress,
                    )
                    if self._store is not None:
                        keep_ablation(self._store, found, name)
        return self

    def _best_units(self, layer: str, n_together: int) -> dict[str, list[int]]:
        """For each concept that has a detector, the units that detect it best; the same in all processes."""
        groups: dict[str, list[int]] = {}
        seen = self[layer].dissection if self._store is not None else None
        if seen is not None:
            detected = (seen.iou > seen.min_iou).any(0).nonzero().squeeze(1).tolist()
            for column in detected:
                best = seen.iou[:, column].topk(min(n_together, len(seen.units))).indices
                groups[seen.labels[column].name] = sorted(seen.units[best].tolist())
        return agree(groups)

    def visualize(self, n_units: int = 16, *, steps: int = 256) -> "Study":
        """Pictures drawn for the units of each layer that detect best, or peak most where nothing was dissected."""
        model, _, layers = self._ready()
        for layer in layers:
            with self._job(f"visualize {layer}", [layer], {"n_units": n_units, "steps": steps}) as folder:
                if folder is None or self._store is None:
                    continue
                order = "iou" if self[layer].dissection else "peak"
                rows = self[layer].units(order_by=order, descending=True, limit=n_units)
                wanted = sorted(int(row["unit"]) for row in rows)
                goal = unit_objective(layer, wanted)
                drawn = render(model, goal, steps=steps, seed=self.seed, progress=self.progress)
                self._store.put_noun("picture", drawn, layer)
                self._store.put_units(layer, [{"unit": one, "drawn": row} for row, one in enumerate(wanted)])
        return self

    def _ready(self) -> tuple[Model, Data, list[str]]:
        if self.model is None or self.data is None:
            raise BadInput(f"the study '{self.path}' is open to be read.", "Give the model and the images as well.")
        return self.model, self.data, self._layers

    def _open(self) -> Store:
        if self.model is None or self.data is None:
            return Store.open(self.path)
        images = inputs(self.data, self.model.preprocess)
        with reading(self.model, images, self._layers or [None]) as read:
            self._layers = list(read.places)
            table = [
                {"name": name, "kind": place.kind, "units": place.units, "grid": list(place.grid)}
                for name, place in read.places.items()
            ]
        if not (self.path / "study.json").exists():
            return Store.create(self.path, self.model, self.data, layers=table, seed=self.seed)
        store = Store.open(self.path, write=True)
        for what, now, then in (
            ("network", fingerprint(self.model.module), store.about["model"].get("fingerprint")),
            ("images", fingerprint_data(self.data), store.about["data"].get("fingerprint")),
        ):
            if now != then:
                store.close()
                raise BadInput(f"'{self.path}' is a study of other {what}.", "Choose another folder.")
        return store

    @contextmanager
    def _job(self, name: str, layers: Sequence[str], asked: Mapping[str, Any]) -> Generator[Path | None]:
        """The folder to work in, None if that has been done; all processes enter and leave together."""
        with ExitStack() as stack:
            answer: tuple[bool, Path] | None = None
            if self._store is not None:
                said = {"layers": list(layers), "seed": self.seed, "batch_size": self.batch_size, **asked}
                job = stack.enter_context(self._store.job(name, str(sorted(said.items())), arguments=said))
                answer = job.done, job.partials
            done, folder = agree(answer) or (True, self.path)
            yield None if done else folder
            agree(None)
