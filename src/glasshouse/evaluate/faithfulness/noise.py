"""Faithfulness under any change: does the map foresee what noise, or a removed square, does to the score?"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
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
from glasshouse.evaluate.baselines import Baseline, depends_on_mask, filling, substrate
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.features import seeds
from glasshouse.evaluate.metric import Metric, Result, answer, belongs
from glasshouse.evaluate.questions import CLEAN, Asked, Cells, Changed, keeping

Perturbation = Literal["gaussian", "square"]
Convention = Literal["gradient", "contribution"]
Scale = Literal["optimal"]


class Foreseen(NamedTuple):
    """Changed images, and by how much the score should fall in each, if the map is right.

    Args:
        unseen: the part of all possible changes that is not among them.
    """

    questions: Sequence[Asked]
    drops: Float[Tensor, "n r"]
    unseen: float = 1.0


def noise_of(like: Images, sigma: float, seed: int) -> Float[Tensor, "c h w"]:
    """Gaussian noise, the same for every image and on every device; made again whenever it is needed."""
    drawn = torch.randn(like.shape[1:], generator=generator(seed), dtype=torch.float32)
    return (sigma * drawn).to(like)


def noise_taken(sigma: float, seed: int) -> Changed:
    """The question about the images less some noise."""

    def change(images: Images, image: Int[Tensor, " m"]) -> Images:
        return images - noise_of(images, sigma, seed)

    return Changed(("less noise", sigma, seed), change)


def under_noise(values: Float[Tensor, "n ..."], inputs: Images, sigma: float, n_samples: int, seed: int) -> Foreseen:
    """I is Gaussian: what it changes is I . a, with a the change of the score per unit of input."""
    flat, drops = values.double().flatten(1), list[Tensor]()
    parts = seeds(n_samples, seed)
    for part in parts:
        noise = noise_of(inputs, sigma, part).double()
        drops.append(flat @ (noise if values.ndim == 4 else noise.sum(0)).flatten().to(flat.device))
    return Foreseen([noise_taken(sigma, part) for part in parts], torch.stack(drops, 1))


class Square(NamedTuple):
    side: int
    row: int
    col: int


def squares_in(size: tuple[int, int], largest: int) -> int:
    """How many squares of side 1 to `largest` fit into an image."""
    return sum((size[0] - side + 1) * (size[1] - side + 1) for side in range(1, largest + 1))


def square_at(index: int, size: tuple[int, int]) -> Square:
    """All squares in order of their sides, each side in reading order."""
    side = 1
    while index >= (count := (size[0] - side + 1) * (size[1] - side + 1)):
        index, side = index - count, side + 1
    return Square(side, *divmod(index, size[1] - side + 1))


def largest_side(size: tuple[int, int], largest: int | None) -> int:
    """10 pixels of 28, as in the authors' code, if nothing else is wanted."""
    return max(1, round(10 / 28 * min(size))) if largest is None else largest


def without_squares(contributions: Maps, largest: int, n_samples: int, baseline: Baseline, seed: int) -> Foreseen:
    """I is what a square holds more than the baseline: removing it should cost what the map holds there."""
    size = (contributions.shape[-2], contributions.shape[-1])
    total = squares_in(size, largest)
    picked = torch.randperm(total, generator=generator(seed))[:n_samples].tolist()
    filled, questions, drops = filling(baseline), list[Asked](), list[Tensor]()
    for side, row, col in (square_at(index, size) for index in picked):
        stays = torch.ones(size, dtype=torch.uint8)
        stays[row : row + side, col : col + side] = 0
        questions.append(keeping(Cells(size, bytes(stays.flatten().numpy())), filled))
        drops.append(contributions[:, row : row + side, col : col + side].double().sum((1, 2)))
    return Foreseen(questions, torch.stack(drops, 1), 1 - len(picked) / total)


def contributions_of(
    values: Float[Tensor, "n ..."], inputs: Images, convention: Convention, baseline: Baseline, model: object
) -> Maps:
    """What each pixel adds to the score compared with the baseline, as the map has it."""
    if convention == "contribution":
        return values.sum(1) if values.ndim == 4 else values
    filled = filling(baseline)
    if depends_on_mask(filled):
        raise BadInput(
            f"baseline '{filled}' depends on the square, so gradients cannot be multiplied by it beforehand.",
            "Use 'mean', 'blur' or a number, or convention='contribution'.",
        )
    gone = inputs - substrate(inputs, filled, torch.arange(len(inputs), device=inputs.device), model)
    return ((values if values.ndim == 4 else values[:, None]).to(gone.device) * gone).sum(1)


def infidelity_plan(
    values: Float[Tensor, "n ..."], foreseen: Foreseen, scale: Scale | None, score: Reading, settings: dict[str, Any]
) -> Metric:
    """Plan of `infidelity`."""
    reason = tuple("" if fine else "not_finite" for fine in values.flatten(1).isfinite().all(1).tolist())

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        drop, expected = table[:, :1] - table[:, 1:], foreseen.drops.to(table)
        known = expected.square().mean(1)
        beta = torch.where(known == 0, 0.0, (expected * drop).mean(1) / known)
        scaled = (beta[:, None] * expected - drop).square()
        missed = scaled if scale == "optimal" else (expected - drop).square()
        value = missed.mean(1)
        stderr = missed.std(1) * (foreseen.unseen / missed.shape[1]) ** 0.5
        moved = drop.square().mean(1)
        normalised = torch.where(moved > 0, value / moved, torch.nan)
        extras = {"beta": beta, "optimal": scaled.mean(1), "normalised": normalised}
        return Result(value, stderr, reason, extras | {"expected": expected, "drops": drop})

    return Metric("infidelity", (CLEAN, *foreseen.questions), score, reduce, None, "down", settings)


def infidelity_costs(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    wanted = settings.get("n_samples", 100)
    if settings.get("perturbation", "gaussian") == "square":
        size = (shape[-2], shape[-1])
        wanted = min(wanted, squares_in(size, largest_side(size, settings.get("largest"))))
    return Cost(wanted + 1)


@registered("evaluate", cost=infidelity_costs, paper="Yeh et al., NeurIPS 2019", example={"n_samples": 16})
def infidelity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    perturbation: Perturbation = "gaussian",
    convention: Convention = "gradient",
    scale: Scale | None = None,
    n_samples: int = 100,
    sigma: float = 0.2,
    largest: int | None = None,
    score: Reading = "logit",
    baseline: Baseline = "mean",
    target: Target = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How far the map's forecast of a changed score is off: mean squared error over random changes I. 0 is perfect.

        E_I (I . a - (f(x) - f(x - I)))²

    Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019,
    definition 2.1. The unit is that of the score, squared: compare maps of the same image and settings only.
    `extras["normalised"]` divides by E (f(x) - f(x - I))², so that a map of zeros has 1 (NaN where the score never
    moved); `extras["optimal"]` is the infidelity of `beta * a`, for the best factor `beta`, which is in `extras` too.
    The best possible map depends on I: small noise favours the gradient, squares favour occlusion of squares.
    Differs: the authors' code clips its noise to the image and always scales; this is the definition.

    Args:
        perturbation: "gaussian" takes noise from the image; "square" replaces a square by the baseline, with I the
            difference, drawn from all squares of side 1 to `largest`, each at most once.
        convention: what a is. "gradient": a change of the score per unit of input (`saliency`, `guided_backprop`).
            "contribution": multiplied by x - baseline already (`input_x_gradient`, `integrated_gradients`, SHAP), so
            that I . a is the map's sum over the square; not for noise. Native values `n c h w` are used where the
            method has them, else the heat map for each channel.
        scale: "optimal" scores `beta * a`, as for maps whose scale means nothing (class activation maps).
        sigma: of the noise, in the model's input space.
        largest: side of the largest square in pixels; None takes 10/28 of the shorter side.
    """
    belongs(explanation, inputs)
    checked(perturbation, convention, scale, n_samples, sigma)
    native = explanation.native
    values = native if native.shape == inputs.shape else explanation.heatmap
    settings: dict[str, Any] = {"perturbation": perturbation, "convention": convention, "scale": scale, "seed": seed}
    if perturbation == "gaussian":
        foreseen = under_noise(values, inputs, sigma, n_samples, seed)
        settings["sigma"] = sigma
    else:
        size = (inputs.shape[-2], inputs.shape[-1])
        side = largest_side(size, largest)
        if not 1 <= side <= min(size):
            raise BadInput(f"squares of {side} px do not fit into images of {size}.", f"Use 1…{min(size)}.")
        held = contributions_of(values, inputs, convention, baseline, model)
        foreseen = without_squares(held, side, n_samples, baseline, seed)
        settings |= {"largest": side, "baseline": baseline}
    settings["n_samples"] = len(foreseen.questions)
    metric = infidelity_plan(values, foreseen, scale, score, settings)
    return answer(metric, model, inputs, explanation, target, answers)


def checked(perturbation: str, convention: str, scale: str | None, n_samples: int, sigma: float) -> None:
    """Raise unless these go together."""
    if perturbation not in get_args(Perturbation) or convention not in get_args(Convention):
        raise BadInput(
            f"perturbation '{perturbation}' with convention '{convention}'.",
            "Use 'gaussian' or 'square', and 'gradient' or 'contribution'.",
        )
    if perturbation == "gaussian" and convention == "contribution":
        raise BadInput(
            "contributions do not say what noise does: they were multiplied by x - baseline.",
            "Use perturbation='square'.",
        )
    if scale not in (None, "optimal"):
        raise BadInput(f"scale '{scale}' is unknown.", "Use 'optimal' or None.")
    if n_samples < 2 or not sigma > 0:
        raise BadInput(f"{n_samples} samples of sigma {sigma}.", "Use at least 2, and a sigma above 0.")
