"""Excitation backprop: a signal that starts at the class and is dealt out among the positive inputs that excite it."""

from dataclasses import replace
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn

from glasshouse.attribute.relevance.engine import Relevance
from glasshouse.attribute.relevance.layerwise import relevance_of_output
from glasshouse.attribute.relevance.policy import Others, Policy, Residual
from glasshouse.attribute.relevance.rules import Rule, Share
from glasshouse.attribute.relevance.sums import Weighted
from glasshouse.core import (
    Cost,
    Images,
    LayerMaps,
    NothingMatched,
    Reading,
    Target,
    geometry,
    method,
    probe,
    unit_maps,
)
from glasshouse.core.flow import Operation, flowing
from glasshouse.core.gradient import connected
from glasshouse.core.target import logits

PIXELS = ".input"


def excite(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None) -> tuple[Share, ...]:
    """Everything to positive inputs with positive weights."""
    return (Share(((x.clamp(min=0), w.clamp(min=0)),), None),)


def contrast(x: Tensor, w: Tensor, b: Tensor | None, z: Tensor | None) -> tuple[Share, ...]:
    """The same, less what a dual unit with the opposite weights would give."""
    return *excite(x, w, b, z), replace(excite(x, -w, b, z)[0], amount=-1.0)


POLICY = Policy(
    {"convolution": Rule("excitation", excite), "linear": Rule("excitation", excite)},
    epsilon=0.0,
    bn="pass",
    gates=frozenset({"sigmoid", "hardsigmoid", "softmax"}),
    excitation=True,
)


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "silent", "equivariant", "input_invariant"),
    paper="Zhang et al., ECCV 2016",
)
def excitation_backprop(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    residual: Residual = "positive",
    others: Others = "error",
    score: Reading = "logit",
) -> LayerMaps:
    """The probability that a walk from the class down the excitatory connections passes each position of a layer.

        P(a_i) = sum_j  a_i max(w_ij, 0) / (sum_i a_i max(w_ij, 0)) * P(a_j)

    Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, eqs. 2-5. Starts with 1 at the class.
    Differs: inputs below 0 (behind GELU, in the stream of a transformer) count as 0; through attention it goes by the
    values only.

    Args:
        layer: the map is the sum over this layer's units; None takes the usual layer, ".input" the pixels.
        residual: "positive", a branch below 0 gets nothing; "signed", it gets less than nothing and the other one more
            than all, as in TorchRay, so that the map is no longer a probability.
    """
    return walk(model, inputs, target, layer, residual, others, score)


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "silent", "equivariant", "input_invariant"),
    paper="Zhang et al., ECCV 2016",
)
def contrastive_excitation_backprop(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    residual: Residual = "positive",
    others: Others = "error",
    score: Reading = "logit",
) -> LayerMaps:
    """Where the class is excited more than its dual, a unit with the opposite weights, would be.

        max(0, P - P_dual)

    Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, sec. 3.3.

    The paper subtracts at a layer of choice; as everything below the last weighted sum is linear in the signal, the
    choice changes nothing, and the difference is taken there.
    """
    return walk(model, inputs, target, layer, residual, others, score, contrasted=True).clamp(min=0)


def walk(
    model: nn.Module,
    inputs: Images,
    target: Target,
    layer: str | None,
    residual: Residual,
    others: Others,
    score: Reading,
    contrasted: bool = False,
) -> LayerMaps:
    """Run the network once, and the signal down to a layer."""
    layer = geometry(model, inputs).usual() if layer is None else layer
    units = None if layer == PIXELS else unit_maps(model, inputs, layer)
    inputs, flow = inputs.requires_grad_(), Relevance(replace(POLICY, residual=residual, others=others))
    with probe(model, *([layer] if units else [])) as seen, flowing(flow, model):
        output = logits(model(inputs.clone()))
    slope = relevance_of_output(output, target, score, "one").clamp(min=0)
    total = slope.flatten(1).sum(1).view(-1, *[1] * (slope.ndim - 1))
    start = slope / total.clamp(min=torch.finfo(slope.dtype).tiny)
    if contrasted:
        flow.instead = dict.fromkeys(last_sums(output), contrast)
    place = seen[layer] if units else inputs
    connected(output)
    (signal,) = torch.autograd.grad(output, place, start, allow_unused=True, materialize_grads=True)
    if contrasted and not flow.used:
        raise NothingMatched(
            f"layer '{layer}' does not lie below the last weighted sum, where the contrast is made.",
            "Name an earlier layer.",
        )
    return reduce(units.maps(signal) if units else signal, "n k i j -> n i j", "sum")


def last_sums(output: Tensor) -> list[Operation]:
    """The weighted sums that the output is made of, without others in between: as a rule one, the classifier."""
    todo, met, found = [output.grad_fn], set[Any](), list[Operation]()
    while todo:
        node: Any = todo.pop()
        if node is None or node in met:
            continue
        met.add(node)
        note = getattr(node, "note", None)
        if isinstance(note, Weighted):
            found.append(note.operation)
        else:
            todo += [parent for parent, _ in node.next_functions]
    return found
