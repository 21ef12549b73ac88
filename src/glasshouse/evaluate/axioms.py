"""Axioms that an explanation claims to satisfy, measured."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import Cost, Explanation, Images, Model, Reading, Score, Target, registered
from glasshouse.evaluate.engine import READINGS, Answers
from glasshouse.evaluate.metric import Metric, Result, answer, known_method, score_of, undefined
from glasshouse.evaluate.questions import CLEAN, NOTHING, keeping

NAME = "completeness_gap"


def silent_value(explanation: Explanation) -> float | str:
    """The baseline of a method's completeness: a number, or one word that says why there is none."""
    info, given = known_method(explanation), explanation.settings.get("baselines")
    if info is None or "complete" not in info.claims:
        return "not_claimed"
    if explanation.native.ndim != 4:
        return "layer_values"
    if given is None:
        return 0.0
    if isinstance(given, Tensor) and given.numel() == 1:
        return float(given)
    return float(given) if isinstance(given, int | float) else "baseline_not_kept"


def gap_plan(explanation: Explanation, baseline: float, score: Reading) -> Metric:
    """Plan of `completeness_gap`: the clean and the silent image."""
    total = explanation.native.flatten(1).double().sum(1)

    def reduce(table: Float[Tensor, "n r"]) -> Result:
        change = table[:, 0] - table[:, 1]
        value = (total.to(change) - change).abs() / change.abs().clamp(min=1e-12)
        reason = tuple(
            "no_change" if still else "" if good else "not_finite"
            for good, still in zip(total.isfinite().tolist(), (change == 0).tolist(), strict=True)
        )
        return Result(value, torch.zeros_like(value), reason, {"total": total, "change": change})

    settings = {"baseline": baseline}
    return Metric(NAME, (CLEAN, keeping(NOTHING, baseline)), score, reduce, None, "down", settings)


def own_gap(explanation: Explanation) -> Score | None:
    """The gap that the method measured itself, if it did."""
    value = explanation.extras.get("gap")
    if value is None or value.shape != (len(explanation),):
        return None
    reason = tuple("" if known else "no_change" for known in value.isfinite().tolist())
    return score_of(NAME, Result(value, torch.zeros_like(value), reason), None, "down", {"measured_by": "the method"})


@registered("evaluate", cost=lambda settings, shape: Cost(2), paper="Sundararajan et al., ICML 2017")
def completeness_gap(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    score: Reading | None = None,
    target: Target = None,
    answers: Answers | None = None,
) -> Score:
    """How far the map's values miss the difference of scores that they claim to add up to. 0 is exact.

        |sum a - (f(x) - f(x'))| / |f(x) - f(x')|

    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017, sec. 3 and 5 (5 % is good
    enough there). Only for methods that claim completeness; x' is the method's own `baselines`, 0 if it has
    none. Others get the reason "not_claimed", and maps of a layer, whose values add up differently,
    "layer_values".

    Args:
        score: what the values add up to; None takes the explanation's own `score` setting.
    """
    baseline = silent_value(explanation)
    if isinstance(baseline, str):
        return undefined(NAME, explanation, baseline, "down")
    metric = gap_plan(explanation, baseline, score or own_score(explanation))
    return answer(metric, model, inputs, explanation, target, answers)


def own_score(explanation: Explanation) -> Reading:
    """The reading of the output that the explanation explains."""
    own = explanation.settings.get("score", "logit")
    return own if own in READINGS else "logit"
