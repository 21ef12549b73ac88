"""Heat maps held against interventions: a part matters as much as the score falls when it is not there."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Int
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
    generator,
    steps,
)
from glasshouse.data import Scenes
from glasshouse.data.glass import Glass
from glasshouse.evaluate.truth.controls import CONTROLS, ignorant, oracle
from glasshouse.evaluate.truth.effects import Effects, Responses, effects_elsewhere, part_responses
from glasshouse.evaluate.truth.funnybirds import protocol
from glasshouse.evaluate.truth.games import PartGame, glass_game
from glasshouse.evaluate.truth.leads import CLEAR, in_errors, least_lead
from glasshouse.evaluate.truth.tracks import TRACKS, contrast, map_tracks, other_class, steady

MapOf: TypeAlias = Callable[[Model, Images, Int[Tensor, " n"]], Explanation | Tensor]
"""Anything that explains: given a model, images and one class per image, an explanation, or signed maps `n h w`."""

ALIKE = 0.5  # cosine of two unit vectors that are as far from each other as each is from 0
FEW = 8  # scenes


class Truth(NamedTuple):
    """What is known of some scenes, for a model.

    Args:
        effects, others: of the class that is explained, and of the class that it is compared with.
        game: of the first scenes.
        moved: of the class that is explained, in the same scenes before another background.
    """

    effects: Effects
    others: Effects
    game: PartGame | None
    moved: Effects


@dataclass(frozen=True, repr=False)
class Benchmark(Noun):
    """How well maps agree with interventions, method by method, controls included.

    Args:
        scores: by method, by track: one number per scene.
        skipped: methods that failed, and why.
        checks: by method, the checks of `protocol`, where a game of parts was given.
    """

    scores: dict[str, dict[str, Score]]
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    checks: dict[str, dict[str, Score]] = field(default_factory=dict[str, dict[str, Score]])

    def __repr__(self) -> str:
        return f"Benchmark({len(self.scores)} methods, {len(self.tracks)} tracks)"

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that some method has a value for."""
        return tuple(t for t in TRACKS if any(t in own and own[t].valid.any() for own in self.scores.values()))

    def ranking(self, track: str = "importance") -> tuple[str, ...]:
        """Methods from best to worst on one track."""
        if track not in TRACKS:
            raise BadInput(f"no track '{track}'.", f"There are {', '.join(TRACKS)}.")
        sign = -1 if TRACKS[track].direction == "down" else 1
        means = {name: sign * tracks[track].mean for name, tracks in self.scores.items() if track in tracks}
        return tuple(sorted(means, key=lambda name: means[name] if means[name] == means[name] else -inf, reverse=True))

    def lead(self, name: str) -> PerImage:
        """How far a method's importance is above that of the constant map, scene by scene.

        With fewer than eight scenes of three parts or more: its relevant mass, which is 0 by chance.
        """
        tracks = self.scores[name]
        ahead = tracks["importance"].value - self.scores["constant"]["importance"].value.nan_to_num()  # ties: 0
        return ahead if int(ahead.isfinite().sum()) >= FEW else tracks["relevant_mass"].value

    def flags(self, name: str) -> tuple[str, ...]:
        """What must be said against a method: "not above chance", "class-insensitive"."""
        found = [] if in_errors(self.lead(name)) > CLEAR else ["not above chance"]
        alike = self.scores[name].get("other_class")
        if alike is not None and int(alike.valid.sum()) * 2 > len(alike.value) and alike.mean >= ALIKE:
            found.append("class-insensitive")
        return tuple(found)

    def note(self, name: str) -> str:
        """The flags in words, with the lead over chance that so many scenes would most likely have shown."""
        least = least_lead(self.lead(name))
        power = f" ({least:.2f} more would be)" if isfinite(least) else " (too few scenes)"
        return ", ".join(flag + power * (flag == "not above chance") for flag in self.flags(name))

    def table(self) -> str:
        """The table in Markdown, best first."""
        columns = self.tracks
        heads = " | ".join(f"{TRACKS[t].title}{' ↓' if TRACKS[t].direction == 'down' else ''}" for t in columns)
        lines = [f"| method | {heads} | note |", "|---" * (len(columns) + 2) + "|"]
        for name in self.ranking():
            own = self.scores[name]
            cells = [cell(own.get(t)) for t in columns]
            note = "control" if name in CONTROLS else self.note(name)
            shown = name if name in CONTROLS else f"`{name}`"
            lines.append(f"| {shown} | {' | '.join(cells)} | {note} |")
        return "\n".join(lines) + "\n"

    def checks_table(self) -> str:
        """The FunnyBirds protocol in Markdown, the most complete method first."""
        if not self.checks:
            raise BadInput("no game of parts was given, so nothing was checked.", "Pass game=evaluate.play(…).")
        columns = list(next(iter(self.checks.values())))
        worth = {name: own["completeness"].mean for name, own in self.checks.items()}
        order = sorted(worth, key=lambda name: worth[name] if worth[name] == worth[name] else -inf, reverse=True)
        heads = " | ".join(name.replace("_", " ") for name in columns)
        lines = [f"| method | {heads} |", "|---" * (len(columns) + 1) + "|"]
        for name in order:
            shown = name if name in CONTROLS else f"`{name}`"
            lines.append(f"| {shown} | {' | '.join(cell(self.checks[name].get(c)) for c in columns)} |")
        return "\n".join(lines) + "\n"


def cell(score: Score | None) -> str:
    """A mean and its error, or a dash."""
    if score is None or not bool(score.valid.any()):
        return "–"
    return f"{score.mean:.2f} ± {score.error:.2f}" if int(score.valid.sum()) > 1 else f"{score.mean:.2f}"


def benchmark(
    model: Model,
    scenes: Scenes,
    methods: Mapping[str, MapOf],
    *,
    target: int | Sequence[int] | None = None,
    responses: Responses | None = None,
    elsewhere: Responses | None = None,
    game: PartGame | None = None,
    score: Reading = "logit",
    seed: int = 0,
) -> Benchmark:
    """Score methods against what removing parts does to the model, beside controls that know nothing, or everything.

    - importance: Spearman correlation between the map's sum over each visible part and the part's effect. Chance is
      what the constant map gets, since large parts tend to matter more.
    - shapley: cosine between the map's sums over parts and their Shapley values; null_mass: the share of the map on
      parts that never matter, less their share of pixels. Both need `game`.
    - relevant_mass: the share of positive values that lies on parts that matter, less the share of pixels. Chance 0.
    - relevant_auc: the chance that a pixel of a part that matters is above one that is not. Chance 0.5.
    - pointing: whether the strongest pixel lies on a part that matters, less the share of pixels. Chance 0.
    - contrast: Spearman correlation over parts between the difference of the maps of two classes and the difference of
      the effects. Chance 0; a method that ignores the class has 0.
    - steady: how much the map's shares of the parts move when the background is drawn anew, in scenes where their
      effects do not.
    - other_class: cosine of the method's own values with those for another class drawn at random. From 0.5 the two
      are nearer to each other than to nothing at all, which is called class-insensitive (Nie, Zhang and Patel, ICML
      2018, compare l2 distances of unit vectors: the same, sqrt(2 - 2 cos)).

    The controls: `oracle` spreads each effect over its part; `centre` is a Gaussian, `edges` the image's gradient,
    `constant` and `random` what they say.

    Args:
        model: a trained one, which is asked about scenes drawn without each part; or a glass model, whose formula says
            what its regions are worth.
        methods: anything `(model, images, classes) -> explanation or n h w`, by name: `attribute.grad_cam`,
            `partial(attribute.rise, n_masks=500)`, other libraries' methods.
        target: the classes to explain; None takes the one that wins in each scene.
        responses: what `part_responses` returned for these scenes, so that nothing has to be asked about their parts
            again, whichever the class.
        elsewhere: the same for `scenes.do(background=…)`; else they are asked about, before backgrounds drawn anew.
        game: what `play` returned for the first of these scenes and the same classes.
        score: what the effects are read in; glass models know their logits only.
    """
    apart(methods)
    effects, others, game, moved = known(model, scenes, target, (responses, elsewhere), game, score, seed)
    images, classes, other_classes = effects.images, torch.tensor(effects.target), torch.tensor(others.target)
    scores, checks = dict[str, dict[str, Score]](), dict[str, dict[str, Score]]()

    def keep(name: str, maps: Maps, extra: Mapping[str, Score] | None = None) -> None:
        scores[name] = map_tracks(effects, maps, game) | dict(extra or {})
        if game is not None:
            checks[name] = protocol(game, maps[: len(game)], scores[name].get("contrast"), effects)

    best, second, there = (oracle(each.effect, each.masks) for each in (effects, others, moved))
    extra = {"contrast": contrast(effects, others, best, second), "steady": steady(effects, best, there, moved)}
    keep("oracle", best, extra)
    elsewhere_too = ignorant(moved.images, seed)
    for name, maps in ignorant(images, seed).items():
        keep(name, maps, {"steady": steady(effects, maps, elsewhere_too[name], moved)})
    names, skipped = list(methods), dict[str, str]()
    for place in steps(len(names)):
        name, method = names[place], methods[names[place]]
        try:
            first, second = (values_of(method(model, images, asked)) for asked in (classes, other_classes))
            extra = {
                "contrast": contrast(effects, others, first[0], second[0]),
                "other_class": other_class(first[1], second[1]),
            }
            extra["steady"] = steady(effects, first[0], values_of(method(model, moved.images, classes))[0], moved)
        except GlasshouseError as reason:
            skipped[name] = str(reason)
            continue
        keep(name, first[0], extra)
    settings = {"preset": scenes.preset, "n": len(scenes), "size": scenes.size, "seed": scenes.seed}
    settings |= {"model": model.name, "score": score, "n_game": 0 if game is None else len(game)}
    settings |= {} if target is None else {"target": list(effects.target)}
    return Benchmark(scores, skipped, settings, checks)


def apart(methods: Collection[str]) -> None:
    """Raise if a method has a control's name."""
    if taken := [name for name in methods if name in CONTROLS]:
        raise BadInput(f"'{taken[0]}' is the name of a control.", "Give the method another one.")


def known(
    model: Model,
    scenes: Scenes,
    target: int | Sequence[int] | None,
    asked: tuple[Responses | None, Responses | None],
    game: PartGame | None,
    score: Reading,
    seed: int,
) -> Truth:
    """What is true of the scenes for the classes that are explained, and for others drawn at random.

    Args:
        asked: about the scenes, and about them before another background.
    """
    if isinstance(model, Glass):
        return known_glass(model, scenes, target, game, score, seed)
    for given in asked:
        if given is not None and len(given.whole) != len(scenes):
            raise BadInput(f"responses to {len(given.whole)} scenes are not about these {len(scenes)}.")
    found, there = asked[0] or part_responses(model, scenes), asked[1]
    effects, n_classes = found.effects(target, score), found.whole.shape[1]
    if n_classes < 2:
        raise BadInput("the model has one class only, so no map of another one can be made.")
    same_classes(game, effects.target)
    others = others_of(torch.tensor(effects.target), n_classes, seed)
    if there is None:
        moved = effects_elsewhere(model, scenes, effects, score=score)
    else:
        moved = there.effects(list(effects.target), score)
    return Truth(effects, found.effects(others.tolist(), score), game, moved)


def known_glass(
    model: Glass,
    scenes: Scenes,
    target: int | Sequence[int] | None,
    game: PartGame | None,
    score: Reading,
    seed: int,
) -> Truth:
    """The same of a glass model, by its formula."""
    if score != "logit":
        raise BadInput(f"a glass model's formula is of its logits, not of '{score}'.", "Leave score out.")
    images = scenes.images if game is None else game.images
    whole = glass_game(model, images, target) if game is None or target is not None else game
    same_classes(game, whole.target)
    others = others_of(torch.tensor(whole.target), len(model.class_names), seed)
    second = glass_game(model, images, others.tolist())
    effects = Effects.of(whole)
    return Truth(effects, Effects.of(second), whole, effects_elsewhere(model, scenes, effects))


def same_classes(game: PartGame | None, classes: tuple[int, ...]) -> None:
    """Raise if a game is about other classes than those of the first scenes."""
    if game is not None and game.target != classes[: len(game)]:
        raise BadInput("the game is about other classes than the effects.", "Play it for the same scenes and targets.")


def others_of(classes: Int[Tensor, " n"], n_classes: int, seed: int) -> Int[Tensor, " n"]:
    """Another class for each image, drawn evenly."""
    shift = torch.randint(1, n_classes, (len(classes),), generator=generator(seed))
    return (classes + shift) % n_classes


def values_of(found: Explanation | Tensor) -> tuple[Tensor, Tensor]:
    """Maps on the pixels, and the method's own values."""
    return (found.heatmap, found.native) if isinstance(found, Explanation) else (found, found)
