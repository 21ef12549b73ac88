"""Parts as players: does what a map puts on each part follow what the part is worth to the model?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Maps, Model, Reading, Score, Target, registered
from glasshouse.evaluate.agreement import spearman_over
from glasshouse.evaluate.baselines import Baseline
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.metric import Metric, Result, answer, flaws
from glasshouse.evaluate.questions import CLEAN, Asked, Cells, Changed, Segments, fingerprint, keeping

MOST_PLAYERS = 10
FEWEST_PARTS = 3


def part_mass(maps: Maps, parts: Bool[Tensor, "n p h w"]) -> Float[Tensor, "n p"]:
    """What a map holds on each part; parts may overlap."""
    return torch.einsum("nhw,nphw->np", maps.double(), parts.to(maps.device).double())


class Pieces(NamedTuple):
    """The images cut up along the borders of all parts, which may overlap, and which pieces each part is made of."""

    features: Segments
    made_of: Bool[Tensor, "p g"]

    @staticmethod
    def of(parts: Bool[Tensor, "n p h w"]) -> "Pieces":
        labels = torch.zeros_like(parts[:, 0], dtype=torch.int64)
        for part in parts.unbind(1):
            labels = (2 * labels + part).unique(return_inverse=True)[1]
        made_of = torch.zeros(parts.shape[1], int(labels.max()) + 1, dtype=torch.bool)
        for row, part in zip(made_of, parts.unbind(1), strict=True):
            row[labels[part].cpu()] = True
        return Pieces(Segments(labels, fingerprint(labels)), made_of)

    def without(self, gone: Sequence[int], baseline: Baseline) -> Asked:
        """The question that shows the images without some parts; pixels of no part stay."""
        stay = ~self.made_of[list(gone)].any(0)
        return keeping(Cells(self.features, bytes(stay.byte().numpy())), baseline)


def rendered(images: Float[Tensor, "n c h w"]) -> Asked:
    """The question that shows other images in the place of the given ones."""

    def change(shown: Images, image: Int[Tensor, " m"]) -> Images:
        return images.to(shown)[image]

    return Changed(("rendered", fingerprint(images)), change)


def belonging(parts: Tensor, explanation: Explanation) -> None:
    """Raise unless these are masks of parts of the images that were explained."""
    if parts.shape[0] != len(explanation) or parts.shape[2:] != explanation.heatmap.shape[1:]:
        raise BadInput(
            f"masks of parts {tuple(parts.shape)} are not of maps {tuple(explanation.heatmap.shape)}.",
            "Pass parts as n p h w, for the images that were explained.",
        )


def deletion_cost(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    parts = settings.get("parts")
    return Cost(parts.shape[1] + 1) if isinstance(parts, Tensor) else None


@registered("evaluate", cost=deletion_cost, paper="Hesse et al., ICCV 2023")
def part_single_deletion(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    parts: Bool[Tensor, "n p h w"],
    *,
    removed: Float[Tensor, "n p c h w"] | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """Whether the map puts more on the parts whose removal lowers the score more: 1 is the same order, 0.5 chance.

        (rho + 1) / 2,   rho = Spearman correlation over parts of   sum of a on the part   and   f(x) - f(x without it)

    "Single deletion" of Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023. The standard error is how far random
    maps stray on p parts, 1 / (2 sqrt(p - 1)): on so few even the right order may be luck. Parts that matter only
    together, or that stand in for each other, have no single effect: compare `shapley_gap`.

    Args:
        parts: where each part is seen; parts without a pixel take no part.
        removed: the images without each part, drawn again: nothing else changes, and nothing is off the data. None
            fills the part with `baseline`, for a model that was trained on parts dropped like that.
    """
    belonging(parts, explanation)
    pieces, places = Pieces.of(parts), range(parts.shape[1])
    asked = [pieces.without([p], baseline) if removed is None else rendered(removed[:, p]) for p in places]
    mass, faults = part_mass(explanation.heatmap, parts), flaws(explanation.heatmap)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drop, weight = table[:, :1] - table[:, 1:], mass.to(table)
        seen = parts.flatten(2).any(2).to(drop.device)
        rho, stderr = spearman_over(weight, drop, seen)
        few, still = seen.sum(1) < FEWEST_PARTS, (torch.where(seen, drop, drop[:, :1]) == drop[:, :1]).all(1)
        why = [
            fault or ("" if known else "few_parts" if short else "constant_score" if same else "constant_sums")
            for fault, known, short, same in zip(
                faults, *(x.tolist() for x in (rho.isfinite(), few, still)), strict=True
            )
        ]
        return Result((rho + 1) / 2, stderr / 2, tuple(why), {"mass": weight, "drops": drop})

    settings = {"baseline": "rendered" if removed is not None else baseline}
    metric = Metric("part_single_deletion", (CLEAN, *asked), score, reduce, 0.5, "up", settings)
    return answer(metric, model, inputs, explanation, target, answers)


def game_cost(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    parts = settings.get("parts")
    return Cost(2 ** parts.shape[1]) if isinstance(parts, Tensor) else None


def shapley_values(worth: Float[Tensor, "n s"]) -> Float[Tensor, "n p"]:
    """Shapley value of each player from the worth of all 2^p sets; bit i of a set's number says that i is in it.

        phi_i = sum over sets S without i of   |S|! (p - |S| - 1)! / p!   (v(S and i) - v(S))

    Shapley, "A value for n-person games", 1953.
    """
    count = worth.shape[1].bit_length() - 1
    assert worth.shape[1] == 2**count
    sets = torch.arange(2**count)
    size = sum((sets >> bit & 1 for bit in range(count)), torch.zeros_like(sets))
    chance = torch.tensor([1 / (count * math.comb(count - 1, s)) for s in range(count)], dtype=torch.float64)
    values = list[Tensor]()
    for player in range(count):
        rest = sets[(sets >> player & 1) == 0]
        gain = worth[:, rest | 1 << player] - worth[:, rest]
        values.append(gain.double() @ chance[size[rest]].to(gain.device))
    return torch.stack(values, 1)


@registered("evaluate", cost=game_cost, paper="Shapley, 1953")
def shapley_gap(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    parts: Bool[Tensor, "n p h w"],
    *,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """How far the map's sums over parts are from the parts' Shapley values: 0 is the same, 1 unrelated, 2 opposite.

        1 - cosine of   (sum of a on each part)   and   (Shapley value of each part)

    Exact, from all 2^p sets of at most 10 parts. The game is f with the parts outside a set replaced by `baseline`;
    pixels of no part stay. Single deletion sees nothing where either of two parts is enough; Shapley values do.
    1 is what random maps of either sign score. Values of one sign are nearer to any others of that sign: a map without
    negative values has to beat `extras["even"]`, the gap of a map that is the same everywhere.

    Args:
        parts: where each part is seen.
    """
    belonging(parts, explanation)
    count = parts.shape[1]
    if not 1 <= count <= MOST_PLAYERS:
        raise BadInput(f"{count} parts make {2**count} sets.", f"Join some, to at most {MOST_PLAYERS}.")
    pieces = Pieces.of(parts)
    gone = [[part for part in range(count) if not number >> part & 1] for number in range(2**count)]
    asked = [pieces.without(each, baseline) for each in gone]
    mass, faults = part_mass(explanation.heatmap, parts), flaws(explanation.heatmap)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        values, weight, area = shapley_values(table), mass.to(table), parts.flatten(2).sum(2).to(table)
        size = values.norm(dim=1) * weight.norm(dim=1)
        gap, even = 1 - (values * weight).sum(1) / size, 1 - torch.cosine_similarity(values, area, dim=1)
        reason = tuple(
            fault or ("" if some else "constant_score" if still else "zero_mass")
            for fault, some, still in zip(faults, (size > 0).tolist(), (values == 0).all(1).tolist(), strict=True)
        )
        return Result(gap, torch.zeros_like(gap), reason, {"shapley": values, "mass": weight, "even": even})

    settings = {"baseline": baseline, "n_parts": count}
    metric = Metric("shapley_gap", tuple(asked), score, reduce, 1.0, "down", settings)
    return answer(metric, model, inputs, explanation, target, answers)
