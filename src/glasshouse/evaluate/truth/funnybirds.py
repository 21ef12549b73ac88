"""The FunnyBirds protocol on any game of parts: is an explanation complete, correct and contrastive?"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import Maps, PerImage, Score
from glasshouse.evaluate.agreement import spearman_over
from glasshouse.evaluate.faithfulness.players import part_mass
from glasshouse.evaluate.localisation.masks import reasons
from glasshouse.evaluate.metric import Result, score_of
from glasshouse.evaluate.truth.games import PartGame
from glasshouse.evaluate.truth.tracks import broken, flat

THRESHOLDS = (0.05, 0.1, 0.2, 0.3)
"""Shares of the largest part from which a part counts as marked; scores are means over them."""

CHECKS: Mapping[str, str] = {
    "preservation": "the marked parts alone keep the answer",
    "deletion": "without the marked parts the answer is lost",
    "sufficient": "share of a smallest sufficient set of parts that is marked",
    "distractibility": "share of the parts that never matter that is not marked",
    "single_deletion": "(rho + 1) / 2 of the parts' shares and their effects",
    "target_sensitivity": "(rho + 1) / 2 of the difference between two classes' maps and effects",
    "completeness": "mean of distractibility and the mean of the first three",
    "correctness": "single deletion",
    "contrastivity": "target sensitivity",
}


def protocol(game: PartGame, maps: Maps, contrast: Score | None = None, seed: int = 0) -> dict[str, Score]:
    """The scores of FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV 2023) for one method's maps. All are up, in 0…1.

    A part is marked if the map's sum over it is at least a share of the largest part's. Because every choice of parts
    was drawn, preservation and deletion are looked up, and the smallest sufficient sets are those of the model rather
    than of the data.
    Differs: shares of the largest part, averaged over `THRESHOLDS`, where the paper tunes a threshold per method; parts
    that never matter are those of `PartGame.idle`; the background is no part.

    Args:
        contrast: the track of that name; without it there is no target sensitivity.
    """
    mass = torch.where(game.seen, part_mass(maps, game.masks).to(game.worth), 0.0)
    checks = [one_threshold(game, mass, share) for share in THRESHOLDS]
    found = {name: torch.stack([check[name] for check in checks]).mean(0) for name in checks[0]}
    rho, _ = spearman_over(mass, game.effect, game.seen, seed)
    found["single_deletion"] = (rho.to(mass) + 1) / 2
    found["correctness"] = found["single_deletion"]
    three = torch.stack([found[name] for name in ("sufficient", "preservation", "deletion")]).mean(0)
    both = torch.stack([three, found["distractibility"]])
    found["completeness"] = torch.where(both[1].isnan(), three, both.mean(0))
    if contrast is not None:
        found["target_sensitivity"] = (contrast.value[: len(game)].to(mass) + 1) / 2
        found["contrastivity"] = found["target_sensitivity"]
    causes = broken(maps) | {"constant_map": flat(maps)}
    return {name: check_score(name, value, causes) for name, value in found.items()}


def one_threshold(game: PartGame, mass: Float[Tensor, "n p"], share: float) -> dict[str, PerImage]:
    """The checks for one share of the largest part."""
    largest = mass.amax(1, keepdim=True)
    marked = game.seen & (mass >= share * largest) & (largest > 0)
    rows = torch.arange(len(game))
    hidden = ~game.seen  # parts that cannot be seen are left as they are
    preserved = game.kept[rows, game.choice(marked | hidden)]
    lost = ~game.kept[rows, game.choice(~marked)]
    spared = (game.idle & ~marked).sum(1) / game.idle.sum(1)
    return {
        "preservation": preserved.to(mass),
        "deletion": lost.to(mass),
        "sufficient": torch.tensor([covered(game, (marked | hidden)[row], row) for row in rows.tolist()]).to(mass),
        "distractibility": spared.to(mass),
    }


def covered(game: PartGame, marked: Bool[Tensor, " p"], image: int) -> float:
    """The largest share of a smallest sufficient set that is marked; 1 where no part is needed."""
    sets = game.sufficient(image)
    return max((sum(bool(marked[p]) for p in each) / len(each) if each else 1.0 for each in sets), default=float("nan"))


def check_score(name: str, value: PerImage, causes: Mapping[str, Bool[Tensor, " n"]]) -> Score:
    """One check as a score. A map that is not finite has none; a constant one only where its ranks matter."""
    bad, unknown = causes["not_finite"], ~value.isfinite()
    reason = reasons({"not_finite": bad, "constant_map": unknown & causes["constant_map"], "not_applicable": unknown})
    chance = 0.5 if name in ("single_deletion", "target_sensitivity", "correctness", "contrastivity") else None
    return score_of(name, Result(value, torch.zeros_like(value), reason), chance, "up", {})
