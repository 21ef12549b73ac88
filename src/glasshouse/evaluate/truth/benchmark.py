"""Heat maps held against interventions: a part matters as much as the score falls when it is not there.

Scenes can be drawn again without a part, with everything else as it was. So the truth here is about the model, not
about the picture: a part that the model does not use is worth nothing, however much it looks like the object.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Maps,
    Model,
    Noun,
    PerImage,
    Reading,
    Score,
    blur,
    borrow,
    generator,
    in_chunks,
    select,
    steps,
)
from glasshouse.core.target import logits
from glasshouse.data import Scenes
from glasshouse.evaluate.agreement import mean_ranks

MapOf: TypeAlias = Callable[[Model, Images, Int[Tensor, " n"]], Explanation | Tensor]
"""Anything that explains: given a model, images and one class per image, an explanation, or signed maps `n h w`."""

CANVAS = ("sky", "ground")
LEAST_PIXELS = 4
SHARE = 0.1
ALIKE = 0.5  # cosine of two unit vectors that are as far from each other as each is from 0
TRACKS = ("importance", "relevant_mass", "pointing", "other_class")
CONTROLS = ("oracle", "centre", "edges", "constant", "random")


@dataclass(frozen=True, repr=False)
class Effects(Noun):
    """What each part of each scene is worth to a model.

    Args:
        effect: the fall of the score when a part is not drawn; not-a-number where it cannot be seen anyway.
        masks: where each part is seen.
        relevant: the pixels of the parts that matter: their effect is at least a tenth of the scene's largest.
        parts: their names.
        target: the class that was asked about.
        images: the scenes as the model gets them.
        score: of the untouched scenes.
    """

    effect: Float[Tensor, "n p"]
    masks: Bool[Tensor, "n p h w"]
    relevant: Bool[Tensor, "n h w"]
    parts: tuple[str, ...]
    target: tuple[int, ...]
    images: Images
    score: PerImage

    def __repr__(self) -> str:
        return f"Effects({len(self.effect)} scenes, {len(self.parts)} parts)"


def part_effects(
    model: Model,
    scenes: Scenes,
    target: int | Sequence[int] | None = None,
    *,
    parts: Sequence[str] | None = None,
    score: Reading = "logit",
    chunk: int = 64,
) -> Effects:
    """Ask the model about every scene without each of its parts.

        D_p = y(x) - y(do(remove p))

    Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023, use the same interventions on rendered birds.

    Args:
        parts: which to remove; None takes everything that stands in front of sky and ground.
        chunk: images per forward pass.
    """
    names = [name for name in scenes.part_names if name not in CANVAS] if parts is None else list(parts)
    images, rows = model.preprocess.normalise(scenes.images), [scenes.part(name) for name in names]
    masks = scenes.masks[:, rows]

    with borrow(model, images) as network, torch.no_grad():

        def scores(pictures: Images, classes: Int[Tensor, " n"] | None) -> tuple[Tensor, Tensor]:
            found = [out for _, out in in_chunks(lambda r: logits(network(pictures[r])), len(pictures), chunk)]
            output = torch.cat(found)
            asked = output.argmax(1) if classes is None else classes
            return select(output, asked, score), asked

        given = None if target is None else torch.as_tensor(target).expand(len(images))
        clean, classes = scores(images, given)
        effect = torch.full((len(images), len(names)), torch.nan, dtype=clean.dtype, device=clean.device)
        for place in steps(len(names)):
            without = model.preprocess.normalise(scenes.do(remove=names[place]).images)
            effect[:, place] = clean - scores(without, classes)[0]
    seen = masks.flatten(2).sum(2) >= LEAST_PIXELS
    effect = torch.where(seen, effect, torch.nan)
    least = SHARE * effect.nan_to_num().amax(1, keepdim=True)
    relevant = (masks & (effect.nan_to_num() >= least.clamp(min=1e-6))[:, :, None, None]).any(1)
    return Effects(effect, masks, relevant, tuple(names), tuple(classes.tolist()), images, clean)


@dataclass(frozen=True, repr=False)
class Benchmark(Noun):
    """How well maps agree with interventions, method by method, controls included.

    Args:
        scores: by method, by track: one number per scene.
        skipped: methods that failed, and why.
    """

    scores: dict[str, dict[str, Score]]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return f"Benchmark({len(self.scores)} methods, {len(TRACKS)} tracks)"

    def ranking(self, track: str = "importance") -> tuple[str, ...]:
        """Methods from best to worst on one track."""
        sign = -1 if track == "other_class" else 1
        means = {name: sign * tracks[track].mean for name, tracks in self.scores.items() if track in tracks}
        return tuple(sorted(means, key=lambda name: means[name] if means[name] == means[name] else -9, reverse=True))

    def flags(self, name: str) -> tuple[str, ...]:
        """What must be said against a method: "not above chance", "class-insensitive"."""
        tracks, found = self.scores[name], list[str]()
        lead = tracks["importance"].value - self.scores["constant"]["importance"].value
        lead = lead[lead.isfinite()]
        if not lead.mean() > 3 * lead.std() / len(lead) ** 0.5:
            found.append("not above chance")
        if "other_class" in tracks and tracks["other_class"].mean >= ALIKE:
            found.append("class-insensitive")
        return tuple(found)

    def table(self) -> str:
        """The table in Markdown, best first."""
        lines = [
            "| method | importance | relevant mass | pointing | map of another class | note |",
            "|---|---|---|---|---|---|",
        ]
        for name in self.ranking():
            tracks = self.scores[name]
            known = [t in tracks and bool(tracks[t].valid.any()) for t in TRACKS]
            cells = [
                f"{tracks[t].mean:.2f} ± {tracks[t].error:.2f}" if there else "–"
                for t, there in zip(TRACKS, known, strict=True)
            ]
            note = "control" if name in CONTROLS else ", ".join(self.flags(name))
            shown = name if name in CONTROLS else f"`{name}`"
            lines.append(f"| {shown} | {' | '.join(cells)} | {note} |")
        return "\n".join(lines) + "\n"


def benchmark(
    model: Model,
    scenes: Scenes,
    methods: Mapping[str, MapOf],
    *,
    effects: Effects | None = None,
    score: Reading = "logit",
    seed: int = 0,
) -> Benchmark:
    """Score methods against what removing parts does to the model, beside controls that know nothing, or everything.

    - importance: Spearman correlation between the map's sum over each visible part and the part's effect. Chance is
      what the constant map gets, since large parts tend to matter more.
    - relevant_mass: the share of positive values that lies on parts that matter, less the share of pixels. Chance 0.
    - pointing: whether the strongest pixel lies on a part that matters, less the share of pixels. Chance 0.
    - other_class: cosine of the method's own values with those for another class drawn at random. From 0.5 the two
      are nearer to each other than to nothing at all, which is called class-insensitive (Nie, Zhang and Patel, ICML
      2018, compare l2 distances of unit vectors: the same, sqrt(2 - 2 cos)).

    The controls: `oracle` spreads each effect over its part; `centre` is a Gaussian, `edges` the image's gradient,
    `constant` and `random` what they say.

    Args:
        methods: anything `(model, images, classes) -> explanation or n h w`, by name: `attribute.grad_cam`,
            `partial(attribute.rise, n_masks=500)`, other libraries' methods.
        effects: what `part_effects` returned for these scenes, if it was asked before.
    """
    effects = part_effects(model, scenes, score=score) if effects is None else effects
    classes = torch.tensor(effects.target)
    with borrow(model, effects.images) as network, torch.no_grad():
        n_classes = logits(network(effects.images[:1])).shape[1]
    if n_classes < 2:
        raise BadInput("the model has one class only, so no map of another one can be made.")
    shift = torch.randint(1, n_classes, (len(classes),), generator=generator(seed))
    others = (classes + shift) % n_classes
    scores, skipped = dict[str, dict[str, Score]](), dict[str, str]()
    for name, maps in controls(effects, seed).items():
        scores[name] = tracks_of(effects, maps)
    names = list(methods)
    for place in steps(len(names)):
        name = names[place]
        try:
            first, second = (methods[name](model, effects.images, asked) for asked in (classes, others))
            scores[name] = tracks_of(effects, *values_of(first), values_of(second)[1])
        except GlasshouseError as reason:
            skipped[name] = str(reason)
    settings = {"preset": scenes.preset, "n": len(scenes), "size": scenes.size, "seed": scenes.seed}
    return Benchmark(scores, skipped, settings | {"model": model.name, "score": score})


def values_of(found: Explanation | Tensor) -> tuple[Tensor, Tensor]:
    """Maps on the pixels, and the method's own values."""
    return (found.heatmap, found.native) if isinstance(found, Explanation) else (found, found)


def tracks_of(
    effects: Effects, maps: Maps, values: Tensor | None = None, others: Tensor | None = None
) -> dict[str, Score]:
    """Every track of one method; the last one needs its values for two classes."""
    maps = maps.detach().to(effects.effect)
    area = effects.relevant.flatten(1).float().mean(1)
    positive = maps.clamp(min=0).flatten(1)
    on = (positive * effects.relevant.flatten(1)).sum(1) / positive.sum(1)
    best = maps.flatten(1).argmax(1, keepdim=True)
    hit = effects.relevant.flatten(1).gather(1, best)[:, 0].float()
    flat = maps.flatten(1).amax(1) == maps.flatten(1).amin(1)
    found = {
        "importance": track("importance", importance(effects, maps), "up"),
        "relevant_mass": track("relevant_mass", on - area, "up"),
        "pointing": track("pointing", torch.where(flat, torch.nan, hit - area), "up"),
    }
    if values is not None and others is not None:
        a, b = (side.detach().flatten(1).double() for side in (values, others))
        same = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        found["other_class"] = track("other_class", same.to(maps.dtype), "down")
    return found


def importance(effects: Effects, maps: Maps) -> PerImage:
    """Spearman correlation, over the visible parts, between the map's sum on a part and the part's effect."""
    mass = (maps[:, None] * effects.masks).flatten(2).sum(2)
    values = torch.full((len(maps),), torch.nan, dtype=maps.dtype)
    for row, effect in enumerate(effects.effect):
        seen = effect.isfinite()
        if int(seen.sum()) > 2:
            pair = mean_ranks(torch.stack([mass[row, seen], effect[seen]]))
            values[row] = torch.corrcoef(pair)[0, 1]
    return values


def track(name: str, value: PerImage, direction: Literal["up", "down"]) -> Score:
    """One number per scene as a score; a map without variation has none."""
    reason = tuple("" if known else "constant_map" for known in value.isfinite().tolist())
    chance = 0.0 if direction == "up" else None
    return Score(name, value.nan_to_num(torch.nan), torch.zeros_like(value), chance, direction, reason)


def controls(effects: Effects, seed: int) -> dict[str, Maps]:
    """Maps that know everything, and maps that know nothing."""
    images, (h, w) = effects.images, effects.images.shape[-2:]
    size = effects.masks.flatten(2).sum(2).clamp(min=1)
    share = (effects.effect.nan_to_num() / size)[:, :, None, None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    grey = blur(images.mean(1, keepdim=True), 1.0)
    down, right = torch.gradient(grey[:, 0], dim=(1, 2))
    return {
        "oracle": (share * effects.masks).sum(1),
        "centre": torch.exp(-(x.square() + y.square()) / 0.5).expand(len(images), h, w).to(grey),
        "edges": (down.square() + right.square()).sqrt(),
        "constant": torch.ones_like(grey[:, 0]),
        "random": torch.rand(len(images), h, w, generator=generator(seed)).to(grey),
    }
