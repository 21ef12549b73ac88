"""Sanity: does the map depend on the class it is asked about?"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Explanation,
    GlasshouseError,
    Images,
    Model,
    Score,
    generator,
    in_chunks,
    registered,
)
from glasshouse.core.lift import checked_images
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.metric import Result, asked, belongs, score_of, undefined
from glasshouse.evaluate.questions import CLEAN
from glasshouse.evaluate.sanity.predicting import outputs
from glasshouse.evaluate.sanity.replaying import at_once, compared, distances, passes, replay, rerun

Others: TypeAlias = int | Literal["top5"]


def other_classes(answers: Answers, other: int | Sequence[int] | None, target: tuple[int, ...]) -> Int[Tensor, " n"]:
    """The class to compare with: the one given, or each image's highest-scoring one besides its target."""
    mine = torch.tensor(target)
    if other is not None:
        given = torch.as_tensor(other)
        return given.expand(len(mine)) if given.ndim == 0 else given
    answers.ask([CLEAN])
    assert answers.top is not None
    top = answers.top.cpu()
    return torch.where(top[:, 0] == mine, top[:, -1], top[:, 0])


class Second(NamedTuple):
    """The same method's answer about another class of each image, and what it cost."""

    explanation: Explanation
    classes: Int[Tensor, " n"]
    same: list[bool]
    spent: tuple[int, int]


def second_opinion(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    other: int | Sequence[int] | None,
    answers: Answers | None,
) -> Second | str:
    """The method run again about another class; one word where it cannot be."""
    found, answers = replay(explanation), asked(model, inputs, explanation, None, answers)
    if isinstance(found, str) or answers is None:
        return found if isinstance(found, str) else "custom_target"
    classes = other_classes(answers, other, explanation.target)
    try:
        second = found.info.function(model, inputs, classes.tolist(), **found.settings)
    except GlasshouseError:
        if other is not None:  # perhaps no class of this model: the caller's to know
            raise
        return "rerun_failed"
    forward, backward = passes(explanation, inputs, 1)
    forward += answers.charge([]) if other is None else 0
    same = (classes == torch.tensor(explanation.target)).tolist()
    return Second(second, classes, same, (forward, backward))


@registered("evaluate", paper="Nie et al., ICML 2018; Sixt et al., ICML 2020")
def class_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    other: int | Sequence[int] | None = None,
    seed: int = 0,
    answers: Answers | None = None,
) -> Score:
    """How much the map changes with the class it is asked about: 0 means it shows the same for another class.

        1 - Spearman correlation of a(target) and a(other class)

    Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based
    visualizations", ICML 2018; Sixt et al., "When explanations lie", ICML 2020. Maps are compared with their
    sign: 2 is the exact opposite. The error is a bootstrap over cells of the map. `extras["other"]` holds the
    class compared.

    Args:
        other: the other class, one for all or one per image; None takes each image's runner-up.
    """
    found = second_opinion(model, inputs, explanation, other, answers)
    if isinstance(found, str):
        return undefined("class_sensitivity", explanation, found)
    first, second = (e.heatmap.to(inputs.device) for e in (explanation, found.explanation))
    value, stderr, reason, extras = compared("other", first, second, seed, absolute=False)
    reason = tuple("no_other_class" if alone else why for alone, why in zip(found.same, reason, strict=True))
    result = Result(1 - value, stderr, reason, {**extras, "other": found.classes})
    return score_of("class_sensitivity", result, 0.0, "up", {"seed": seed}, *found.spent)


@registered("evaluate", paper="Nie et al., ICML 2018")
def logit_distance(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    other: int | Sequence[int] | None = None,
    answers: Answers | None = None,
) -> Score:
    """How far apart the maps of two classes are: 0 means that the map does not depend on the class.

        || a(target) / max |a(target)| - a(other class) / max |a(other class)| ||_2

    Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based
    visualizations", ICML 2018, sec. 4. Taken of the method's own values (`native`), with their sign. It grows with
    the number of values: compare methods on the same image, or use `extras["unit_distance"]`, the distance of the
    two as unit vectors, in 0…2.

    Args:
        other: as in `class_sensitivity`.
    """
    found = second_opinion(model, inputs, explanation, other, answers)
    if isinstance(found, str):
        return undefined("logit_distance", explanation, found)
    apart = distances(explanation, found.explanation)
    if isinstance(apart, str):
        return undefined("logit_distance", explanation, apart)
    reason = tuple("no_other_class" if alone else why for alone, why in zip(found.same, apart.reason, strict=True))
    result = apart._replace(reason=reason, extras={**apart.extras, "other": found.classes})
    return score_of("logit_distance", result, 0.0, "up", {}, *found.spent)


@registered("evaluate", paper="Nie et al., ICML 2018")
def adversarial_sensitivity(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    adversarial: Images,
) -> Score:
    """How far the map moves when an imperceptible change of the image flips the decision. Near 0, it missed the flip.

        || a(x, target) / max |a| - a(x*, class of x*) / max |a*| ||_2

    Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based
    visualizations", ICML 2018, sec. 4. Distances as in `logit_distance`. An attack that does not change the class
    gets the reason "not_flipped". `extras["new_class"]` holds what the model sees in the attacked image.

    Args:
        adversarial: attacked images, such as those of `diagnose.pgd`.
    """
    belongs(explanation, inputs)
    if adversarial.shape != inputs.shape:
        raise BadInput(
            f"adversarial images {tuple(adversarial.shape)} are not versions of images {tuple(inputs.shape)}.",
            "Give one attacked image for each image.",
        )
    found = replay(explanation)
    if isinstance(found, str):
        return undefined("adversarial_sensitivity", explanation, found)
    classes = outputs(model, checked_images(adversarial)).argmax(1).tolist()
    try:
        second = found.info.function(model, adversarial, classes, **found.settings)
    except GlasshouseError:
        return undefined("adversarial_sensitivity", explanation, "rerun_failed")
    apart = distances(explanation, second)
    if isinstance(apart, str):
        return undefined("adversarial_sensitivity", explanation, apart)
    kept = [new == old for new, old in zip(classes, explanation.target, strict=True)]
    reason = tuple("not_flipped" if same else why for same, why in zip(kept, apart.reason, strict=True))
    result = apart._replace(reason=reason, extras={**apart.extras, "new_class": torch.tensor(classes)})
    forward, backward = passes(explanation, inputs, 1)
    return score_of("adversarial_sensitivity", result, None, "up", {}, forward + len(inputs), backward)


def drawn_classes(scores: Float[Tensor, "n k"], target: tuple[int, ...], others: Others, seed: int) -> Tensor:
    """Other classes of each image, `n m`: at random, in the same order for every image, or by score."""
    n, k = scores.shape
    count = min(5 if others == "top5" else int(others), k - 1)
    if others == "top5":
        order = scores.argsort(dim=1, descending=True, stable=True)
    else:
        order = torch.randperm(k, generator=generator(seed)).to(scores.device).expand(n, k)
    mine = torch.tensor(target, device=scores.device)[:, None]
    return order[order != mine].view(n, k - 1)[:, :count]


@registered("evaluate", paper="Sixt et al., ICML 2020")
def random_logit(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    others: Others = 1,
    seed: int = 0,
) -> Score:
    """How alike the maps of the target and of other classes are: 1 means that the class does not matter.

        mean over other classes k of the Spearman correlation of a(target) and a(k)

    Sixt, Granz and Landgraf, "When explanations lie", ICML 2020. Maps are compared with their sign. Works
    for any number of classes from two upwards. `extras["others"]` holds the classes; further similarities as in
    `randomise_parameters`.
    Differs: rank correlation where the paper has SSIM, which is `extras["ssim"]`.

    Args:
        others: how many other classes to draw, the same for all images; all of them if there are no more. "top5"
            takes each image's five highest-scoring ones.
    """
    belongs(explanation, inputs)
    if others != "top5" and (isinstance(others, str) or others < 1):
        raise BadInput(f"others {others!r} is no number of classes.", "Use 1 or more, or 'top5'.")
    found, n = replay(explanation), len(inputs)
    if isinstance(found, str):
        return undefined("random_logit", explanation, found, "down")
    scores = outputs(model, inputs)
    if scores.shape[1] < 2:
        return undefined("random_logit", explanation, "no_other_class", "down")
    classes = drawn_classes(scores, explanation.target, others, seed)
    count = classes.shape[1]
    rows, asked_about = torch.arange(n, device=inputs.device).repeat_interleave(count), classes.flatten()

    def run(part: Tensor) -> Tensor:
        return rerun(found, model, inputs[rows[part]], asked_about[part].tolist(), rows[part], n).heatmap

    try:
        maps = [answer for _, answer in in_chunks(run, n * count, at_once(inputs), inputs.device)]
    except GlasshouseError:
        return undefined("random_logit", explanation, "rerun_failed", "down")
    first, second = explanation.heatmap.to(inputs.device)[rows], torch.cat(maps).to(inputs.device)
    value, error, why, further = compared("other", first, second, seed, absolute=False)
    value, error = value.view(n, count), error.view(n, count)
    reason = tuple(next((w for w in why[i : i + count] if w), "") for i in range(0, n * count, count))
    sampled = others != "top5" and 1 < count < scores.shape[1] - 1
    stderr = value.std(1) / count**0.5 if sampled else error.mean(1)
    extras = {key: values.view(n, count).mean(1) for key, values in further.items()}
    result = Result(value.mean(1), stderr, reason, {**extras, "others": classes})
    forward, backward = passes(explanation, inputs, count)
    return score_of("random_logit", result, 1.0, "down", {"others": others, "seed": seed}, forward + n, backward)
