"""How well maps agree with what parts are worth to the model: one number per scene and question."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import Maps, PerImage, Score
from glasshouse.core.result import Direction
from glasshouse.evaluate.agreement import spearman_over
from glasshouse.evaluate.faithfulness.players import part_mass
from glasshouse.evaluate.truth.effects import Effects
from glasshouse.evaluate.truth.games import PartGame


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


def track(name: str, value: PerImage, stderr: PerImage | None = None, why: str = "constant_map") -> Score:
    """One number per scene as a score; `why` says what is wrong where there is none."""
    about = TRACKS[name]
    reason = tuple("" if known else why for known in value.isfinite().tolist())
    error = torch.zeros_like(value) if stderr is None else torch.where(value.isfinite(), stderr, torch.nan)
    value = torch.where(value.isfinite(), value, torch.nan)
    return Score(name, value.float(), error.float(), about.chance, about.direction, reason)


def map_tracks(effects: Effects, maps: Maps, game: PartGame | None = None, seed: int = 0) -> dict[str, Score]:
    """Every track that looks at one map of each scene.

    Args:
        game: of the first scenes, for the tracks that need every choice of parts.
    """
    maps = maps.detach().to(effects.effect)
    relevant = effects.relevant.flatten(1)
    area = relevant.double().mean(1).to(maps)
    positive = maps.clamp(min=0).flatten(1)
    on = (positive * relevant).sum(1) / positive.sum(1)
    flat = maps.flatten(1).amax(1) == maps.flatten(1).amin(1)
    value, stderr = spearman_over(
        part_mass(maps, effects.masks).to(maps), effects.effect, effects.effect.isfinite(), seed
    )
    found = {
        "importance": track("importance", value, stderr),
        "relevant_mass": track("relevant_mass", on - area),
        "relevant_auc": track("relevant_auc", auc(maps.flatten(1), relevant)),
        "pointing": track("pointing", torch.where(flat, torch.nan, hits(maps, relevant) - area)),
    }
    return found if game is None else found | game_tracks(game, maps[: len(game)])


def game_tracks(game: PartGame, maps: Maps) -> dict[str, Score]:
    """The tracks that need to know what parts are worth together.

    - shapley: cosine of the map's sums over parts and their Shapley values.
    - null_mass: the share of absolute values that lies on parts which no choice of the others makes matter, less the
      share of pixels.
    """
    mass, values = part_mass(maps, game.masks), game.shapley.double()
    mass, values = torch.where(game.seen, mass, 0.0), torch.where(game.seen, values, 0.0)
    alike = (mass * values).sum(1) / (mass.norm(dim=1) * values.norm(dim=1))
    nothing = (game.masks & game.idle[:, :, None, None]).any(1).flatten(1)
    size = maps.abs().flatten(1)
    share = (size * nothing).sum(1) / size.sum(1) - nothing.float().mean(1)
    share = torch.where(nothing.any(1), share, torch.nan)
    return {
        "shapley": track("shapley", alike, why="zero_mass"),
        "null_mass": track("null_mass", share, why="no_idle_part"),
    }


def hits(maps: Maps, relevant: Bool[Tensor, "n d"]) -> PerImage:
    """Whether the strongest pixel is relevant: the share of relevant ones among equally strong."""
    flat = maps.flatten(1)
    best = flat == flat.amax(1, keepdim=True)
    return (best & relevant).sum(1).to(maps) / best.sum(1)


def auc(values: Float[Tensor, "n d"], inside: Bool[Tensor, "n d"]) -> PerImage:
    """Area under the ROC curve: the chance that a pixel inside is above one outside, ties counted half."""
    ordered, order = values.double().sort(1)
    places = torch.arange(1, values.shape[1] + 1, dtype=torch.float64, device=values.device).expand_as(ordered)
    last = torch.searchsorted(ordered, ordered.contiguous(), right=True)
    first = torch.searchsorted(ordered, ordered.contiguous())
    middle = torch.where(last - first > 1, (first + last + 1) / 2, places)
    among = inside.gather(1, order)
    n_in, n_out = inside.sum(1).double(), (~inside).sum(1).double()
    total = (middle * among).sum(1) - n_in * (n_in + 1) / 2
    return (total / (n_in * n_out)).to(values.dtype)


def other_class(values: Tensor, others: Tensor) -> Score:
    """Cosine of a method's own values with those for another class."""
    a, b = (side.detach().flatten(1).double() for side in (values, others))
    return track("other_class", (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))


def contrast(first: Effects, second: Effects, maps: Maps, others: Maps, seed: int = 0) -> Score:
    """Whether the difference of the maps for two classes follows the difference of the parts' effects on them.

    Spearman correlation over parts. 0 is what a method gets that ignores the class.
    """
    seen = first.effect.isfinite()
    gap = (first.effect - second.effect).nan_to_num()
    mass = part_mass(maps, first.masks) - part_mass(others, first.masks)
    value, stderr = spearman_over(mass.to(gap), gap, seen, seed)
    blind = ((mass == 0) | ~seen).all(1)
    return track("contrast", torch.where(blind, 0.0, value), torch.where(blind, 0.0, stderr), "few_parts")


def steady(effects: Effects, maps: Maps, moved: Maps) -> Score:
    """How much the map's shares of the parts change with a background that does not matter: 0 is not at all.

    1 - cosine of the sums over parts before and after.
    """
    seen = effects.effect.isfinite()
    a, b = (torch.where(seen, part_mass(each, effects.masks), 0.0) for each in (maps, moved))
    return track("steady", 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)), why="zero_mass")
