"""How well maps agree with what parts are worth to the model: one number per scene and question."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import Maps, PerImage, Score
from glasshouse.core.result import Direction
from glasshouse.evaluate.agreement import spearman_over
from glasshouse.evaluate.faithfulness.players import FEWEST_PARTS, part_mass
from glasshouse.evaluate.localisation.masks import areas, reasons
from glasshouse.evaluate.localisation.sorting import areas_of, sorted_with
from glasshouse.evaluate.metric import Result, score_of
from glasshouse.evaluate.truth.effects import Effects
from glasshouse.evaluate.truth.games import ROUNDING, PartGame


@dataclass(frozen=True)
class Track:
    """One question that maps are put.

    Args:
        title: as a column's heading.
        chance: what a map without information gets; None where it is what the constant map gets.
    """

    title: str
    direction: Direction
    chance: float | None = 0.0


TRACKS: Mapping[str, Track] = {
    "importance": Track("importance", "up", None),
    "shapley": Track("Shapley", "up", None),
    "relevant_mass": Track("relevant mass", "up"),
    "relevant_auc": Track("relevant AUC", "up", 0.5),
    "pointing": Track("pointing", "up"),
    "null_mass": Track("null mass", "down"),
    "contrast": Track("class contrast", "up"),
    "steady": Track("moved by background", "down", None),
    "other_class": Track("map of another class", "down", None),
}
"""What `benchmark` asks, in the order of its columns; `protocol` has more."""

STILL = 0.02
"""What the parts are worth counts as unchanged if 1 - cosine of before and after is no more."""


def track(
    name: str,
    value: PerImage,
    causes: Mapping[str, Bool[Tensor, " n"]],
    stderr: PerImage | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> Score:
    """One number per scene as a score; `causes` says where it has none, and why: the first that holds."""
    error, known = torch.zeros_like(value) if stderr is None else stderr, TRACKS[name]
    return score_of(name, Result(value, error, reasons(causes), dict(extras or {})), known.chance, known.direction, {})


def broken(*values: Tensor) -> dict[str, Bool[Tensor, " n"]]:
    """Where some values are not finite."""
    return {"not_finite": ~torch.stack([each.flatten(1).isfinite().all(1) for each in values]).all(0)}


def flat(maps: Maps) -> Bool[Tensor, " n"]:
    """Which maps are the same everywhere."""
    return maps.flatten(1).amax(1) == maps.flatten(1).amin(1)


def levelled(values: Float[Tensor, "n p"], size: Float[Tensor, "n 1"] | None = None) -> Float[Tensor, "n p"]:
    """Values in steps of what rounding can do, so that those which only rounding tells apart are tied.

    Args:
        size: of the numbers that these were made of; None takes the largest of each row.
    """
    values = values.nan_to_num().double()
    step = (ROUNDING * (values.abs().amax(1, keepdim=True) if size is None else size)).clamp(min=1e-300)
    return (values / step).round() * step


def ranked(
    mass: Float[Tensor, "n p"], effect: Float[Tensor, "n p"], seen: Bool[Tensor, "n p"]
) -> tuple[PerImage, PerImage, dict[str, Bool[Tensor, " n"]]]:
    """Rank correlation over the parts that are seen, its error, and why there is none."""
    effect = levelled(effect)
    rho, stderr = spearman_over(levelled(mass), effect, seen)
    return rho, stderr, unranked(effect, seen, rho)


def unranked(effect: Float[Tensor, "n p"], seen: Bool[Tensor, "n p"], rho: PerImage) -> dict[str, Bool[Tensor, " n"]]:
    """Why there is no rank correlation over the parts that are seen."""
    high, low = (torch.where(seen, effect, edge) for edge in (-torch.inf, torch.inf))
    still = high.amax(1) == low.amin(1)
    return {"few_parts": seen.sum(1) < FEWEST_PARTS, "constant_score": still, "constant_sums": ~rho.isfinite()}


def map_tracks(effects: Effects, maps: Maps, game: PartGame | None = None) -> dict[str, Score]:
    """Every track that looks at one map of each scene.

    Args:
        game: of the first scenes, for the tracks that need every choice of parts.
    """
    maps = maps.detach().to(effects.effect)
    relevant, area, bad = effects.relevant.flatten(1), areas(effects.relevant).to(maps), broken(maps)
    uneven = bad | {"empty_mask": ~relevant.any(1), "full_mask": relevant.all(1)}
    positive, seen = maps.clamp(min=0).flatten(1), effects.effect.isfinite()
    total = positive.sum(1)
    rho, stderr, unknown = ranked(part_mass(maps, effects.masks), effects.effect, seen)
    on = (positive * relevant).sum(1) / total
    found = {
        "importance": track("importance", rho, bad | unknown, stderr),
        "relevant_mass": track("relevant_mass", on - area, uneven | {"no_positive": total <= 0}),
        "relevant_auc": track("relevant_auc", auc(maps.flatten(1), relevant), uneven),
        "pointing": track("pointing", hits(maps, relevant) - area, uneven | {"constant_map": flat(maps)}),
    }
    return found if game is None else found | game_tracks(game, maps[: len(game)])


def game_tracks(game: PartGame, maps: Maps) -> dict[str, Score]:
    """The tracks that need to know what parts are worth together.

    - shapley: cosine of the map's sums over parts and their Shapley values.
    - null_mass: the share of absolute values that lies on parts which no choice of the others makes matter, less the
      share of pixels.
    """
    mass, values, bad = part_mass(maps, game.masks), game.shapley.double(), broken(maps)
    mass, values = torch.where(game.seen, mass, 0.0), torch.where(game.seen, values, 0.0)
    alike, _ = cosine(mass, values)
    nothing = (game.masks & game.idle[:, :, None, None]).any(1).flatten(1)
    size = maps.abs().flatten(1)
    share = (size * nothing).sum(1) / size.sum(1) - nothing.float().mean(1)
    no_value = bad | {"constant_score": (values == 0).all(1), "zero_mass": (mass == 0).all(1)}
    no_share = bad | {"no_idle_part": ~nothing.any(1), "zero_mass": size.sum(1) == 0}
    return {"shapley": track("shapley", alike, no_value), "null_mass": track("null_mass", share, no_share)}


def hits(maps: Maps, relevant: Bool[Tensor, "n d"]) -> PerImage:
    """Whether the strongest pixel is relevant: the share of relevant ones among equally strong."""
    flat = maps.flatten(1)
    best = flat == flat.amax(1, keepdim=True)
    return (best & relevant).sum(1).to(maps) / best.sum(1)


def auc(values: Float[Tensor, "n d"], inside: Bool[Tensor, "n d"]) -> PerImage:
    """Area under the ROC curve: the chance that a pixel inside is above one outside, ties counted half."""
    ordered, upto = sorted_with(values, inside)
    area = areas_of(ordered, F.pad(upto, (1, 0)))[:, 0]
    return torch.where(values.isnan().any(1), torch.nan, area).to(values.dtype)


def cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> tuple[PerImage, Bool[Tensor, " n"]]:
    """Of each pair of rows, and where one of them is 0 throughout."""
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(1) / lengths, lengths == 0


def other_class(values: Tensor, others: Tensor) -> Score:
    """Cosine of a method's own values with those for another class."""
    alike, nothing = cosine(*(side.detach().flatten(1).double() for side in (values, others)))
    return track("other_class", alike, broken(values, others) | {"zero_mass": nothing})


def contrast(first: Effects, second: Effects, maps: Maps, others: Maps) -> Score:
    """Whether the difference of the maps for two classes follows the difference of the parts' effects on them.

    Spearman correlation over parts. 0 is what a method gets that ignores the class.
    """
    seen = first.effect.isfinite() & second.effect.isfinite()
    gap = difference(first.effect.nan_to_num(), second.effect.nan_to_num())
    mass = difference(part_mass(maps, first.masks), part_mass(others, first.masks))
    rho, stderr = spearman_over(mass, gap, seen)
    causes = broken(maps, others) | unranked(gap, seen, rho)
    blind = ((mass == 0) | ~seen).all(1)
    causes["constant_sums"] &= ~blind
    return track("contrast", torch.where(blind, 0.0, rho), causes, torch.where(blind, 0.0, stderr))


def difference(first: Float[Tensor, "n p"], second: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """What is more in the first; what only rounding makes differ is equal."""
    return levelled(first - second, torch.maximum(first.abs(), second.abs()).amax(1, keepdim=True))


def steady(effects: Effects, maps: Maps, moved: Maps, after: Effects | None = None) -> Score:
    """How much the map's shares of the parts change with a background that does not matter: 0 is not at all.

        1 - cosine of the sums over parts before and after

    Over the parts that are seen both times. `extras["truth"]` is the same of the effects, which is what the oracle
    gets; where that is above `STILL` the background did matter, and the scene has no value.

    Args:
        moved: maps of the same classes in the scenes with the other background.
        after: what `effects_elsewhere` says of those; None takes parts to be where they were, and worth what they were.
    """
    after = effects if after is None else after
    seen = effects.effect.isfinite() & after.effect.isfinite()
    alike, nothing = cosine(
        *(torch.where(seen, part_mass(m, e.masks), 0.0) for m, e in ((maps, effects), (moved, after)))
    )
    same, idle = cosine(*(torch.where(seen, e.effect.double(), 0.0) for e in (effects, after)))
    truth = torch.where(idle, 0.0, 1 - same).clamp(min=0)
    causes = broken(maps, moved) | {"effects_moved": truth > STILL, "zero_mass": nothing}
    return track("steady", 1 - alike, causes, extras={"truth": truth})
