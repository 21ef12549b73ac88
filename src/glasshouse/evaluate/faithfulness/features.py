"""Features in plans: what a map holds on each, questions without one or a random set of them, and correlations."""

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from glasshouse.core import BadInput, Explanation, PerImage, generator
from glasshouse.evaluate.agreement import correlation, mean_ranks
from glasshouse.evaluate.baselines import Baseline, Donors
from glasshouse.evaluate.metric import flaws
from glasshouse.evaluate.questions import (
    Cells,
    Elements,
    Features,
    Order,
    Question,
    Ranked,
    Segments,
    fingerprint,
    keeping,
    total_of,
)

FEWEST = 16
"""Sets, or features, below which a correlation says nothing."""

Replacement = Literal["noise", "permute"]

MOST_AS_BYTES = 4096
"""Features up to which "all but one" is written down as a byte for each: d² bytes for d questions."""


def values_on(explanation: Explanation, features: Features | None) -> Float[Tensor, "n ..."]:
    """What is summed over features (pixels for None): the native values for single elements, else the heat map."""
    if isinstance(features, Segments) and features.labels.shape != explanation.heatmap.shape:
        labels, maps = tuple(features.labels.shape), tuple(explanation.heatmap.shape)
        raise BadInput(f"segments {labels} are not of these maps {maps}.", "Give one label map for each image.")
    return explanation.native if isinstance(features, Elements) else explanation.heatmap


def counts_of(features: Features, n: int) -> list[int]:
    """How many features each of `n` images has."""
    return features.counts.tolist() if isinstance(features, Segments) else [total_of(features)] * n


def faults_of(values: Float[Tensor, "n ..."]) -> tuple[str, ...]:
    """`flaws` of values of any shape."""
    return flaws(values.flatten(1)[:, None])


def why_unknown(faults: Sequence[str], value: PerImage, still: Bool[Tensor, " n"]) -> tuple[str, ...]:
    """One word for each correlation that is not defined; `still` where the score never moved."""
    known = value.isfinite().tolist()
    return tuple(
        fault or ("" if fine else "constant_score" if fixed else "constant_sums")
        for fault, fine, fixed in zip(faults, known, still.tolist(), strict=True)
    )


def too_few(counts: Sequence[int]) -> list[str]:
    """A word for each image that has too few features for a correlation over them."""
    return ["few_features" if count < FEWEST else "" for count in counts]


def luck(value: PerImage, counts: Sequence[int]) -> PerImage:
    """How far the correlation of a random map strays on so many features: (1 - r²) / sqrt(d - 1)."""
    return (1 - value.square()) / (torch.tensor(counts).to(value) - 1).clamp(min=1).sqrt()


def correlated(
    first: Float[Tensor, "n g"], second: Float[Tensor, "n g"], counts: Sequence[int], by_rank: bool, seed: int
) -> tuple[PerImage, PerImage]:
    """Correlation over each image's own features, with its bootstrap standard error."""
    value, stderr = torch.full_like(second[:, 0], torch.nan), torch.zeros_like(second[:, 0])
    for count in set(counts):
        rows = [image for image, own in enumerate(counts) if own == count]
        x, y = first[rows, :count].to(second), second[rows, :count]
        pair = (mean_ranks(x), mean_ranks(y)) if by_rank else (x, y)
        value[rows], stderr[rows] = correlation(*pair, seed)
    return value, stderr


def steady(values: Float[Tensor, "n g"], counts: Sequence[int]) -> Bool[Tensor, " n"]:
    """Whether all of an image's own features have the same value."""
    own = torch.arange(values.shape[1]) < torch.tensor(counts)[:, None]
    return ((values == values[:, :1]) | ~own.to(values.device)).all(1)


def without_each(features: Features, n: int, baseline: Baseline) -> list[Question]:
    """For each feature, the question about the images without it alone."""
    total = total_of(features)
    if total <= MOST_AS_BYTES:
        kept = (1 - torch.eye(total, dtype=torch.uint8)).numpy()
        return [keeping(Cells(features, bytes(row)), baseline) for row in kept]
    places = torch.arange(total, dtype=torch.int32).repeat(2)  # each order is a view of it: feature i comes first
    turned = [places[total - i : 2 * total - i].expand(n, total) for i in range(total)]
    return [keeping(Ranked(Order(features, each, f"first:{i}"), 1, total), baseline) for i, each in enumerate(turned)]


class Sets(NamedTuple):
    """Random sets of features: the questions without each, and the map's sum over each."""

    questions: tuple[Question, ...]
    sums: Float[Tensor, "n r"]


def random_sets(
    mass: Float[Tensor, "n g"],
    features: Features,
    sizes: Sequence[int],
    n_samples: int,
    baseline: Baseline,
    draws: torch.Generator,
) -> Sets:
    """Sets of `sizes[n]` features of image n; the same sets for all images where these have the same features.

    Args:
        mass: the map's sum over each feature.
    """
    if not isinstance(features, Segments):
        gone = distinct_sets(mass.shape[1], sizes[0], n_samples, draws)
        questions = tuple(keeping(Cells(features, bytes(row)), baseline) for row in (1 - gone).numpy())
        return Sets(questions, mass @ gone.double().T.to(mass.device))
    own = own_sets(features.counts.tolist(), sizes, n_samples, draws)
    orders = [Order(features, (~gone).int(), fingerprint(gone)) for gone in own]  # rank 0 goes, rank 1 stays
    questions = tuple(keeping(Ranked(order, 1, 2), baseline) for order in orders)
    return Sets(questions, (own.to(mass) * mass).sum(2).T.contiguous())


def number_of_sets(total: int, size: int, n_samples: int) -> int:
    """How many different sets are drawn: no more than there are."""
    return min(n_samples, comb(total, size))


def distinct_sets(total: int, size: int, n_samples: int, draws: torch.Generator) -> UInt8[Tensor, "r g"]:
    """Different sets of `size` out of `total`: `n_samples` at random, or all where there are no more."""
    count = comb(total, size)
    if count <= n_samples:
        rows = torch.zeros(count, total, dtype=torch.uint8)
        return rows.scatter_(1, torch.tensor(list(combinations(range(total), size))), 1)
    found = dict[bytes, Tensor]()
    while len(found) < n_samples:
        row = torch.zeros(total, dtype=torch.uint8)
        row[torch.randperm(total, generator=draws)[:size]] = 1
        found[bytes(row.numpy())] = row
    return torch.stack(list(found.values()))


def own_sets(
    counts: Sequence[int], sizes: Sequence[int], n_samples: int, draws: torch.Generator
) -> Bool[Tensor, "r n g"]:
    """Sets among each image's own features. An image gets the same ones whatever the others have."""
    keys = torch.rand(max(counts), n_samples, generator=draws)  # the first rows do not depend on how many follow
    gone = torch.zeros(n_samples, len(counts), max(counts), dtype=torch.bool)
    for image, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        gone[:, image, :count] = (keys[:count].argsort(0).argsort(0) < size).T
    return gone


def seeds(count: int, seed: int) -> list[int]:
    """Seeds of parts that draw by themselves; the first ones do not depend on how many follow."""
    return torch.randint(2**31, (count,), generator=generator(seed)).tolist()


class Drawn(NamedTuple):
    """Images that features are taken from, and where those come from."""

    images: list[Baseline]
    source: str
    seed: int

    def settings(self, features: Features) -> dict[str, Any]:
        return {"n_samples": len(self.images), "replace_by": self.source, "grid": features, "seed": self.seed}


def replacements(replace_by: Replacement, donors: Tensor | None, n_samples: int, seed: int) -> Drawn:
    """Draws of what takes the place of a feature: noise, the image's own pixels, or different ones of the donors."""
    if n_samples < 1 or replace_by not in get_args(Replacement):
        raise BadInput(f"{n_samples} draws of '{replace_by}'.", "Draw 'noise' or 'permute' at least once.")
    if donors is None:
        return Drawn([f"{replace_by}:{part}" for part in seeds(n_samples, seed)], replace_by, seed)
    fills = Donors.of(donors).fills
    picked = torch.randperm(len(fills), generator=generator(seed))[:n_samples].tolist()
    return Drawn([fills[index] for index in picked], "donors", seed)
