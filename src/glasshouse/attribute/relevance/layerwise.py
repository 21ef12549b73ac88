"""Layer-wise relevance propagation, and the report of where the relevance of a score ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.attribute.relevance.engine import Relevance
from glasshouse.attribute.relevance.ledger import Ledger
from glasshouse.attribute.relevance.policy import Norm, Others, Policy
from glasshouse.attribute.relevance.rules import Bound, Preset, Rule, preset_rules
from glasshouse.core import (
    Cost,
    Images,
    Model,
    NothingMatched,
    Noun,
    Reading,
    Target,
    borrow,
    method,
    registered,
    select,
)
from glasshouse.core.flow import flowing
from glasshouse.core.gradient import connected, gradient
from glasshouse.core.lift import checked_images
from glasshouse.core.target import logits

Start = Literal["score", "one"]


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "silent", "equivariant", "linear"),
    paper="Bach et al., PLOS ONE 2015",
)
def lrp(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    preset: Preset = "epsilon_plus",
    rules: Mapping[str, Rule] | None = None,
    epsilon: float = 1e-6,
    low: Bound | None = None,
    high: Bound | None = None,
    bn: Norm = "eps",
    others: Others = "error",
    start: Start = "score",
    score: Reading = "logit",
) -> tuple[Images, dict[str, Tensor]]:
    """How much of the score each input value is responsible for, dealt out layer by layer.

        R_i = sum_j  x_i w_ij / (sum_i x_i w_ij + b_j) * R_j   and its variants

    Bach et al., "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation",
    PLOS ONE 2015, eqs. 3 and 58-60. Presets as in Zennit (Anders et al., 2021), attention as in AttnLRP (Achtibat et
    al., ICML 2024).
    Differs: batch norms are folded into the convolution they follow; a gate (squeeze and excitation) is a constant.

    Args:
        preset: rules by kind: `epsilon_plus` takes epsilon at linear layers and z-plus at convolutions.
        rules: further rules by name of layer (wildcards allowed), `first`, `convolution` or `linear`; they come before
            those of the preset.
        epsilon: added to denominators, away from 0; 0 for the preset `zero`.
        low, high: least and greatest value of a pixel, for `epsilon_gamma_box`; None takes each channel's in the image.
        bn: a batch norm that follows no convolution: "eps", an affine operation; "pass", as if it were not there.
        others: what to do where an operation without a rule receives relevance.
        start: relevance of the output: the score itself, or 1, as in Zennit.
    """
    policy = policy_of(inputs, preset, rules, epsilon, (low, high), bn, others)
    return propagate(model, inputs, target, policy, start, score)


def policy_of(
    inputs: Images,
    preset: Preset,
    rules: Mapping[str, Rule] | None,
    epsilon: float,
    box: tuple[Bound | None, Bound | None],
    bn: Norm,
    others: Others,
) -> Policy:
    low, high = box
    pixels = inputs.detach()
    least = pixels.amin((2, 3), keepdim=True) if low is None else low
    greatest = pixels.amax((2, 3), keepdim=True) if high is None else high
    table = {**preset_rules(preset, (least, greatest)), **(rules or {})}
    return Policy(table, 0.0 if preset == "zero" else epsilon, bn, others)


def propagate(
    model: nn.Module,
    inputs: Images,
    target: Target,
    policy: Policy,
    start: Start,
    score: Reading,
    ledger: Ledger | None = None,
) -> tuple[Images, dict[str, Tensor]]:
    """Relevance of every input value, and sums for each image."""
    inputs = inputs.requires_grad_()
    flow = Relevance(policy, ledger)
    with flowing(flow, model):
        output = logits(model(inputs.clone()))
    given = relevance_of_output(output, target, score, start)
    if unmet := set(policy.rules) - flow.met - {"first", "convolution", "linear"}:
        raise NothingMatched(
            f"no convolution or linear layer is called {', '.join(map(repr, sorted(unmet)))}.",
            "Name layers as `glasshouse list layers` shows them.",
        )
    connected(output)
    (found,) = torch.autograd.grad(output, inputs, given, allow_unused=True, materialize_grads=True)
    sums = given.double().flatten(1).sum(1), found.double().flatten(1).sum(1)
    return found, {"start": sums[0].to(found.dtype), "absorbed": (sums[0] - sums[1]).to(found.dtype)}


def relevance_of_output(output: Tensor, target: Target, score: Reading, start: Start) -> Tensor:
    """Where relevance begins: the gradient of the score by the output (1 at a class), or that times the output."""
    leaf = output.detach().requires_grad_()
    slope = gradient(select(leaf, target, score), leaf)
    return slope * leaf.detach() if start == "score" else slope


@dataclass(frozen=True, repr=False)
class Conservation(Noun):
    """Where the relevance of a score went, operation by operation in forward order, summed over the images.

    Operations that only move or pass relevance are left out.

    Args:
        start: relevance of the output.
        end: relevance of the input values.
        operations, layers: what each row is, and where in the model.
        received, passed: relevance that arrived at the operation, and that it gave to its inputs.
        bias, stabiliser: relevance that its constants and its denominators kept, each from its own formula.
    """

    start: float
    end: float
    operations: tuple[str, ...]
    layers: tuple[str, ...]
    received: Float[Tensor, " p"]
    passed: Float[Tensor, " p"]
    bias: Float[Tensor, " p"]
    stabiliser: Float[Tensor, " p"]

    def __repr__(self) -> str:
        return f"Conservation({self.start:.4g} → {self.end:.4g}, absorbed {self.absorbed:.4g}, gap {self.gap:.1e})"

    @property
    def absorbed(self) -> float:
        """All that biases and stabilisers kept."""
        return float(self.bias.sum() + self.stabiliser.sum())

    @property
    def gap(self) -> float:
        """`start - end - absorbed`: zero up to rounding, unless relevance was lost on the way."""
        return self.start - self.end - self.absorbed

    @property
    def gaps(self) -> Float[Tensor, " p"]:
        """The same for each operation."""
        return self.received - self.passed - self.bias - self.stabiliser


@registered("attribute", cost=lambda settings, shape: Cost(1, 1), paper="Bach et al., PLOS ONE 2015")
def conservation(
    model: Model | nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    preset: Preset = "epsilon_plus",
    rules: Mapping[str, Rule] | None = None,
    epsilon: float = 1e-6,
    low: Bound | None = None,
    high: Bound | None = None,
    bn: Norm = "eps",
    others: Others = "error",
    start: Start = "score",
    score: Reading = "logit",
) -> Conservation:
    """Where the relevance that `lrp` deals out ended: in pixels, in biases, in stabilisers.

        start = sum_i R_i + absorbed by biases + absorbed by stabilisers

    Bach et al., PLOS ONE 2015, eq. 2, which asks for conservation. The arguments are those of `lrp`.
    """
    images, ledger = checked_images(inputs), Ledger()
    with borrow(model, images) as network:
        images = images.detach().clone()
        policy = policy_of(images, preset, rules, epsilon, (low, high), bn, others)
        found, sums = propagate(network, images, target, policy, start, score, ledger)
    rows = [entry for entry in ledger.entries if entry.reached]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)

    return Conservation(
        float(sums["start"].double().sum()),
        float(found.double().sum()),
        tuple(row.operation for row in rows),
        tuple(row.layer for row in rows),
        *(column(name) for name in ("received", "passed", "bias", "stabiliser")),
    )
