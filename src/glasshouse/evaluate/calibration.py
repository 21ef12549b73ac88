"""How scores compare with those of maps that know nothing of a model: percentiles measured on reference models."""

import json
import math
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias

import torch

from glasshouse.core import Card, Score

Light: TypeAlias = Literal["good", "fair", "poor", "unknown"]

GOOD, FAIR = 0.95, 0.5
"""Shares of the maps that know nothing, of each kind, that a map must be ahead of."""

CALIBRATED = ("srg", "mu_fidelity")


def standing(score: Score) -> torch.Tensor:
    """The number whose percentiles are kept: a gain in units of what luck alone gives on this image; else the value."""
    if score.metric == "srg":
        return (score.value - (score.chance or 0.0)) / score.stderr.clamp(min=1e-6)
    return score.value


@cache
def reference() -> dict[str, dict[str, list[float]]]:
    """By metric, by kind of map, the quantiles of `standing` at 0, 5, …, 100 %. Made by scripts/calibrate.py."""
    return json.loads(files("glasshouse.evaluate").joinpath("calibration.json").read_text(encoding="utf-8"))[
        "quantiles"
    ]


def ahead_of(score: Score) -> tuple[float, ...]:
    """For each image, the share of maps that know nothing whose score is lower: the least over centre, edges and noise.

    Of Gaussians in the centre, maps of the image's edges and random maps, scored on reference models and images;
    not-a-number where the score is undefined or the metric was not calibrated.
    """
    kinds = reference().get(score.metric)
    if kinds is None:
        return (math.nan,) * len(score.value)
    shares = [share_below(quantiles, standing(score)) for quantiles in kinds.values()]
    return tuple(torch.stack(shares).amin(0).tolist())


def share_below(quantiles: list[float], values: torch.Tensor) -> torch.Tensor:
    """The share of a distribution that lies below each value, linear between its quantiles."""
    ends = torch.tensor(quantiles, dtype=torch.float64)
    place = torch.searchsorted(ends, values.double().contiguous()).clamp(1, len(ends) - 1)
    low, high = ends[place - 1], ends[place]
    within = ((values.double() - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    share = (place - 1 + within) / (len(ends) - 1)
    return torch.where(values.isnan(), torch.nan, share)


def lights(card: Card) -> dict[str, tuple[Light, ...]]:
    """A light for each calibrated score of a card and each image: by percentile, not by a threshold set by hand.

    "good" is ahead of 95 % of the maps that know nothing, of each kind; "fair" of half; "poor" of fewer.
    """
    found = dict[str, tuple[Light, ...]]()
    for name in CALIBRATED:
        if name in card.scores:
            found[name] = tuple(light(share) for share in ahead_of(card.scores[name]))
    return found


def light(share: float) -> Light:
    """The word for a share."""
    return "unknown" if math.isnan(share) else "good" if share >= GOOD else "fair" if share >= FAIR else "poor"
