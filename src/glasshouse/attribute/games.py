"""Shapley values: the score shared among the regions of the image, as a game's gain among its players."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.answers import Classes, ask
from glasshouse.attribute.baselines import Baselines
from glasshouse.attribute.coalitions import Coalitions, game_of, play
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, generator, method
from glasshouse.core.superpixels import Kind, grid_of, label_maps

SPARE = 4  # coalitions left to draw; fewer say nothing about their own error


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of Kernel SHAP: the image, the image with nothing shown, and the coalitions.

    Superpixels are counted as asked for; where all coalitions of fewer regions fit, passes are fewer too.
    """
    given = settings["feature_mask"]
    if isinstance(given, Tensor):
        players = len(given.unique())
    else:
        rows, cols = grid_of(settings["n_regions"], (shape[-2], shape[-1]))
        players = rows * cols
    return Cost(2 + count_coalitions(players, settings["n_samples"]))


def count_coalitions(players: int, n_samples: int) -> int:
    """All of them if `n_samples` are enough for that, else `n_samples`, as pairs."""
    return min(2**players - 2, n_samples // 2 * 2)


@method(
    cost=passes,
    claims=("implementation", "silent", "linear"),
    paper="Lundberg & Lee, NeurIPS 2017",
    example={"n_samples": 40, "n_regions": 9, "chunk": 8},
)
def kernel_shap(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    n_samples: int = 2048,
    feature_mask: Kind | Int[Tensor, "..."] = "slic",
    n_regions: int = 50,
    baselines: Baselines | None = 0.0,
    classes: Classes = None,
    score: Reading = "prob",
    seed: int = 0,
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """A region's fair share of the score: what it adds on average, over all orders in which regions may appear.

        φ_i = Σ_S |S|! (M - |S| - 1)! / M! · (y(S ∪ i) - y(S))      over the sets S of shown regions without i

    The shares of the M regions sum to y(image) - y(nothing shown). They are found as the weighted least squares

        min over φ of Σ_S π(S) (y(S) - y(∅) - Σ_{i in S} φ_i)²  given that sum,
        π(S) = (M - 1) / (C(M, |S|) |S| (M - |S|))

    Lundberg and Lee, "A unified approach to interpreting model predictions", NeurIPS 2017, theorem 2. With
    `n_samples` of 2^M - 2 or more the values are exact. With fewer, the sizes |S| that weigh most are taken in full,
    from the outside in, and the others are drawn in pairs of a set and its complement (Covert and Lee, "Improving
    KernelSHAP", AISTATS 2021). Every pixel carries the φ of its region.

    `extras` holds the `regions`, `empty` (the score with nothing shown), and `stderr`, the standard error of φ by the
    jackknife over pairs; 0 where the values are exact.

    Args:
        n_samples: sets that are shown to the network at most; an even number.
        feature_mask: "slic" or "grid" for about `n_regions` regions, or a label map of whole numbers, `h w` or `n h w`.
        baselines: what hides a region, in input space (0 is the data set's mean colour); None takes the region's mean.
        classes: further classes, or "all", from the same samples: `extras["classes"]`, `n k h w`.
        seed: decides which sets are drawn, whatever other images are in the batch.
        chunk: images per forward pass; any number gives the same result.
    """
    if chunk < 1:
        raise BadInput(f"chunk {chunk} is not above 0.")
    aim = Aim.of(target)
    with torch.no_grad():
        clean = ask(model, inputs, aim, score, classes).cpu().double()
        game = game_of(inputs, label_maps(inputs, feature_mask, n_regions), baselines)
        samples = [sample(players, n_samples, seed) for players in game.players]
        rows = [torch.cat([torch.zeros_like(drawn.shown[:1]), drawn.shown]) for drawn in samples]
        answers = play(model, game, rows, aim, score, classes, chunk)
    shares, errors = list[Tensor](), list[Tensor]()
    for drawn, answer, own in zip(samples, answers, clean, strict=True):
        values, error = shapley(drawn, answer[1:] - answer[0], own - answer[0])
        shares.append(values)
        errors.append(error[:, None])
    maps = game.paint(shares)
    empty = torch.stack([answer[0, 0] for answer in answers]).to(maps)
    extras = {"regions": game.labels, "empty": empty, "stderr": game.paint(errors)[:, 0]}
    return maps[:, :1], extras if classes is None else {**extras, "classes": maps[:, 1:]}


class Sample(NamedTuple):
    """Coalitions and their weights. The last `n_pairs` × 2 were drawn: first sets, then their complements."""

    shown: Coalitions
    weight: Float[Tensor, " s"]
    n_pairs: int


def sample(players: int, n_samples: int, seed: int) -> Sample:
    """Coalitions for the least squares: whole sizes while their weight asks for more sets than there are."""
    everything, left = 2**players - 2, n_samples // 2 * 2
    if left < min(everything, 2 * players + SPARE):
        raise BadInput(
            f"n_samples {n_samples} is too few for {players} regions.", f"Use {2 * players + SPARE} or more."
        )
    kernel = [(players - 1) / (s * (players - s)) for s in range(1, players)]
    by_size = torch.tensor([0.0, *kernel], dtype=torch.float64)
    shown, weight = [torch.zeros(0, players, dtype=torch.bool)], [torch.zeros(0).double()]
    for size in range(1, players // 2 + 1):
        both = {size, players - size}
        count, due = sum(comb(players, s) for s in both), float(by_size[list(both)].sum() / by_size.sum())
        if left < everything and ((size > 1 and due * left < count) or left - count < SPARE):
            break
        for s in sorted(both):
            shown.append(sets_of(s, players))
            weight.append((by_size[s] / comb(players, s)).expand(len(shown[-1])))
        by_size[list(both)] = 0
        everything, left = everything - count, left - count
    n_pairs = left // 2 if everything else 0
    if n_pairs:
        source = generator(seed)
        sizes = torch.multinomial(by_size, n_pairs, replacement=True, generator=source)
        order = torch.rand(n_pairs, players, generator=source).argsort(1).argsort(1)
        drawn = order < sizes[:, None]
        shown += [drawn, ~drawn]
        weight.append((by_size.sum() / (2 * n_pairs)).expand(2 * n_pairs))
    return Sample(torch.cat(shown), torch.cat(weight), n_pairs)


def sets_of(size: int, players: int) -> Coalitions:
    """All sets of a size."""
    members = torch.tensor(list(combinations(range(players), size)))
    return torch.zeros(len(members), players, dtype=torch.bool).scatter_(1, members, True)


def shapley(
    drawn: Sample, gain: Float[Tensor, "s q"], whole: Float[Tensor, " q"]
) -> tuple[Float[Tensor, "m q"], Float[Tensor, " m"]]:
    """Least squares under the constraint that the values sum to `whole`, and the standard error for the first answer.

    The constraint is met by starting from equal shares and moving along directions that sum to 0.
    """
    x, weight = drawn.shown.double(), drawn.weight
    players = x.shape[1]
    across = torch.cat([torch.eye(players - 1), -torch.ones(1, players - 1)]).double()
    wx = (x @ across) * weight[:, None]
    root = torch.linalg.cholesky((x @ across).T @ wx)
    lever = across @ torch.cholesky_solve(wx.T, root)  # m s
    equal = whole / players
    target = gain - x.sum(1, keepdim=True) * equal
    values = equal + lever @ target
    residual = (target - x @ (values - equal))[:, 0]
    return values, pair_error(lever, (x * lever.T).sum(1), residual, drawn.n_pairs)


def pair_error(
    lever: Float[Tensor, "m s"], leverage: Float[Tensor, " s"], residual: Float[Tensor, " s"], n_pairs: int
) -> Float[Tensor, " m"]:
    """Standard error by the jackknife over the pairs drawn: a set and its complement pull in opposite directions."""
    if n_pairs == 0:
        return lever.new_zeros(len(lever))
    one, two = slice(-2 * n_pairs, -n_pairs), slice(-n_pairs, None)
    pull = (residual[one] - residual[two]) / (1 - 2 * leverage[one]).clamp(min=1e-9)
    moved = lever[:, one] * pull
    return (moved - moved.mean(1, keepdim=True)).square().sum(1).sqrt()
