"""Class activation maps of networks that end in average pooling and one linear layer, where they are exact."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glasshouse.core import BadModel, Cost, Images, LayerMaps, Reading, Target, Units, method, select
from glasshouse.core.field import views
from glasshouse.core.gradient import gradient
from glasshouse.core.layers import LayerGeometry, describe, learnt
from glasshouse.core.target import logits
from glasshouse.core.trace import Trace, plain_attention, tensors, written

POOLINGS = ("adaptive_avg_pool2d", "avg_pool2d", "mean")
RESHAPINGS = ("flatten", "reshape", "view", "squeeze", "dropout", "__getitem__", "contiguous")
UNIT_BY_UNIT = ("relu", "relu_", "relu6", "hardtanh", "leaky_relu", "silu", "hardswish", "gelu", "tanh", "dropout")
"""Operations on one value at a time that leave 0 as it is, so that a unit that was silent before is so behind."""


@method(
    cost=lambda settings, shape: Cost(1),
    claims=("dummy", "implementation", "silent", "equivariant", "linear", "input_invariant"),
    paper="Zhou et al., CVPR 2016",
)
def cam(model: nn.Module, inputs: Images, target: Target = None, *, score: Reading = "logit") -> LayerMaps:
    """What each position adds to the class score, in a network that ends in average pooling and one linear layer.

        M_c(i, j) = sum_k W_ck A_k,ij,   mean_ij M_c(i, j) + b_c = y_c

    Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, eq. 2. Signed: no ReLU.
    """
    pooled = read_head(model, inputs, learnt(model, inputs, pooled_head))
    leaf = torch.zeros_like(pooled.output, requires_grad=True)
    share = gradient(select(pooled.output + leaf, target, score), leaf)
    return einsum(share, pooled.weight, pooled.maps, "n c, c k, n k i j -> n i j")


@dataclass(frozen=True)
class PooledHead:
    """Average pooling, then one linear layer: the numbers of the two operations, and how the pooled maps lie.

    Args:
        makers: layers with nothing but `UNIT_BY_UNIT` between them and the pooling, and the operation that makes
            the output of each.
    """

    pool: int
    linear: int
    positions: LayerGeometry
    makers: dict[str, int]


@dataclass(frozen=True)
class Pooled:
    """What a pooled head was given for some images, and what it made of it.

    Args:
        maps: what is averaged.
        weight: of each class (c) for each unit.
        layer: the output of the layer that was asked for.
    """

    maps: Units
    weight: Float[Tensor, "c k"]
    output: Float[Tensor, "n c"]
    layer: Tensor | None = None


def read_head(model: nn.Module, inputs: Images, head: PooledHead | None, layer: str | None = None) -> Pooled:
    """Run the model once, and read the values at its head; a head that computes something else is an error."""
    if head is None:
        raise no_pooled_head(model)
    made = None if layer is None else head.makers[layer]
    with torch.no_grad(), plain_attention(), Catch(head.pool, head.linear, made=made) as caught:
        output = logits(model(inputs))
    _, weight, *bias = caught.given[head.linear]
    maps, weight = head.positions.maps(caught.given[head.pool][0]), weight.flatten(1)
    if maps.shape[1] != weight.shape[1]:
        raise no_pooled_head(model)
    again = F.linear(reduce(maps, "n k i j -> n k", "mean"), weight, *bias)
    if not torch.allclose(again, output, rtol=1e-3, atol=1e-3 * float(output.abs().max())):
        raise no_pooled_head(model)
    return Pooled(maps, weight, output, caught.output)


def pooled_head(model: nn.Module, trace: Trace) -> PooledHead | None:
    """Find the head by walking back from the last operation; None where more than reshaping is on the way."""
    makers = {value: number for number, op in enumerate(trace.ops) for value in op.outputs}
    number, linear = len(trace.ops) - 1, -1
    while number >= 0:
        op = trace.ops[number]
        shape = trace.shapes[op.outputs[0]]
        if op.name in ("linear", "conv2d") and linear < 0:
            linear = number
        elif op.name in POOLINGS and linear >= 0 and (len(shape) == 2 or shape[-2:] == (1, 1)):
            pooled = op.inputs[0]
            positions = describe("", "", views(trace).get(pooled), trace.shapes[pooled], 1, trace)
            known = "k" in positions.axes and positions.axes != "nk"
            return PooledHead(number, linear, positions, feeders(trace, makers, pooled)) if known else None
        elif op.name not in RESHAPINGS:
            return None
        number = makers.get(op.inputs[0], -1)
    return None


def feeders(trace: Trace, makers: dict[int, int], value: int) -> dict[str, int]:
    """Layers that give out `value`, or what becomes it unit by unit, and the operations that make their outputs."""
    found: dict[int, int] = {}
    while value in makers:
        found[value] = makers[value]
        op = trace.ops[makers[value]]
        if op.name not in UNIT_BY_UNIT:
            break
        value = op.inputs[0]
    last = {name: runs[0].outputs[:1] for name, runs in trace.calls.items() if len(runs) == 1}
    return {name: found[made[0]] for name, made in last.items() if made and made[0] in found}


def no_pooled_head(model: nn.Module) -> BadModel:
    return BadModel(
        f"{type(model).__name__} does not end in average pooling and one linear layer, which CAM needs.",
        "Use grad_cam, which equals it where both exist, or hires_cam for its signed values.",
    )


class Catch(TorchFunctionMode):
    """Keeps the tensors that some operations of a forward pass are given, by their numbers in its record.

    Args:
        made: the operation whose output is kept too, as it is before anything writes into it.
    """

    def __init__(self, *numbers: int, made: int | None = None):
        super().__init__()
        self.numbers, self.made, self.done = numbers, made, 0
        self.given, self.output = dict[int, list[Tensor]](), None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if new := written(func.__name__, args, out):
            if self.done in self.numbers:
                self.given[self.done] = tensors((args, kwargs))
            if self.done == self.made:
                self.output = new[0].clone()
            self.done += 1
        return out
