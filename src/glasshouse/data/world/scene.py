"""`scenes`: images whose whole truth is known. One renderer, several worlds.

A world (preset) is a schema of factors and a function that turns factors into strokes. From the strokes come the
pixels, the labels of every plane, the masks, boxes and key points of all parts; from changed factors or missing
strokes, under the same draws for everything else, the exact counterfactuals.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core.errors import BadInput, not_found
from glasshouse.core.result import Noun
from glasshouse.core.types import Images
from glasshouse.data.world.factors import Copula, Factor, Grid, Joint, Setting, draw_factors, find, grid_of
from glasshouse.data.world.faults import Faults
from glasshouse.data.world.presets import PRESETS, Preset, PresetName
from glasshouse.data.world.raster import rasterise
from glasshouse.data.world.shortcuts import Shortcut, Split
from glasshouse.data.world.strokes import Sheet, Strokes
from glasshouse.data.world.truth import boxes, labels_of, middles, shortcut_mask

SMALLEST, LARGEST = 16, 1024


@dataclass(frozen=True, repr=False)
class Scenes(Noun):
    """n rendered scenes and everything that is true of them.

    Attributes:
        index: the scenes' numbers; scene i of a seed is the same in every set.
        factors: every factor's value: places in its `values`, or numbers.
        images: pixels in 0…1.
        categories: the right answer to "what is it?", place in `class_names`.
        labels: planes `object`, `part`, `material`, `color`, `texture`, `scene` and `instance`; the front-most thing
            that covers more than half of a pixel. 0 is none. Names in `vocabulary`.
        part_names: of the p parts that `masks`, `amodal`, `parts` and `boxes` tell of.
        masks: where each part is seen; disjoint. `amodal`: where it would be seen if nothing were in front.
        parts: row and column of each part's middle (of its amodal mask), and the share of it that is seen; a part
            that is absent has 0 there.
        boxes: top, left, bottom, right (half open) of each visible mask; 0 where nothing is seen.
        signal: the category that the shortcut shows, -1 for none; `shortcut_mask`: where it shows it.
        manifest: what happened to each image where faults were asked for.
    """

    preset: str
    size: int
    seed: int
    index: Int[Tensor, " n"]
    factors: dict[str, Tensor]
    images: Images
    categories: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    labels: dict[str, Tensor]
    vocabulary: dict[str, tuple[str, ...]]
    part_names: tuple[str, ...]
    masks: Bool[Tensor, "n p h w"]
    amodal: Bool[Tensor, "n p h w"]
    parts: Float[Tensor, "n p 3"]
    boxes: Int[Tensor, "n p 4"]
    signal: Int[Tensor, " n"]
    shortcut_mask: Bool[Tensor, "n h w"]
    n_objects: int = 1
    shortcut: Shortcut | None = None
    faults: Faults | None = None
    manifest: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    removed: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    with_labels: bool = True

    def __repr__(self) -> str:
        extra = f", {self.shortcut!r}" if self.shortcut else ""
        return f"Scenes({self.preset}, {len(self)} × {self.size}×{self.size}, seed {self.seed}{extra})"

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> list[str]:
        """A name for each scene that says how to make it again."""
        return [f"{self.preset}/{self.seed}/{number:08d}" for number in self.index.tolist()]

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One scene as an item of a data set: pixels, category and labels."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"scene {number} of {len(self)}")
        planes = {name: plane[number] for name, plane in self.labels.items()}
        return {"image": self.images[number], "target": self.categories[number], "labels": planes}

    @property
    def schema(self) -> tuple[Factor, ...]:
        """The factors of these scenes."""
        return PRESETS[self.preset].schema(self.n_objects)

    def part(self, name: str) -> int:
        """The place of a part in `masks`, `parts` and `boxes`."""
        if name not in self.part_names:
            raise not_found("part", name, self.part_names)
        return self.part_names.index(name)

    def named(self, factor: str) -> list[str]:
        """A categorical factor's values in words."""
        values = find({f.name: f for f in self.schema}, factor).values
        return [values[i] if values else str(i) for i in self.factors[factor].tolist()]

    def mask_of(self, name: str, plane: str = "object") -> Bool[Tensor, "n h w"]:
        """Where a label of a plane is seen."""
        if plane not in self.labels:
            raise not_found("label plane", plane, self.labels)
        if name not in self.vocabulary[plane]:
            raise not_found(f"{plane} label", name, self.vocabulary[plane])
        return self.labels[plane] == self.vocabulary[plane].index(name)

    def do(
        self,
        *,
        remove: str | Sequence[str] = (),
        restore: str | Sequence[str] = (),
        swap: Mapping[str, Setting] | None = None,
        background: str | int | None = None,
        move: tuple[float | int, float | int] | None = None,
        signal: int | Int[Tensor, " n"] | None = None,
        where: Bool[Tensor, " n"] | None = None,
    ) -> "Scenes":
        """The same scenes with something changed, everything else as it was: exact counterfactuals.

        Args:
            remove: parts or objects that are not drawn; what was behind them shows. `restore` brings them back.
            swap: factors' new values, by name: `{"tail_shown": "no"}`, `{"hue": 0.3}`.
            background: the name of a kind of place, or a seed from which all background factors are drawn anew.
            move: shift of the main thing to the right and down, in image sides.
            signal: the category that the shortcut shows; -1 takes it away.
            where: the scenes to change; all when left out.
        """
        n, preset = len(self), PRESETS[self.preset]
        chosen = torch.ones(n, dtype=torch.bool) if where is None else where.cpu()
        schema = {factor.name: factor for factor in self.schema}
        values = {name: find(schema, name).encode(setting, n) for name, setting in (swap or {}).items()}
        if isinstance(background, str):
            values[preset.ground[0]] = find(schema, preset.ground[0]).encode(background, n)
        elif background is not None and not 0 <= background < 2**63:
            raise BadInput(f"background={background} is no seed: 0 or more, or the name of a kind of place.")
        elif background is not None:
            fresh = {name: factor for name, factor in schema.items() if factor.group == "background"}
            values |= draw_factors(fresh, self.index, background)
        for step, axis in zip(move or (), (preset.right, preset.down), strict=False):
            if step and not axis:
                raise BadInput(f"the main thing of '{self.preset}' stands on the ground and moves sideways only.")
            if step:
                values[axis] = self.factors[axis] + step
        factors = self.factors | {name: torch.where(chosen, v, self.factors[name]) for name, v in values.items()}
        removed = dict(self.removed)
        for names, gone in ((remove, True), (restore, False)):
            for name in [names] if isinstance(names, str) else names:
                before = removed.get(name, torch.zeros(n, dtype=torch.bool))
                removed[name] = before | chosen if gone else before & ~chosen
        shown = self.signal
        if signal is not None:
            if self.shortcut is None:
                raise BadInput("these scenes have no shortcut.", "Pass shortcut=Shortcut(…) to scenes.")
            asked = torch.as_tensor(signal, dtype=torch.long)
            if bool(((asked < -1) | (asked >= len(self.class_names))).any()):
                raise BadInput(f"signal={signal} is no category: 0…{len(self.class_names) - 1}, or -1 for none.")
            shown = torch.where(chosen, asked, shown)
            carriers = [schema[name] for name in _carriers(preset, self.shortcut)]
            fresh = draw_factors({factor.name: factor for factor in carriers}, self.index, self.seed)
            told = self.shortcut.override(fresh, shown, carriers, len(self.class_names)) if carriers else {}
            factors |= {name: torch.where(chosen, told[name], factors[name]) for name in told}
        was, now = preset.category(self.factors), preset.category(factors)
        manifest = {**self.manifest, "true_category": now} if self.manifest else {}
        edited = replace(
            self,
            factors=factors,
            categories=torch.where(was == now, self.categories, now),
            removed=removed,
            signal=shown,
            manifest=manifest,
        )
        return _rendered(edited, self.images.device)


def scenes(
    preset: PresetName = "houses",
    n: int | None = None,
    *,
    size: int = 64,
    seed: int = 0,
    start: int = 0,
    n_objects: int = 1,
    fixed: Mapping[str, Setting] | None = None,
    grid: Mapping[str, int] | Sequence[str] | None = None,
    together: Sequence[Joint | Copula] = (),
    shortcut: Shortcut | None = None,
    split: Split = "train",
    faults: Faults | None = None,
    labels: bool = True,
    device: torch.device | str = "cpu",
) -> Scenes:
    """Render scenes `start`…`start + n - 1` of a seed.

    Scene i depends on the seed and i alone: not on n, on the batch, or on the device up to rounding.

    Args:
        n: how many; 16 when left out, or the whole grid.
        size: side in pixels.
        n_objects: main things in each scene (creatures and shapes).
        fixed: factors that are not drawn, with their values.
        grid: factors of which every combination is shown in order, all other factors at their middle. With names
            alone, a categorical factor takes all its values and a number five.
        together: joint tables or copulas for factors that are to be correlated.
        shortcut: what gives the category away, and how reliably.
        split: `train`, or which of the shortcut's test splits: `aligned`, `conflicting`, `absent`.
        faults: what is to be wrong with the set.
        labels: without them only images, categories and factors are made, which is faster.
    """
    world = _world(preset, n_objects)
    if not SMALLEST <= size <= LARGEST:
        raise BadInput(f"size={size} is not in {SMALLEST}…{LARGEST} pixels.", "Try size=64.")
    schema = {factor.name: factor for factor in world.schema(n_objects)}
    raster = grid_of(schema, grid) if grid is not None else None
    if raster and (together or (faults and (faults.uneven or faults.memorised))):
        raise BadInput("a grid shows every combination once: nothing can be drawn together, dropped or repeated in it.")
    n = n if n is not None else len(raster) - start if raster else 16
    if n < 1 or start < 0 or not 0 <= seed < 2**63:
        raise BadInput(f"n={n} must be 1 or more, start={start} and seed={seed} 0 or more.")
    index = torch.arange(start, start + n)
    shown = faults.repeat(index, seed) if faults else index
    if raster is None:
        rare = [faults.joint(world.content, schema, world.categories)] if faults and faults.uneven else []
        factors = draw_factors(schema, shown, seed, fixed=fixed, together=(*rare, *together))
    else:
        factors = _on_grid(schema, raster, shown, fixed or {})
    categories = world.category(factors)
    signal = torch.full((n,), -1)
    if shortcut:
        signal = shortcut.signal(categories, len(world.categories), shown, seed, split)
        carriers = [schema[name] for name in _carriers(world, shortcut)]
        if carriers:
            factors = shortcut.override(factors, signal, carriers, len(world.categories))
    written = faults.relabel(categories, len(world.categories), shown, seed) if faults else categories
    manifest = faults.manifest(index, shown, categories, written, seed) if faults else {}
    blank = torch.zeros(n, 1, 1, dtype=torch.bool).expand(n, size, size)
    plain = Scenes(
        preset=preset,
        size=size,
        seed=seed,
        index=shown,
        factors=factors,
        images=torch.zeros(n, 3, 1, 1).expand(n, 3, size, size),
        categories=written,
        class_names=world.categories,
        labels={},
        vocabulary=world.vocabulary,
        part_names=(),
        masks=blank[:, None][:, :0],
        amodal=blank[:, None][:, :0],
        parts=torch.zeros(n, 0, 3),
        boxes=torch.zeros(n, 0, 4, dtype=torch.long),
        signal=signal,
        shortcut_mask=blank,
        n_objects=n_objects,
        shortcut=shortcut,
        faults=faults,
        manifest=manifest,
        with_labels=labels,
    )
    return _rendered(plain, torch.device(device))


def _on_grid(
    schema: Mapping[str, Factor], grid: Grid, index: Int[Tensor, " n"], fixed: Mapping[str, Setting]
) -> dict[str, Tensor]:
    """The factors of a grid's scenes; those that are neither in it nor fixed are at their middle."""
    n = len(index)
    middle = {name: factor.encode(factor.middle(), n) for name, factor in schema.items()}
    given = {name: find(schema, name).encode(setting, n) for name, setting in fixed.items()}
    return middle | given | grid.values(index)


def scene_grid(preset: PresetName, factors: Mapping[str, int] | Sequence[str], *, n_objects: int = 1) -> Grid:
    """The numbering of `scenes(preset, grid=factors)`: which number shows which values, and back."""
    schema = _world(preset, n_objects).schema(n_objects)
    return grid_of({factor.name: factor for factor in schema}, factors)


def strokes_of(scenes: Scenes) -> Strokes:
    """What is drawn in each scene, from back to front."""
    world, n = PRESETS[scenes.preset], len(scenes)
    words = scenes.vocabulary
    sheet = Sheet(n, words["part"], words["object"])
    light = world.draw(scenes.factors, sheet)
    if scenes.faults:
        scenes.faults.draw(sheet, scenes.index, scenes.seed)
    if scenes.shortcut:
        scenes.shortcut.draw(sheet, scenes.signal, len(world.categories), scenes.index, scenes.seed)
    strokes = sheet.strokes(light)
    for name, gone in scenes.removed.items():
        known = {*strokes.owner, *words["part"], *words["object"]} - {"-"}
        if name not in known:
            raise not_found("part or object", name, sorted(known))
        strokes = strokes.without(name, gone, words["part"], words["object"])
    return strokes


def _carriers(world: Preset, shortcut: Shortcut) -> tuple[str, ...]:
    """The factors that show the signal of a shortcut; none where strokes or pixels do."""
    return {"background": world.ground, "position": world.place}.get(shortcut.kind, ())


def _world(preset: str, n_objects: int) -> Preset:
    if preset not in PRESETS:
        raise not_found("preset", preset, PRESETS)
    world = PRESETS[preset]
    if not 1 <= n_objects <= world.most:
        raise BadInput(f"n_objects={n_objects}: scenes of '{preset}' have 1…{world.most} main things.")
    return world


def _rendered(scenes: Scenes, device: torch.device) -> Scenes:
    """The scenes with pixels and labels made from their factors."""
    strokes = strokes_of(scenes).to(device)
    pixels = rasterise(strokes, scenes.size, labels=scenes.with_labels)
    images = pixels.images
    if scenes.shortcut:
        images = scenes.shortcut.imprint(images, scenes.signal, len(scenes.class_names))
    if not scenes.with_labels:
        return replace(scenes, images=images, shortcut_mask=scenes.shortcut_mask.to(device))
    labels = labels_of(strokes, pixels.top, PRESETS[scenes.preset].scene(scenes.factors))
    return replace(
        scenes,
        images=images,
        labels=labels,
        part_names=strokes.parts,
        masks=pixels.masks,
        amodal=pixels.amodal,
        parts=middles(pixels),
        boxes=boxes(pixels),
        shortcut_mask=shortcut_mask(scenes.shortcut, scenes.signal, labels, scenes.vocabulary["object"]),
    )


def stream(make: Callable[..., Scenes], n: int, *, start: int = 0, batch_size: int = 64) -> Generator[Scenes]:
    """Scenes in batches, for sets that do not fit in memory: `stream(partial(scenes, "houses", size=64), 50_000)`."""
    for first in range(start, start + n, batch_size):
        yield make(n=min(batch_size, start + n - first), start=first)
