"""The FunnyBirds protocol on any game of parts: is an explanation complete, correct and contrastive?"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import BadInput, Maps, PerImage, Score
from glasshouse.core.errors import not_found
from glasshouse.evaluate.faithfulness.players import part_mass
from glasshouse.evaluate.localisation.masks import reasons
from glasshouse.evaluate.metric import Result, score_of
from glasshouse.evaluate.truth.effects import Effects
from glasshouse.evaluate.truth.games import PartGame
from glasshouse.evaluate.truth.tracks import broken, ranked

THRESHOLDS = (0.05, 0.1, 0.2, 0.3)
"""Shares of the largest part from which a part counts as marked; scores are means over them."""

UNNEEDED = 0.05
"""Of the score: a thing in the background is not needed if less is lost without it. The paper's five per cent."""

CHECKS: Mapping[str, str] = {
    "preservation": "the marked parts alone keep the answer",
    "deletion": "without the marked parts the answer is lost",
    "sufficient": "share of a smallest sufficient set of parts that is marked",
    "distractibility": "share of what never matters that is not marked",
    "single_deletion": "(rho + 1) / 2 of the parts' shares and their effects",
    "target_sensitivity": "(rho + 1) / 2 of the difference between two classes' maps and effects",
    "completeness": "mean of distractibility and the mean of the first three",
    "correctness": "single deletion",
    "contrastivity": "target sensitivity",
}


def protocol(
    game: PartGame, maps: Maps, contrast: Score | None = None, effects: Effects | None = None
) -> dict[str, Score]:
    """The scores of FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV 2023) for one method's maps. All are up, in 0…1.

        Com = ((sufficient + preservation + deletion) / 3 + distractibility) / 2,   Cor = SD,   Con = TS

    A part is marked if the map's sum over it is at least a share of the largest part's. Because every choice of parts
    was drawn, preservation and deletion are looked up, and the smallest sufficient sets are those of the model rather
    than of the data. Where the model's answer for the whole scene is another class, nothing can keep it or lose it.
    Differs: shares of the largest part, averaged over `THRESHOLDS`, where the paper takes the threshold that is best
    for the method. Parts that never matter are those of `PartGame.idle`, which no choice of the others makes matter;
    the paper removes them from the whole scene alone, as is done here with things in the background. Where everything
    matters, completeness is the mean of the first three. Target sensitivity ranks all parts by how much more they are
    worth to one of two classes; the paper compares two pairs of parts.

    Args:
        contrast: the track of that name; without it there is no target sensitivity.
        effects: of the same scenes, with things in the background among the parts: those that are not needed count as
            never mattering. Without it only the parts of the game do.
    """
    mass, bad = torch.where(game.seen, part_mass(maps, game.masks), 0.0), broken(maps)
    others = unneeded(game, maps, effects)
    checks = [one_threshold(game, mass, *others, share) for share in THRESHOLDS]
    found = {name: torch.stack([each[name] for each in checks]).mean(0) for name in checks[0]}
    unanswered, spared = bad | {"not_first": ~game.kept[:, -1]}, found["distractibility"]
    scores = {name: check(name, found[name], unanswered) for name in ("preservation", "deletion", "sufficient")}
    scores["distractibility"] = check("distractibility", spared, bad | {"no_idle_part": spared.isnan()})
    rho, stderr, unknown = ranked(mass, game.effect, game.seen)
    for name in ("single_deletion", "correctness"):
        scores[name] = check(name, (rho + 1) / 2, bad | unknown, stderr / 2, 0.5)
    three = torch.stack([found[name] for name in ("sufficient", "preservation", "deletion")]).mean(0)
    scores["completeness"] = check("completeness", torch.where(spared.isnan(), three, (three + spared) / 2), unanswered)
    if contrast is not None:
        n = len(game)
        first = Result((contrast.value[:n] + 1) / 2, contrast.stderr[:n] / 2, contrast.reason[:n])
        for name in ("target_sensitivity", "contrastivity"):
            scores[name] = score_of(name, first, 0.5, "up", {})
    return scores


def unneeded(game: PartGame, maps: Maps, effects: Effects | None) -> tuple[Float[Tensor, "n q"], Bool[Tensor, "n q"]]:
    """What the map holds on each thing that is no part of the game, and which of them are seen and not needed."""
    n = len(game)
    if effects is None:
        return torch.zeros(n, 0, dtype=torch.float64), torch.zeros(n, 0, dtype=torch.bool)
    if effects.target[:n] != game.target:
        raise BadInput("the game is about other classes than the effects.", "Play it for the same scenes and targets.")
    rest = [place for place, name in enumerate(effects.parts) if name not in game.parts]
    return part_mass(maps, effects.masks[:n, rest]), not_needed(effects)[:n, rest]


def not_needed(effects: Effects) -> Bool[Tensor, "n p"]:
    """What is seen and can be spared: the score falls by less than a twentieth without it, or rises."""
    return effects.effect < UNNEEDED * effects.score.abs()[:, None]


def background_independence(effects: Effects, background: Sequence[str]) -> Score:
    """How far a model, not a map, does without the background: the share of things there that it does not need.

        BI = mean over things seen in the background of  [y(x) - y(do(remove thing)) < 0.05 |y(x)|]

    Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023. A map of a model with a low one may rightly lie there.

    Args:
        effects: what `part_effects` said of all parts.
        background: names of the things among them that the class does not depend on.
    """
    for name in background:
        if name not in effects.parts:
            raise not_found("part", name, effects.parts)
    rows = [effects.parts.index(name) for name in background]
    spared, seen = not_needed(effects)[:, rows], effects.effect[:, rows].isfinite()
    share = spared.sum(1).double() / seen.sum(1)
    return check("background_independence", share, {"few_parts": ~seen.any(1)})


def one_threshold(
    game: PartGame, mass: Float[Tensor, "n p"], beside: Float[Tensor, "n q"], spare: Bool[Tensor, "n q"], share: float
) -> dict[str, PerImage]:
    """The checks for one share of the largest part.

    Args:
        beside: what the map holds on things that are no parts of the game, and `spare` those that do not matter.
    """
    least = share * mass.amax(1, keepdim=True)
    marked = game.seen & (mass >= least) & (mass > 0)
    rows, hidden = torch.arange(len(game)), ~game.seen  # parts that cannot be seen are left as they are
    beside_marked = (beside >= least) & (beside > 0)
    idle, spared = torch.cat([game.idle, spare], 1), ~torch.cat([marked, beside_marked], 1)
    return {
        "preservation": game.kept[rows, game.choice(marked | hidden)].to(mass),
        "deletion": (~game.kept[rows, game.choice(~marked)]).to(mass),
        "sufficient": covered(game, marked | hidden),
        "distractibility": (idle & spared).sum(1).to(mass) / idle.sum(1),
    }


def covered(game: PartGame, marked: Bool[Tensor, "n p"]) -> PerImage:
    """The largest share of a smallest sufficient set that is marked; 1 if no part is needed, 0 if all are too few."""
    count = len(game.parts)
    there = (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).to(marked.device, torch.float64)
    share = torch.where(there.sum(1) > 0, marked.double() @ there.T / there.sum(1), 1.0)
    return torch.where(game.smallest, share, 0.0).amax(1)


def check(
    name: str,
    value: PerImage,
    causes: Mapping[str, Bool[Tensor, " n"]],
    stderr: PerImage | None = None,
    chance: float | None = None,
) -> Score:
    """One check as a score."""
    error = torch.zeros_like(value) if stderr is None else stderr
    return score_of(name, Result(value, error, reasons(causes)), chance, "up", {})
