"""Backward passes with another rule for ReLU: pictures of what excites a unit, weak as evidence for a class."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from glasshouse.core import RELU, RELU6, Cost, Images, NothingMatched, Reading, Target, method, rules, select
from glasshouse.core.backward import (
    GATES,
    SMOOTH,
    DeconvReLU,
    DeconvReLU6,
    GuidedReLU,
    GuidedReLU6,
    Rule,
    guided,
)
from glasshouse.core.gradient import gradient

Others = Literal["error", "pass", "guided"]
RECOVERY = (
    "largely recovers the image whatever the class (Nie, Zhang and Patel, ICML 2018); "
    "do not read it as evidence for this class"
)


@method(
    reduction="max_abs",
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "implementation", "silent", "equivariant", "input_invariant"),
    class_sensitive=False,
    warning=RECOVERY,
    paper="Springenberg et al., ICLR workshop 2015",
)
def guided_backprop(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    score: Reading = "logit",
    others: Others = "error",
) -> Images:
    """The gradient, with only positive signals passed back, and only through active ReLUs.

        R_in = max(R_out, 0) * [z > 0]   at every ReLU with input z

    Springenberg et al., "Striving for simplicity", ICLR workshop 2015, sec. 3.4. ReLU6 opens where 0 < z < 6.

    Args:
        others: what to do at other activation functions: "error"; "pass" the plain gradient; "guided", our
            generalisation: signal and local slope are both clamped at 0.
    """
    table: dict[str, Rule] = {RELU: GuidedReLU.apply, RELU6: GuidedReLU6.apply}
    if others == "guided":
        table |= {kind: guided(function) for kind, function in SMOOTH.items()}
    return with_rules(model, inputs, target, score, table, others)


@method(
    reduction="max_abs",
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "implementation", "silent", "equivariant", "input_invariant"),
    class_sensitive=False,
    warning=RECOVERY,
    paper="Zeiler & Fergus, ECCV 2014",
)
def deconvnet(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    score: Reading = "logit",
    others: Literal["error", "pass"] = "error",
) -> Images:
    """The gradient, with positive signals passed back at every ReLU whether it was active or not.

        R_in = max(R_out, 0)   at every ReLU

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, sec. 2.1. Max-pooling sends
    the signal to the recorded maximum and convolution uses the transposed filter, which is what the gradient does.
    """
    return with_rules(model, inputs, target, score, {RELU: DeconvReLU.apply, RELU6: DeconvReLU6.apply}, others)


def with_rules(
    model: nn.Module,
    inputs: Images,
    target: Target,
    score: Reading,
    table: Mapping[str, Rule],
    others: Others,
) -> Images:
    """The gradient under a table of rules; activations outside the table are an error unless they may pass."""
    inputs = inputs.requires_grad_()
    with rules(table) as active:
        y = select(model(inputs), target, score)
    strange = [kind for kind in active.seen if kind not in table and kind not in GATES]
    if strange and others != "pass":
        raise NothingMatched(
            f"this network mixes ReLU with {', '.join(strange)}, for which the method has no rule.",
            "Give others='pass' to let the plain gradient through them.",
        )
    return gradient(y, inputs)
