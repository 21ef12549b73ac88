"""Rewrites of a private copy that make it faster and leave its function as it is, up to rounding."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import wrap_torch_function

from glasshouse.core.trace import Trace

LEAST_WORK = 2**22  # products in a linear layer, below which the choice of kernel does not matter


def fold_batch_norms(model: nn.Module, trace: Trace) -> frozenset[str]:
    """Multiply each batch norm into the convolution that alone feeds it; returns the places in between."""
    modules, between = dict(model.named_modules()), set[int]()
    makers = {value: op for op in trace.ops if op.name == "conv2d" for value in op.outputs}
    for op in trace.ops:
        maker = makers.get(op.inputs[0]) if op.name == "batch_norm" and op.inputs else None
        if maker is None or len(trace.readers(op.inputs[0])) != 1:
            continue
        conv, norm = modules.get(maker.layer), modules.get(op.layer)
        once = all(len(trace.calls.get(layer, ())) == 1 for layer in (maker.layer, op.layer))
        if not (
            once and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and shared_by_none(model, conv)
        ):
            continue
        rest = after_norm(norm)
        if rest is None or norm.running_var is None or norm.running_mean is None:
            continue
        fold(conv, norm)
        setattr(norm, "forward", rest)  # noqa: B010 - an attribute of this one object
        between.add(op.inputs[0])
    runs = [(layer, call) for layer, calls in trace.calls.items() for call in calls]
    made = {layer for layer, call in runs if between.intersection(call.outputs)}
    return frozenset(made | {f"{layer}.input" for layer, call in runs if between.intersection(call.inputs)})


def shared_by_none(model: nn.Module, conv: nn.Conv2d) -> bool:
    """Whether no other module uses this convolution's weight."""
    return sum(parameter is conv.weight for module in model.modules() for parameter in module._parameters.values()) == 1


def after_norm(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor] | None:
    """What is left of a batch-norm module once the norm itself is folded away; None if that is unknown."""
    if type(norm) is nn.BatchNorm2d:
        return _same
    if type(norm).__name__ == "BatchNormAct2d" and hasattr(norm, "act") and hasattr(norm, "drop"):
        act, drop = norm.get_submodule("act"), norm.get_submodule("drop")
        return lambda value: act(drop(_same(value)))  # timm's norm with its activation inside
    return None


class Same(torch.autograd.Function):
    """Another tensor object over the same memory, so that nobody takes the norm for the convolution.

    Not a view: writing into a view costs autograd two copies, and a view of one image forgets that it is channels-last.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _same(value: Tensor) -> Tensor:
    return Same.apply(value)


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """w ← w γ/√(v+ε),  b ← (b - m) γ/√(v+ε) + β."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    if norm.affine:
        factor = factor * norm.weight.double()
    bias = shift * factor + norm.bias.double() if norm.affine else shift * factor
    weight = conv.weight.double() * factor[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def use_channels_last(model: nn.Module, trace: Trace) -> bool:
    """Store the weights of a convolutional net channels-last and convert what comes in."""
    if sum(op.name == "conv2d" for op in trace.ops) < 3:
        return False
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    forward = model.forward
    model.forward = lambda inputs: forward(inputs.contiguous(memory_format=torch.channels_last))
    return True


class ConvolutionLinear(nn.Linear):
    """A linear layer computed as a 1×1 convolution, which some CPUs' libraries do faster."""

    def forward(self, input: Tensor) -> Tensor:
        return convolution_linear(input, self.weight, self.bias)


@wrap_torch_function(lambda inputs, weight, bias: (inputs, weight, bias))
def convolution_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`; recorded as one operation, since it means one."""
    rows = inputs.reshape(1, -1, 1, inputs.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*inputs.shape[:-1], len(weight))


def use_convolution_for_linear(model: nn.Module, trace: Trace) -> int:
    """Swap the kernel of token-wise linear layers if a short trial on the largest finds the other one faster."""
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    sizes = {
        op.layer: trace.shapes[op.inputs[0]]
        for op in trace.ops
        if op.name == "linear" and len(trace.shapes[op.inputs[0]]) > 2 and op.layer in linears
    }
    if not sizes:
        return 0

    def work(layer: str) -> int:
        return torch.Size(sizes[layer]).numel() * linears[layer].out_features

    largest = max(sizes, key=work)
    linear = linears[largest]
    if work(largest) < LEAST_WORK or not faster_as_convolution(linear, sizes[largest]):
        return 0
    for layer in sizes:
        linears[layer].__class__ = ConvolutionLinear
    return len(sizes)


def faster_as_convolution(linear: nn.Linear, shape: tuple[int, ...]) -> bool:
    """Three runs of each, alternating; the better of the first is beaten by a tenth or more."""
    inputs = torch.zeros(4 * shape[0], *shape[1:])
    weight, bias = linear.weight, linear.bias
    times: dict[str, list[float]] = {"linear": [], "convolution": []}
    for _ in range(3):
        for name, run in (("linear", F.linear), ("convolution", convolution_linear)):
            start = time.perf_counter()
            run(inputs, weight, bias)
            times[name].append(time.perf_counter() - start)
    return min(times["convolution"]) < 0.9 * min(times["linear"])
