"""Class activation maps: a layer's units, summed with one weight per unit."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glasshouse.core import (
    BadModel,
    Cost,
    Images,
    LayerMaps,
    Reading,
    Target,
    geometry,
    method,
    probe,
    select,
    unit_maps,
)
from glasshouse.core.field import views
from glasshouse.core.gradient import gradient
from glasshouse.core.layers import LayerGeometry, describe, learnt
from glasshouse.core.target import logits
from glasshouse.core.trace import Trace, plain_attention, tensors, written

POOLINGS = ("adaptive_avg_pool2d", "avg_pool2d", "mean")
RESHAPINGS = ("flatten", "reshape", "view", "squeeze", "dropout", "__getitem__", "contiguous")


@method(
    cost=lambda settings, shape: Cost(1, 1),
    claims=("dummy", "implementation", "silent", "equivariant"),
    paper="Selvaraju et al., ICCV 2017",
)
def grad_cam(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    layer: str | None = None,
    score: Reading = "logit",
) -> LayerMaps:
    """Units of a layer, weighted by how much each raises the target score.

        L = relu(sum_k a_k A_k),   a_k = mean_ij dy / dA_k,ij

    Selvaraju et al., "Grad-CAM", ICCV 2017, eqs. 1-2.

    Args:
        layer: usually the last one with positions (None takes it); earlier layers are sharper and noisier.
    """
    layer = geometry(model, inputs).usual() if layer is None else layer
    units = unit_maps(model, inputs, layer)
    with probe(model, layer) as seen:
        y = select(model(inputs.requires_grad_()), target, score)
    maps = units.maps(seen[layer])
    weight = reduce(units.maps(gradient(y, seen[layer])), "n k i j -> n k", "mean")
    return einsum(weight, maps, "n k, n k i j -> n i j").relu()


@method(
    cost=lambda settings, shape: Cost(1),
    claims=("dummy", "implementation", "silent", "equivariant"),
    paper="Zhou et al., CVPR 2016",
)
def cam(model: nn.Module, inputs: Images, target: Target = None, *, score: Reading = "logit") -> LayerMaps:
    """What each position adds to the class score, in a network that ends in average pooling and one linear layer.

        M_c(i, j) = sum_k W_ck A_k,ij,   mean_ij M_c(i, j) + b_c = y_c

    Zhou et al., "Learning deep features for discriminative localization", CVPR 2016, eq. 2. Signed: no ReLU.
    """
    head = learnt(model, inputs, pooled_head)
    with torch.no_grad(), plain_attention(), Catch(head.pool, head.linear) as caught:
        output = logits(model(inputs))
    _, weight, *bias = caught.given[head.linear]
    maps, weight = head.positions.maps(caught.given[head.pool][0]), weight.flatten(1)
    if maps.shape[1] != weight.shape[1]:
        raise no_pooled_head(model)
    again = F.linear(reduce(maps, "n k i j -> n k", "mean"), weight, *bias)
    if not torch.allclose(again, output, rtol=1e-3, atol=1e-3 * float(output.abs().max())):
        raise no_pooled_head(model)
    leaf = torch.zeros_like(output, requires_grad=True)
    share = gradient(select(output + leaf, target, score), leaf)
    return einsum(share, weight, maps, "n c, c k, n k i j -> n i j")


@dataclass(frozen=True)
class PooledHead:
    """Average pooling, then one linear layer: the numbers of the two operations, and how the pooled maps lie."""

    pool: int
    linear: int
    positions: LayerGeometry


def pooled_head(model: nn.Module, trace: Trace) -> PooledHead:
    """Find the head by walking back from the last operation; anything but reshaping on the way is an error."""
    makers = {value: number for number, op in enumerate(trace.ops) for value in op.outputs}
    number, linear = len(trace.ops) - 1, -1
    while number >= 0:
        op = trace.ops[number]
        shape = trace.shapes[op.outputs[0]]
        if op.name in ("linear", "conv2d") and linear < 0:
            linear = number
        elif op.name in POOLINGS and linear >= 0 and (len(shape) == 2 or shape[-2:] == (1, 1)):
            pooled = op.inputs[0]
            view = views(trace).get(pooled)
            positions = describe("", "", view, trace.shapes[pooled], 1, trace)
            if "k" in positions.axes and positions.axes != "nk":
                return PooledHead(number, linear, positions)
            break
        elif op.name not in RESHAPINGS:
            break
        number = makers.get(op.inputs[0], -1)
    raise no_pooled_head(model)


def no_pooled_head(model: nn.Module) -> BadModel:
    return BadModel(
        f"{type(model).__name__} does not end in average pooling and one linear layer, which CAM needs.",
        "Use grad_cam, which equals it where both exist.",
    )


class Catch(TorchFunctionMode):
    """Keeps the tensors that some operations of a forward pass are given, by their numbers in its record."""

    def __init__(self, *numbers: int):
        super().__init__()
        self.numbers, self.done, self.given = numbers, 0, dict[int, list[Tensor]]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if written(func.__name__, args, out):
            if self.done in self.numbers:
                self.given[self.done] = tensors((args, kwargs))
            self.done += 1
        return out
