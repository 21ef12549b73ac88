"""Faithfulness on random sets: does the map's sum over a set tell how the score falls without it?"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Cost,
    Explanation,
    Images,
    Maps,
    Model,
    Reading,
    Score,
    Target,
    generator,
    registered,
)
from glasshouse.evaluate.agreement import correlation, grid_mass, mean_ranks
from glasshouse.evaluate.engine import CLEAN, Answers, Baseline, Cells, Grid, keeping
from glasshouse.evaluate.metric import Metric, Result, answer, flaws

FEWEST_SUBSETS = 16


def subset_plan(
    name: str,
    heatmap: Maps,
    grid: Grid,
    n_samples: int,
    n_removed: int,
    by_rank: bool,
    score: Reading,
    baseline: Baseline,
    seed: int,
) -> Metric:
    """Random sets of cells: does the map's sum over a set follow the drop of the score without the set?"""
    total = grid[0] * grid[1]
    if n_samples < FEWEST_SUBSETS:
        raise BadInput(f"n_samples {n_samples} is too few for a correlation.", f"Use at least {FEWEST_SUBSETS}.")
    if not 0 < n_removed < total:
        raise BadInput(f"{n_removed} of {total} cells cannot be removed at random.", "Remove some, but not all.")
    draws, removed = generator(seed), torch.zeros(n_samples, total, dtype=torch.uint8)
    for row in removed:
        row[torch.randperm(total, generator=draws)[:n_removed]] = 1
    questions = tuple(keeping(Cells(grid, bytes(row)), baseline) for row in (1 - removed).numpy())
    sums = grid_mass(heatmap, grid) @ removed.double().T.to(heatmap.device)
    faults = flaws(heatmap)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drop, mass = table[:, :1] - table[:, 1:], sums.to(table)
        pair = (mean_ranks(mass), mean_ranks(drop)) if by_rank else (mass, drop)
        value, drawn = correlation(*pair, seed)
        luck = (1 - value.square()) / (total - 1) ** 0.5  # of a random map on so many cells
        stderr = (drawn.square() + luck.square()).sqrt()
        reasons = [
            fault or ("" if known else "constant_score" if still else "constant_sums")
            for fault, known, still in zip(
                faults, value.isfinite().tolist(), (drop == drop[:, :1]).all(1).tolist(), strict=True
            )
        ]
        return Result(value, stderr, tuple(reasons), {"sums": sums, "drops": drop})

    settings = {
        "grid": grid,
        "n_samples": n_samples,
        "n_removed": n_removed,
        "baseline": baseline,
        "seed": seed,
    }
    return Metric(name, (CLEAN, *questions), score, reduce, 0.0, "up", settings)


@registered(
    "evaluate",
    cost=lambda settings, shape: Cost(settings.get("n_samples", 100) + 1),
    paper="Bhatt et al., IJCAI 2020",
    example={"n_samples": 16},
)
def faithfulness_correlation(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 100,
    subset_size: int = 224,
    grid: Grid | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether the map's sum over random sets of pixels follows the drop of the score when they are removed.

        Pearson correlation over sets S of   sum_{i in S} a_i   and   f(x) - f(x with S replaced)

    Bhatt, Weller and Moura, "Evaluating and aggregating feature-based model explanations", IJCAI 2020, eq. 3. 1
    is perfect, 0 is chance. The standard error joins that of the draw of sets (bootstrap) and the luck that a
    random map has on d cells, (1 - r²) / sqrt(d - 1). Scattered pixels change a large image little; the error is
    wide there, and `mu_fidelity` decides sooner.

    Args:
        subset_size: pixels (or cells) per set; at most half of them.
        grid: rows and columns of cells; None takes pixels.
    """
    grid = grid or (inputs.shape[-2], inputs.shape[-1])
    size = min(subset_size, grid[0] * grid[1] // 2)
    name, heatmap = "faithfulness_correlation", explanation.heatmap
    metric = subset_plan(name, heatmap, grid, n_samples, size, False, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)


def fidelity_plan(
    heatmap: Maps,
    n_samples: int,
    grid: Grid | None,
    fraction: float,
    score: Reading,
    baseline: Baseline,
    seed: int,
) -> Metric:
    """Plan of `mu_fidelity`."""
    grid = grid or (min(9, heatmap.shape[-2]), min(9, heatmap.shape[-1]))
    n_removed = round(fraction * grid[0] * grid[1])
    return subset_plan("mu_fidelity", heatmap, grid, n_samples, n_removed, True, score, baseline, seed)


@registered(
    "evaluate",
    cost=lambda settings, shape: Cost(settings.get("n_samples", 200) + 1),
    paper="Bhatt et al., IJCAI 2020",
    example={"n_samples": 16},
)
def mu_fidelity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_samples: int = 200,
    grid: Grid | None = None,
    fraction: float = 0.2,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """Whether sets of cells that the map marks more lower the score more: `faithfulness_correlation` by rank.

        Spearman correlation over sets S of cells of   sum_{i in S} a_i   and   f(x) - f(x with S replaced)

    Bhatt et al., IJCAI 2020, with the cells and numbers of Fel et al., "Xplique", 2022. 1 is perfect, 0 is
    chance. The sets do not depend on the map: share `answers` to compare methods at the price of one.

    Args:
        grid: rows and columns of cells; None takes 9 × 9.
        fraction: share of the cells in each set.
    """
    metric = fidelity_plan(explanation.heatmap, n_samples, grid, fraction, score, baseline, seed)
    return answer(metric, model, inputs, explanation, target, answers)
