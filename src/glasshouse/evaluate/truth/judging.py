"""Metrics put to the test: the best map there is must come first, and noise last.

A metric of faithfulness is worth as much as it tells maps that know the model from maps that do not. So every metric is
given the same maps: the oracle, which spreads what each part is worth over its pixels; the oracle with more and more
noise; and the controls, which know nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Info,
    Maps,
    Model,
    PerImage,
    Score,
    find_method,
    steps,
)
from glasshouse.core.result import Direction
from glasshouse.evaluate.baselines import substrate
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.truth.controls import blurred_oracle, ignorant, oracle
from glasshouse.evaluate.truth.games import PartGame
from glasshouse.evaluate.truth.judgements import HELD_OUT, ORACLE, RANDOM, SETTLED, JudgedTwice, Judgement
from glasshouse.evaluate.truth.leads import in_errors
from glasshouse.evaluate.truth.tracks import flat, levelled

NOISE = (0.25, 0.5, 0.75)

JUDGED: Mapping[str, Mapping[str, Any]] = {
    "srg": {"n_steps": 8},
    "deletion": {"n_steps": 32, "score": "logit"},
    "insertion": {"n_steps": 32, "score": "logit"},
    "region_perturbation": {"patch_px": 4, "n_regions": 64},
    "selectivity": {"patch_px": 4, "score": "logit"},
    "irof": {"score": "logit"},
    "road": {"baseline": "road:0.01"},
    "mu_fidelity": {"n_samples": 64},
    "faithfulness_correlation": {"n_samples": 64},
    "sensitivity_n": {"n_samples": 32},
    "faithfulness_estimate": {},
    "monotonicity": {},
    "monotonicity_correlation": {},
    "non_sensitivity": {"n_samples": 1},
    "infidelity": {"perturbation": "square", "convention": "contribution", "scale": "optimal"},
    "pgi": {"n_samples": 2},
    "pgu": {"n_samples": 2},
    "average_drop": {},
    "average_gain": {},
    "part_single_deletion": {},
    "shapley_gap": {},
    "pointing_game": {"tolerance_px": 0},
    "relevance_mass": {},
    "relevance_rank": {},
    "localisation_auc": {},
    "localisation_ap": {},
}
"""The metrics that are judged, with settings for scenes of 32 to 64 pixels. Those of a map's shape alone are not: a dot
in the corner is as concise as can be."""


def judge(
    model: Model,
    game: PartGame,
    metrics: Mapping[str, Mapping[str, Any]] = JUDGED,
    *,
    baseline: float | int | str = 0.0,
    seed: int = 0,
) -> Judgement:
    """Give every metric the oracle, the oracle with noise, and the controls; see whether it can tell them apart.

    The oracle is made of Shapley values. A metric passes if the oracle is clearly ahead of every control, no map is
    clearly ahead of the oracle, and none but the constant one clearly behind noise. Clearly is by more than three
    standard errors of the mean difference over images. `auroc` compares maps of the same image with different shares of
    noise, 0 to 1. Scenes in which no part is worth anything are left out: there no map is better than another.

    Args:
        game: what is known of the scenes, from `play` or `glass_game`.
        metrics: by name, the settings that differ from the defaults. One that is not registered is noted.
        baseline: what metrics fill in with; the game's own is black for glass models.
    """
    maps = maps_to_judge(game, seed)
    told = ~flat(maps[ORACLE])
    if int(told.sum()) < 2:
        raise BadInput(f"parts matter in {int(told.sum())} of {len(game)} scenes.", "It takes two scenes or more.")
    explanations = {name: by_hand(game, each) for name, each in maps.items()}
    answers = Answers(model, game.images, list(game.target))
    found = Judgement({}, {}, {}, {}, {}, {}, {"model": model.name, "n": len(game), "baseline": baseline, "seed": seed})
    for place in steps(len(metrics)):
        name = list(metrics)[place]
        try:
            info = find_method(name, "evaluate")
            given = settings_of(info, metrics[name], game, baseline, answers, seed)
            scores = {who: info.function(model, game.images, e, **given) for who, e in explanations.items()}
        except GlasshouseError as error:
            found.skipped[name] = str(error)
            continue
        values, direction = comparable(scores, told), scores[ORACLE].direction
        if bool(values[ORACLE].isnan().all()):
            why = next(why for why, so in zip(scores[ORACLE].reason, told.tolist(), strict=True) if so)
            found.skipped[name] = why or "not_finite"
            continue
        found.means[name] = {who: float(value.nanmean()) for who, value in values.items()}
        found.behind_oracle[name] = leads(values[ORACLE], values, direction, 1)
        found.above_random[name] = leads(values[RANDOM], values, direction, -1)
        found.directions[name] = direction
        ladder = [values[ORACLE], *(values[noisy(share)] for share in NOISE), values[RANDOM]]
        found.auroc[name] = in_order(ladder, direction)
    return found


def judge_twice(
    model: Model,
    game_of: Callable[[int], PartGame],
    metrics: Mapping[str, Mapping[str, Any]] = JUDGED,
    *,
    baseline: float | int | str = 0.0,
    seeds: tuple[int, int] = (SETTLED, HELD_OUT),
) -> JudgedTwice:
    """Judge metrics on the scenes that the rule was settled on, and on scenes that were kept back.

    A verdict that changes was luck on one side. Fresh scenes answer for the draw of scenes and noise alone: model,
    kind of scenes and settings are those that the rule was settled with.

    Args:
        game_of: draws scenes from a seed, and says what is known of them.
        baseline: as for `judge`.
        seeds: of scenes, controls and metrics; first those that the rule was settled on.
    """
    if seeds[0] == seeds[1]:
        raise BadInput(f"seed {seeds[0]} was given twice, so nothing is held out.", f"The second is {HELD_OUT}.")
    return JudgedTwice(*(judge(model, game_of(seed), metrics, baseline=baseline, seed=seed) for seed in seeds))


def comparable(scores: Mapping[str, Score], told: Bool[Tensor, " n"]) -> dict[str, PerImage]:
    """The values of each map where something is known of the scene, and where they are finite.

    They go in steps of what rounding can do, so that equal maps are equal on every machine.
    """
    values = torch.stack([score.value for score in scores.values()], 1)
    known = told.cpu()[:, None] & values.isfinite()
    steps = torch.where(known, levelled(torch.where(known, values, 0.0)), torch.nan)
    return dict(zip(scores, steps.unbind(1), strict=True))


def leads(first: PerImage, values: Mapping[str, PerImage], direction: Direction, sign: int) -> dict[str, float]:
    """How far one map is ahead of each other one, in standard errors of the mean difference; 0 where all are equal."""
    found = dict[str, float]()
    for who, others in values.items():
        lead = in_errors((sign if direction != "down" else -sign) * (first - others))
        if lead == lead and not (who == RANDOM and sign < 0):
            found[who] = lead
    return found


def noisy(share: float) -> str:
    """The name of an oracle with noise."""
    return f"{100 * share:.0f} % noise"


def maps_to_judge(game: PartGame, seed: int) -> dict[str, Maps]:
    """The oracle, the oracle with noise, and the controls."""
    best = oracle(game.shapley, game.masks)
    ladder = {noisy(share): blurred_oracle(best, share, seed) for share in NOISE}
    return {ORACLE: best, **ladder, **ignorant(game.images, seed)}


def by_hand(game: PartGame, maps: Maps) -> Explanation:
    """A map as an explanation."""
    return Explanation(maps, maps, "by_hand", game.target, game.score, {})


def settings_of(
    info: Info, settings: Mapping[str, Any], game: PartGame, baseline: float | int | str, answers: Answers, seed: int
) -> dict[str, Any]:
    """What a metric is called with: its own settings, and those of the judge that it takes."""
    offered: dict[str, Any] = {"masks": game.relevant, "parts": game.masks, "seed": seed, "answers": answers}
    offered |= {"baseline": baseline, "donors": substrate(game.images[:1], baseline)}
    known = info.parameters.parameters
    return {name: value for name, value in offered.items() if name in known} | dict(settings)


def in_order(ladder: Sequence[PerImage], direction: Direction) -> float:
    """How often the map with less noise scores better, over all pairs of one image; ties count half."""
    sign = -1 if direction == "down" else 1
    wins, pairs = 0.0, 0
    for place, better in enumerate(ladder):
        for worse in ladder[place + 1 :]:
            gap = sign * (better - worse)
            gap = gap[gap.isfinite()]
            wins += float((gap > 0).sum()) + 0.5 * float((gap == 0).sum())
            pairs += len(gap)
    return wins / pairs if pairs else float("nan")
