"""Sanity: does the map depend on the class it is asked about?"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.core import Explanation, GlasshouseError, Images, Model, Score, registered
from glasshouse.evaluate.engine import CLEAN, Answers
from glasshouse.evaluate.metric import Result, asked, score_of, undefined
from glasshouse.evaluate.sanity.replaying import compared, passes, replay


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
    found = replay(explanation)
    answers = asked(model, inputs, explanation, None, answers)
    if isinstance(found, str) or answers is None:
        return undefined("class_sensitivity", explanation, found if isinstance(found, str) else "custom_target")
    info, settings = found
    compare = other_classes(answers, other, explanation.target)
    try:
        second = info.function(model, inputs, compare.tolist(), **settings).heatmap.to(inputs.device)
    except GlasshouseError:
        if other is not None:  # perhaps no class of this model: the caller's to know
            raise
        return undefined("class_sensitivity", explanation, "rerun_failed")
    first = explanation.heatmap.to(inputs.device)
    value, stderr, reason, extras = compared("other", first, second, seed, absolute=False)
    same = (compare == torch.tensor(explanation.target)).tolist()
    reason = tuple("no_other_class" if alone else why for alone, why in zip(same, reason, strict=True))
    forward, backward = passes(explanation, inputs, 1)
    result = Result(1 - value, stderr, reason, {**extras, "other": compare})
    spent = forward + (answers.charge([]) if other is None else 0)
    return score_of("class_sensitivity", result, 0.0, "up", {"seed": seed}, spent, backward)
