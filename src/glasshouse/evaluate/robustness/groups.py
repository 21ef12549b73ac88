"""Does the same explanation mean the same decision? Over a set of explained images; no method is run again."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Model, Score, generator, registered
from glasshouse.core.mask import cell_sums, cells, ranks
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of
from glasshouse.evaluate.questions import Grid, grid_of
from glasshouse.evaluate.sanity.predicting import outputs


def agreement_within(
    name: str,
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    alike: Bool[Tensor, "n n"],
    settings: dict[str, object],
) -> Score:
    """Share of the images with a like explanation that are also predicted alike, for each image."""
    n, flawed = len(inputs), flaws(explanation.heatmap)
    usable = torch.tensor([not fault for fault in flawed], device=alike.device)
    others = usable & ~torch.eye(n, dtype=torch.bool, device=alike.device)
    predicted = outputs(model, inputs).argmax(1)
    same = (predicted[:, None] == predicted).to(alike.device)
    near = alike & others & usable[:, None]
    count = near.sum(1)
    value = (near & same).sum(1).double() / count
    stderr = (value * (1 - value) / count).sqrt()
    luck = (others & same).sum(1).double() / others.sum(1)
    reason = tuple(
        fault or ("" if some else "no_neighbour") for fault, some in zip(flawed, count.tolist(), strict=True)
    )
    known = torch.tensor([not why for why in reason], device=luck.device)
    chance = float(luck[known].mean()) if known.any() else None
    extras = {"neighbours": count, "chance": luck, "predicted": predicted}
    return score_of(name, Result(value, stderr, reason, extras), chance, "up", settings, n)


def top_cells(explanation: Explanation, grid: Grid, n_top: int, seed: int) -> Int[Tensor, "n g"]:
    """The sign of the cells with the largest absolute sums, 0 for all other cells. Ties at random."""
    heatmap = explanation.heatmap.double()
    sums = cell_sums(heatmap, cells((heatmap.shape[-2], heatmap.shape[-1]), grid))
    chosen = ranks(sums.abs(), generator(seed)) < n_top
    return torch.where(chosen, sums.sign(), 0.0).long()


@registered("evaluate", cost=lambda settings, shape: Cost(1), paper="Dasgupta et al., ICML 2022")
def consistency(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    n_top: int = 1,
    grid: Grid | None = None,
    seed: int = 0,
) -> Score:
    """Of the other images with the same explanation, the share with the same prediction: 1 if maps tell decisions.

        P(f(x') = f(x) | the n_top strongest cells of a(x') are those of a(x), with their signs)

    Dasgupta, Frost and Moshkovitz, "Framework for evaluating faithfulness of local explanations", ICML 2022.
    It is about a set of images: the score of one depends on the others that were explained. An image that is alone
    with its explanation has the reason "no_neighbour"; `extras["neighbours"]` counts the others. Chance is the share
    of the same prediction among all other images, `extras["chance"]` for each. The error is binomial.
    Differs: maps are never quite equal, so they are first reduced to their strongest cells.

    Args:
        n_top: cells that must agree.
        grid: rows and columns of cells; None takes 7 to 14 along the shorter side.
    """
    belongs(explanation, inputs)
    grid = grid or grid_of((inputs.shape[-2], inputs.shape[-1]))
    if not 1 <= n_top <= grid[0] * grid[1]:
        raise BadInput(f"n_top {n_top} is not in 1…{grid[0] * grid[1]}, the cells of the grid.")
    code = top_cells(explanation, grid, n_top, seed).to(inputs.device).unique(dim=0, return_inverse=True)[1]
    alike = code[:, None] == code
    settings: dict[str, object] = {"n_top": n_top, "grid": grid, "seed": seed}
    return agreement_within("consistency", model, inputs, explanation, alike, settings)


def cosines(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n n"]:
    """Cosine of the angle between any two maps."""
    flat = maps.flatten(1).double()
    unit = flat / flat.norm(dim=1, keepdim=True)
    return unit @ unit.T


@registered("evaluate", cost=lambda settings, shape: Cost(1), paper="Dasgupta et al., ICML 2022")
def sufficiency(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    similarity: float = 0.6,
) -> Score:
    """Of the other images to which this explanation nearly applies, the share with the same prediction.

        P(f(x') = f(x) | cos(a(x'), a(x)) >= similarity)

    Dasgupta, Frost and Moshkovitz, "Framework for evaluating faithfulness of local explanations", ICML 2022.
    `extras`, chance and error as in `consistency`; like that, it is about a set of images.
    Differs: a heat map does not say to which other images it applies; that they have nearly the same map stands in.

    Args:
        similarity: least cosine between heat maps that count as near.
    """
    belongs(explanation, inputs)
    if not -1 <= similarity <= 1:
        raise BadInput(f"similarity {similarity} is no cosine.", "Try 0.6.")
    alike = cosines(explanation.heatmap.to(inputs.device)) >= similarity
    return agreement_within("sufficiency", model, inputs, explanation, alike, {"similarity": similarity})
