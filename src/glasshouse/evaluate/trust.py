"""The fidelity card: how far an explanation can be trusted, in numbers and in a sentence."""

from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import nn

from glasshouse.core import BadInput, Card, Explanation, Images, Masks, Model, Score, Target
from glasshouse.core.result import Direction
from glasshouse.evaluate.axioms import gap_plan, own_gap, own_score, silent_value
from glasshouse.evaluate.complexity import edge_correlation, entropy, sign_balance, sparseness
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.curves import RANDOM_PAIRS, gain_plan
from glasshouse.evaluate.faithfulness.subsets import fidelity_plan
from glasshouse.evaluate.metric import Metric, Result, asked, measure, score_of, undefined
from glasshouse.evaluate.questions import CLEAN
from glasshouse.evaluate.sanity.classes import class_sensitivity
from glasshouse.evaluate.sanity.replaying import price, replay
from glasshouse.evaluate.sanity.weights import randomise_parameters
from glasshouse.evaluate.words import NOT_ASKED, sentence


class Budget(NamedTuple):
    """What a tier may spend on one image.

    Args:
        passes: forward passes for this map alone.
        shared: forward passes that all maps of the image share.
        explanations: times that the method is run again.
    """

    passes: int
    shared: int = 0
    explanations: int = 0


Tier: TypeAlias = Literal["auto", "free", "lite", "standard", "full"]
LUCK = 2 * RANDOM_PAIRS
SETS = 32  # of patches, for mu_fidelity
TIERS = {
    "free": Budget(0),
    "lite": Budget(2 + 2 * 8, LUCK, 2),
    "standard": Budget(2 + 2 * 16 + SETS, LUCK, 2),
    "full": Budget(2 + 2 * (2 * 16 + SETS) + 1 + 9, 2 * LUCK, 2 + 8),
}
"""What each tier may spend. One pass more is allowed for a method that claims completeness: on its own baseline."""

CHEAP_RERUN = 9  # passes; a method that costs no more is run again for the lite tier too: both runs within its 18
DEAREST_RERUN = 500  # passes; a method that costs more is not run again for its card
SECOND = "image_mean"  # what the full tier also fills in with
HEADLINES: dict[str, tuple[float | None, Direction]] = {
    "srg": (0.0, "up"),
    "mu_fidelity": (0.0, "up"),
    "completeness_gap": (None, "down"),
    "class_sensitivity": (0.0, "up"),
    "randomise_parameters": (1.0, "down"),
}
"""What every card holds besides `sparseness`, measured or with the reason why not: its chance level and direction."""

STALE = 1e-3  # how far a score may have moved, relatively, before it counts as another model's


def card(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    *,
    tier: Tier = "auto",
    masks: Masks | None = None,
    seed: int = 0,
    target: Target = None,
    answers: Answers | None = None,
) -> Card:
    """How far to trust an explanation: headline scores, and a plain sentence per image.

    - "free" looks at the map alone.
    - "lite" adds `srg` with 8 steps (18 forward passes per image, and 16 for random rankings) and, for methods that
      claim it, `completeness_gap`; for methods of up to 9 passes `class_sensitivity` and `randomise_parameters` too.
    - "standard" takes 16 steps and adds `mu_fidelity` with 32 sets (66 forward passes, and the same 16), and
      `class_sensitivity` and `randomise_parameters` (two more explanations) for methods of up to 500 passes.
    - "full" measures both of the former with a second baseline too, `srg_image_mean` and `mu_fidelity_image_mean`, and
      adds `max_sensitivity` with 8 noisy copies (140 forward passes, 32 shared, ten more explanations), and
      `relevance_mass` where `masks` are given.

    Headline scores that a tier leaves out are there all the same, undefined, with the reason "not_asked"; their
    `settings` name the `tier` that asks them and the `passes` that they take, and the sentences say so.

    What does not depend on the map is shared through `answers`. Methods of over 500 passes are not run again: call
    `class_sensitivity`, `randomise_parameters` and `max_sensitivity` yourself. Every explanation makes its own card
    when `explanation.card` is read; attach another one with `explanation.with_card(card)`.

    The sentences judge against chance alone. "Faster" means more than three standard errors above what a random
    map scores; maps count as the same from a rank correlation of 0.9, a completeness gap as large from 5 %.
    `lights` says how a value compares with those of maps that know nothing of the model.

    Args:
        tier: "auto" is the highest whose forward passes, the shared ones too, are no more than half of what the
            explanation took; at least "lite". Methods of more than 9 passes it does not run again: that costs twice as
            much as they did.
        masks: where the object is, for "full".
        target: only needed where the explanation's target was a function or weights.
        answers: shared between cards of the same images, which share the price of common masks.
    """
    if tier != "auto" and tier not in TIERS:
        raise BadInput(f"tier '{tier}' is unknown.", "Use 'auto', 'free', 'lite', 'standard' or 'full'.")
    own = own_price(explanation, inputs)
    chosen = affordable(own) if tier == "auto" else tier
    answers = asked(model, inputs, explanation, target, answers)
    scores = shape_scores(model, inputs, explanation, seed)
    if chosen != "free":
        scores = {**tested(inputs, explanation, chosen, seed, answers), **scores}
    if rerun_for(chosen, own, wanted=tier != "auto"):
        scores["class_sensitivity"] = class_sensitivity(model, inputs, explanation, seed=seed, answers=answers)
        scores["randomise_parameters"] = randomise_parameters(model, inputs, explanation, seed=seed)
        if chosen == "full":
            from glasshouse.evaluate.robustness.sensitivity import max_sensitivity

            scores["max_sensitivity"] = max_sensitivity(model, inputs, explanation, n_samples=8, seed=seed)
    if chosen == "full" and masks is not None:
        from glasshouse.evaluate.localisation.mass import relevance_mass

        scores["relevance_mass"] = relevance_mass(model, inputs, explanation, masks)
    scores |= {name: left_out(name, explanation, own, answers) for name in HEADLINES if name not in scores}
    return Card(chosen, scores, tuple(sentence(explanation, scores, image) for image in range(len(explanation))))


def own_card(explanation: Explanation) -> Card:
    """The card of an explanation that still knows its model and images; its call's other explanations share answers."""
    subject = explanation.subject
    module = subject.module() if subject else None
    if subject is None or module is None:
        raise BadInput("this explanation no longer knows its model.", "Use evaluate.card(model, images, explanation).")
    if not explanation.target:
        return card(module, subject.images, explanation)
    answers = subject.notes.setdefault(explanation.target, Answers(module, subject.images, list(explanation.target)))
    now = answers.read([CLEAN], own_score(explanation))[:, 0].to(explanation.score)
    moved = (now - explanation.score).abs() > STALE * (1 + explanation.score.abs())
    if bool(moved.any()):
        image = int(moved.nonzero()[0, 0])
        raise BadInput(
            f"the model or the images are no longer those explained: image {image} scored "
            f"{float(explanation.score[image]):.4g} and now scores {float(now[image]):.4g}.",
            "Explain again, or test this map against the model as it is: evaluate.card(model, images, explanation).",
        )
    return card(module, subject.images, explanation, answers=answers)


def own_price(explanation: Explanation, inputs: Images) -> float | None:
    """Passes that one image's explanation took; None where the method does not say."""
    cost = price(explanation, inputs)
    return None if cost is None else float(cost.forward + cost.backward)


def affordable(own: float | None) -> str:
    """The highest tier within half of the explanation's own cost, shared passes included; at least "lite"."""
    for name in ("full", "standard"):
        if TIERS[name].passes + TIERS[name].shared <= (own or 0.0) / 2:
            return name
    return "lite"


def rerun_for(tier: str, own: float | None, wanted: bool) -> bool:
    """Whether the method is run again. `wanted`: somebody chose the tier; two runs are never half the cost of one."""
    if tier == "free":
        return False
    if tier == "lite" or not wanted:
        return own is not None and own <= CHEAP_RERUN
    return own is None or own <= DEAREST_RERUN


def left_out(name: str, explanation: Explanation, own: float | None, answers: Answers | None) -> Score:
    """A headline score that was not asked; or one that cannot be, with the reason why."""
    reason, tier, passes = NOT_ASKED, "standard", own
    if name == "completeness_gap":
        baseline = silent_value(explanation)
        reason = baseline if isinstance(baseline, str) else NOT_ASKED if answers else "custom_target"
        tier, passes = "lite", 1
    elif name == "srg":
        tier, passes = "lite", TIERS["lite"].passes + LUCK
    elif name == "mu_fidelity":
        passes = SETS
    else:
        found = replay(explanation)
        reason = found if isinstance(found, str) else NOT_ASKED
        tier = "standard" if own is None or own <= DEAREST_RERUN else ""
    nothing, (chance, direction) = torch.zeros(len(explanation)), HEADLINES[name]
    settings = {"tier": tier, "passes": passes} if reason == NOT_ASKED else {}
    return score_of(name, Result(nothing, nothing, (reason,) * len(explanation)), chance, direction, settings)


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


def tested(inputs: Images, explanation: Explanation, tier: str, seed: int, answers: Answers | None) -> dict[str, Score]:
    """What perturbing the image says: one pass over the questions of all these metrics together."""
    fillings = ("blur", SECOND) if tier == "full" else ("blur",)
    plans: list[Metric] = []
    for baseline in fillings:
        mark = "" if baseline == "blur" else f"_{baseline}"
        heatmap = explanation.heatmap.to(inputs.device)
        gain = gain_plan(heatmap, 8 if tier == "lite" else 16, "prob", baseline, None, seed)
        plans.append(replace(gain, name=gain.name + mark))
        if tier != "lite":
            fidelity = fidelity_plan(heatmap, SETS, None, 0.2, "logit", baseline, seed)
            plans.append(replace(fidelity, name=fidelity.name + mark))
    if answers is None:
        return {plan.name: undefined(plan.name, explanation, "custom_target") for plan in plans}
    baseline = silent_value(explanation)
    if not isinstance(baseline, str) and own_gap(explanation) is None:
        plans.append(gap_plan(explanation, baseline, own_score(explanation)))
    return measure(answers, plans)
