"""A metric: a plan of questions, and a reduction of the answers to a score per image with its reasons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Explanation,
    Images,
    Info,
    Maps,
    Model,
    NotFound,
    PerImage,
    Reading,
    Score,
    Target,
    find_method,
    list_methods,
)
from glasshouse.core.lift import module_of, setting
from glasshouse.core.result import Direction
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.questions import CLEAN, Asked


class Result(NamedTuple):
    """What a reduction makes of the answers. `reason` is empty where `value` is defined."""

    value: PerImage
    stderr: PerImage
    reason: tuple[str, ...]
    extras: dict[str, Tensor] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Metric:
    """What a metric asks (`questions`), how it reads the answers, and what it makes of them (`reduce`)."""

    name: str
    questions: tuple[Asked, ...]
    score: Reading
    reduce: Callable[[Float[Tensor, "n r"]], Result]
    chance: float | None
    direction: Direction
    settings: Mapping[str, Any]


def measure(answers: Answers, metrics: Sequence[Metric]) -> dict[str, Score]:
    """Scores of several metrics from one pass over all they ask. A shared question counts for the first."""
    answers.ask([question for metric in metrics for question in metric.questions])
    scores = dict[str, Score]()
    for metric in metrics:
        table = answers.read(metric.questions, metric.score)
        result = metric.reduce(table)
        usable = table.isfinite().all(1).tolist()
        reason = tuple(
            why if good else why or "score_not_finite" for why, good in zip(result.reason, usable, strict=True)
        )
        settings = {"score": metric.score, **{name: setting(value) for name, value in metric.settings.items()}}
        spent = answers.charge(metric.questions)
        scores[metric.name] = score_of(
            metric.name,
            result._replace(reason=reason),
            metric.chance,
            metric.direction,
            settings,
            spent,
        )
    return scores


def answer(
    metric: Metric,
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    target: Target,
    answers: Answers | None,
) -> Score:
    """One metric by itself."""
    found = asked(model, inputs, explanation, target, answers)
    if found is None:
        return undefined(metric.name, explanation, "custom_target", metric.direction)
    return measure(found, [metric])[metric.name]


def score_of(
    name: str,
    result: Result,
    chance: float | None,
    direction: Direction,
    settings: Mapping[str, Any],
    n_forward: int = 0,
    n_backward: int = 0,
) -> Score:
    """A score whose values are not-a-number exactly where there is a reason."""
    value, stderr = result.value.detach().cpu().float().clone(), result.stderr.detach().cpu().float().clone()
    bad = torch.tensor([reason != "" for reason in result.reason])
    value[bad], stderr[bad] = torch.nan, torch.nan
    assert value.isnan().equal(bad), f"{name} is undefined without a reason"
    extras = {key: extra.detach().cpu().float() for key, extra in result.extras.items()}
    return Score(name, value, stderr, chance, direction, result.reason, n_forward, n_backward, dict(settings), extras)


def undefined(name: str, explanation: Explanation, reason: str, direction: Direction = "up") -> Score:
    """The score of a metric that cannot be computed for any of the images."""
    nothing = torch.zeros(len(explanation))
    return score_of(name, Result(nothing, nothing, (reason,) * len(explanation)), None, direction, {})


def known_method(explanation: Explanation) -> Info | None:
    """What the registry says of the method that made these maps."""
    try:
        return find_method(explanation.method, "attribute")
    except NotFound:
        return None


def flaws(maps: Maps) -> tuple[str, ...]:
    """Why a map cannot be ranked, per image: "not_finite", "constant_map", or empty."""
    flat = maps.flatten(1)
    finite, constant = flat.isfinite().all(1).tolist(), (flat == flat[:, :1]).all(1).tolist()
    return tuple(
        "" if good and not same else "constant_map" if good else "not_finite"
        for good, same in zip(finite, constant, strict=True)
    )


def belongs(explanation: Explanation, inputs: Images) -> None:
    """Raise unless the maps have the size of these images."""
    if len(explanation) != len(inputs) or explanation.heatmap.shape[-2:] != inputs.shape[-2:]:
        raise BadInput(
            f"the maps {tuple(explanation.heatmap.shape)} are not of these images {tuple(inputs.shape)}.",
            "Pass the images that were explained.",
        )


def asked(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    target: Target,
    answers: Answers | None,
) -> Answers | None:
    """The answers to ask; None where the explanation's target was a function or weights: not kept."""
    belongs(explanation, inputs)
    if target is None and explanation.target:
        target = list(explanation.target)
    if answers is None:
        return None if target is None else Answers(model, inputs, target)
    same = answers.images is inputs or answers.images.equal(inputs)
    if module_of(answers.model) is not module_of(model) or not same:
        raise BadInput("the answers given are about another model or other images.", "Make Answers(model, images).")
    if target is not None and not same_target(answers, target):
        raise BadInput("the answers given are about another target.", "Make Answers(model, images, target).")
    return answers


def same_target(answers: Answers, target: Target) -> bool:
    """Whether answers are about this target: the same classes, or the very same function or weights."""
    own, given = answers.aim.spec, Aim.of(target)
    if given is answers.aim or given.spec is own:
        return True
    if callable(given.spec) or isinstance(given.spec, tuple):
        return given.spec == own
    answers.ask([CLEAN])
    if isinstance(given.spec, Tensor) and given.spec.is_floating_point():
        return isinstance(own, Tensor) and own.equal(given.spec)
    classes, indices = torch.as_tensor(given.spec).tolist(), answers.aim.indices
    wanted = classes if isinstance(classes, list) else [classes] * len(answers.images)
    return indices is not None and indices.tolist() == wanted


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of all metrics that match: `list_metrics("*fidelity*")`."""
    return [name.partition(".")[2] for name in list_methods(f"evaluate.{pattern}")]
