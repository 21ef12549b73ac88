"""One look through the map: the score of the image behind it, as through a mask."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    Cost,
    Explanation,
    GlasshouseError,
    Images,
    Maps,
    Model,
    PerImage,
    Reading,
    Score,
    Target,
    registered,
)
from glasshouse.core.lift import setting
from glasshouse.core.result import Direction
from glasshouse.evaluate.agreement import cosine
from glasshouse.evaluate.baselines import Baseline, told
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.metric import Metric, Result, answer, asked, flaws, score_of, undefined
from glasshouse.evaluate.questions import CLEAN, soft_mask
from glasshouse.evaluate.sanity.replaying import passes, replay


def unit_mask(maps: Maps) -> Maps:
    """Each map stretched to 0…1; all of the image where that cannot be."""
    flat = maps.flatten(1)
    low, high = flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]
    bad = torch.tensor([flaw != "" for flaw in flaws(maps)], device=maps.device)[:, None, None]
    return torch.where(bad, 1.0, (maps - low) / torch.where(bad, 1.0, high - low))


def looked_through(
    name: str,
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    direction: Direction,
    value_of: Callable[[PerImage, PerImage], PerImage],
    fault_of: Callable[[float], str],
    score: Reading,
    baseline: Baseline,
    target: Target,
    answers: Answers | None,
) -> Score:
    """A number made of the score before and behind the mask. `fault_of` says what is wrong with a score before it."""
    faults = flaws(explanation.heatmap)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        before, behind = table.unbind(1)
        value = value_of(before, behind)
        reason = tuple(fault or fault_of(clean) for fault, clean in zip(faults, before.tolist(), strict=True))
        return Result(value, torch.zeros_like(value), reason, {"clean": before, "masked": behind})

    questions = (CLEAN, soft_mask(unit_mask(explanation.heatmap), told(baseline, inputs, model)))
    metric = Metric(name, questions, score, reduce, None, direction, {"baseline": baseline})
    return answer(metric, model, inputs, explanation, target, answers)


def not_positive(clean: float) -> str:
    return "score_not_positive" if clean <= 0 else ""


def drop_of(before: PerImage, behind: PerImage) -> PerImage:
    """Share of the score that is lost behind the mask."""
    return (before - behind).clamp(min=0) / before


@registered("evaluate", cost=lambda settings, shape: Cost(2), paper="Chattopadhay et al., WACV 2018")
def average_drop(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    score: Reading = "prob",
    baseline: Baseline = "mean",
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """Share of the target's probability that is lost when the image is seen through the map. Lower is better.

        max(0, p - p') / p,   p' = f(x times the map stretched to 0…1)

    Chattopadhay et al., "Grad-CAM++", WACV 2018, who average it over images and print per cent. A map that marks
    the whole image loses nothing: read it beside `sparseness`. What fades towards `baseline` is like nothing the
    model has seen.

    Args:
        baseline: what shows through where the map is low; one that does not depend on the mask.
    """
    common = (model, inputs, explanation)
    return looked_through("average_drop", *common, "down", drop_of, not_positive, score, baseline, target, answers)


@registered("evaluate", cost=lambda settings, shape: Cost(2), paper="Chattopadhay et al., WACV 2018")
def increase_in_confidence(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    score: Reading = "prob",
    baseline: Baseline = "mean",
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """Whether the model is surer of the target when it sees the image through the map: 1 if so, else 0.

        1[p' > p],   p' = f(x times the map stretched to 0…1)

    Chattopadhay et al., "Grad-CAM++", WACV 2018; the mean over images is their "% increase in confidence". A
    model that is sure already cannot become surer. Arguments as in `average_drop`.
    """

    def rises(before: PerImage, behind: PerImage) -> PerImage:
        return (behind > before).to(before)

    name, common = "increase_in_confidence", (model, inputs, explanation)
    return looked_through(name, *common, "up", rises, lambda clean: "", score, baseline, target, answers)


@registered("evaluate", cost=lambda settings, shape: Cost(2), paper="Zhang et al., Opti-CAM, CVIU 2024")
def average_gain(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    baseline: Baseline = "mean",
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """Share of the model's remaining doubt that goes when it sees the image through the map. Higher is better.

        max(0, p' - p) / (1 - p),   p' = probability of x times the map stretched to 0…1

    Zhang et al., "Opti-CAM: optimizing saliency maps for interpretability", CVIU 2024; the counterpart of
    `average_drop`, which counts how much is gained and not only how often. Arguments as there.
    """

    def gained(before: PerImage, behind: PerImage) -> PerImage:
        return (behind - before).clamp(min=0) / (1 - before)

    def certain(clean: float) -> str:
        return "already_certain" if clean >= 1 else ""

    common = (model, inputs, explanation)
    return looked_through("average_gain", *common, "up", gained, certain, "prob", baseline, target, answers)


@registered("evaluate", paper="Poppi et al., CVPRW 2021")
def adcc(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    baseline: Baseline = "mean",
    answers: Answers | None = None,
) -> Score:
    """Whether a map keeps the score, marks little, and stays the same on what it marks: harmonic mean, 0 to 1.

        3 / (1/coherency + 1/(1 - complexity) + 1/(1 - average drop))
        coherency = (1 + Pearson(a(x times a), a)) / 2,   complexity = mean of a,   a stretched to 0…1

    Poppi et al., "Revisiting the evaluation of class activation mapping for explainability", CVPR workshop 2021.
    The method is run once more, on the masked image; `extras` holds the three parts. Made for class activation maps:
    in a signed map 0 is grey here, and complexity is high without meaning much.
    """
    found, maps = replay(explanation), explanation.heatmap.to(inputs.device)
    answers = asked(model, inputs, explanation, None, answers)
    if isinstance(found, str) or answers is None:
        return undefined("adcc", explanation, found if isinstance(found, str) else "custom_target")
    mask = unit_mask(maps)
    question = soft_mask(mask, told(baseline, inputs, model))
    table = answers.read((CLEAN, question), "prob")
    marked = question.change(answers.images, torch.arange(len(inputs), device=inputs.device))
    info, settings = found
    try:
        again = info.function(model, marked, list(explanation.target), **settings).heatmap.to(inputs.device)
    except GlasshouseError:
        return undefined("adcc", explanation, "rerun_failed")
    coherency = (1 + cosine(centred(mask), centred(unit_mask(again)))) / 2
    complexity, drop = mask.flatten(1).double().mean(1), drop_of(table[:, 0], table[:, 1])
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    usable, clean = table.isfinite().all(1).tolist(), table[:, 0].tolist()
    reason = tuple(
        mine or (f"masked_{other}" if other else not_positive(before) if good else "score_not_finite")
        for mine, other, good, before in zip(flaws(maps), flaws(again), usable, clean, strict=True)
    )
    extras = {"coherency": coherency, "complexity": complexity, "average_drop": drop}
    forward, backward = passes(explanation, inputs, 1)
    result = Result(3 / (1 / parts).sum(0), torch.zeros_like(drop), reason, extras)
    spent = forward + answers.charge((CLEAN, question))
    return score_of("adcc", result, None, "up", {"baseline": setting(baseline)}, spent, backward)


def centred(maps: Maps) -> Maps:
    return maps.double() - maps.double().mean((1, 2), keepdim=True)
