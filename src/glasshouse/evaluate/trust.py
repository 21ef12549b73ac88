"""The fidelity card: how far an explanation can be trusted, in numbers and in a sentence."""

from typing import Literal, TypeAlias

from torch import nn

from glasshouse.core import BadInput, Card, Explanation, Images, Model, Score, Target, list_methods
from glasshouse.evaluate.axioms import gap_plan, own_gap, own_score, silent_value
from glasshouse.evaluate.complexity import edge_correlation, entropy, sign_balance, sparseness
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.curves import gain_plan
from glasshouse.evaluate.faithfulness.subsets import fidelity_plan
from glasshouse.evaluate.metric import Metric, asked, measure, undefined
from glasshouse.evaluate.sanity.classes import class_sensitivity
from glasshouse.evaluate.sanity.replaying import price
from glasshouse.evaluate.sanity.weights import randomise_parameters
from glasshouse.evaluate.words import sentence

Tier: TypeAlias = Literal["auto", "free", "lite", "standard"]
LITE, STANDARD = 18, 66  # forward passes per map; those that all maps of an image share are not counted
DEAREST_RERUN = 500  # passes; a method that costs more is not run again for its card


def card(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    tier: Tier = "auto",
    seed: int = 0,
    target: Target = None,
    answers: Answers | None = None,
) -> Card:
    """How far to trust an explanation: headline scores, and a plain sentence per image.

    "free" looks at the map alone. "lite" adds `srg` with 8 steps (18 forward passes per image, and 16 for random
    rankings) and, for methods that claim it, `completeness_gap`. "standard" takes 16 steps and adds `mu_fidelity` with
    32 sets (66 forward passes, and the same 16). What does not depend on the map is shared through `answers`.
    "standard" also adds `class_sensitivity` and `randomise_parameters` (two more explanations; left out for methods of
    over 500 passes: call those two yourself). Attach it with `explanation.with_card(card)`.

    The sentences judge against chance alone. "Faster" means more than three standard errors above what a random
    map scores; maps count as the same from a rank correlation of 0.9, a completeness gap as large from 5 %.
    There is no calibration on maps of known quality yet: a clear result says that a map is not random, not
    that it is good.

    Args:
        tier: "auto" is the highest that costs no more than half of what the explanation did; at least "lite".
        target: only needed where the explanation's target was a function or weights.
        answers: shared between cards of the same images, which share the price of common masks.
    """
    if tier not in ("auto", "free", "lite", "standard"):
        raise BadInput(f"tier '{tier}' is unknown.", "Use 'auto', 'free', 'lite' or 'standard'.")
    chosen = affordable(explanation, inputs) if tier == "auto" else tier
    answers = asked(model, inputs, explanation, target, answers)
    scores = shape_scores(model, inputs, explanation, seed)
    if chosen != "free":
        scores = {**tested(inputs, explanation, chosen, seed, answers), **scores}
    if chosen == "standard" and not dear(explanation, inputs):
        scores["class_sensitivity"] = class_sensitivity(model, inputs, explanation, seed=seed, answers=answers)
        scores["randomise_parameters"] = randomise_parameters(model, inputs, explanation, seed=seed)
    return Card(chosen, scores, tuple(sentence(explanation, scores, image) for image in range(len(explanation))))


def affordable(explanation: Explanation, inputs: Images) -> Literal["lite", "standard"]:
    """The highest tier within half of the explanation's own cost."""
    cost = price(explanation, inputs)
    own = 0.0 if cost is None else cost.forward + cost.backward
    needed = STANDARD if own > DEAREST_RERUN else STANDARD + 2 * own
    return "standard" if needed <= max(LITE, own / 2) else "lite"


def dear(explanation: Explanation, inputs: Images) -> bool:
    """Whether the method costs too much to be run again without being asked."""
    cost = price(explanation, inputs)
    return cost is not None and cost.forward + cost.backward > DEAREST_RERUN


def shape_scores(model: Model | nn.Module, inputs: Images, explanation: Explanation, seed: int) -> dict[str, Score]:
    """What the map alone says, and the gap that the method measured itself."""
    scores = {
        "sparseness": sparseness(model, inputs, explanation),
        "entropy": entropy(model, inputs, explanation),
        "sign_balance": sign_balance(model, inputs, explanation),
        "edge_correlation": edge_correlation(model, inputs, explanation, seed=seed),
    }
    gap = own_gap(explanation)
    return scores if gap is None else {"completeness_gap": gap, **scores}


def tested(
    inputs: Images, explanation: Explanation, tier: Tier, seed: int, answers: Answers | None
) -> dict[str, Score]:
    """What perturbing the image says: one pass over the questions of all these metrics together."""
    standard, heatmap = tier == "standard", explanation.heatmap.to(inputs.device)
    if answers is None:
        names = ("srg", "mu_fidelity") if standard else ("srg",)
        return {name: undefined(name, explanation, "custom_target") for name in names}
    plans: list[Metric] = [gain_plan(heatmap, 16 if standard else 8, "prob", "blur", None, seed)]
    if standard:
        plans.append(fidelity_plan(heatmap, 32, None, 0.2, "logit", "blur", seed))
    baseline = silent_value(explanation)
    if not isinstance(baseline, str) and own_gap(explanation) is None:
        plans.append(gap_plan(explanation, baseline, own_score(explanation)))
    return measure(answers, plans)


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of all metrics that match: `list_metrics("*fidelity*")`."""
    return [name.partition(".")[2] for name in list_methods(f"evaluate.{pattern}")]
