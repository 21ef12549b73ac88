"""How strongly a layer's units are wired: the sizes of the weights before and behind them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import Images
from glasshouse.core.activations import find
from glasshouse.core.trace import Op, Trace, record

GATES = {"relu", "relu_", "relu6", "hardtanh", "leaky_relu", "silu", "hardswish", "gelu", "tanh", "sigmoid", "dropout"}
POOLINGS = {"max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d", "mean"}
RESHAPINGS = {"flatten", "reshape", "view", "squeeze", "permute", "contiguous", "__get__"}
KEEPS_UNITS = GATES | POOLINGS | RESHAPINGS | {"batch_norm"}
WEIGHTED = ("conv2d", "linear")


def weight_norms(
    model: nn.Module, image: Images, layer: str, n_units: int
) -> tuple[Float[Tensor, " u"], Float[Tensor, " u"]]:
    """L1 norms of each unit's incoming and outgoing weights: NaN where no single convolution or linear layer is next.

    Operations on each unit by itself (an activation function, a batch norm, pooling) may lie between.
    """
    trace = record(model, image)
    nothing = torch.full((n_units,), torch.nan, dtype=torch.float64)
    at_input, name = find(model, layer).at_input, layer.split("#")[0]
    runs = trace.calls.get(name.removesuffix(".input") if at_input else name, [])
    if len(runs) != 1:
        return nothing, nothing
    value = (runs[0].inputs if at_input else runs[0].outputs)[0]
    before, behind = weight_of(model, maker(trace, value)), weight_of(model, reader(trace, value))
    incoming = before.flatten(1).sum(1) if before is not None and len(before) == n_units else nothing
    outgoing = nothing if behind is None else by_input(behind, reader(trace, value), n_units)
    return incoming, nothing if outgoing is None else outgoing


def maker(trace: Trace, value: int) -> Op | None:
    """The weighted operation that a value comes from, through operations that keep units apart."""
    made = {output: op for op in trace.ops for output in op.outputs}
    while (op := made.get(value)) and op.name in KEEPS_UNITS:
        value = op.inputs[0]
    return op


def reader(trace: Trace, value: int) -> Op | None:
    """The weighted operation that alone reads a value, through operations that keep units apart."""
    while len(readers := trace.readers(value)) == 1:
        op = trace.ops[readers[0]]
        if op.name not in KEEPS_UNITS:
            return op
        value = op.outputs[0]
    return None


def weight_of(model: nn.Module, op: Op | None) -> Float[Tensor, "o i *kernel"] | None:
    """Sizes of the weights of an operation, in float64."""
    if op is None or op.name not in WEIGHTED:
        return None
    weight = getattr(model.get_submodule(op.layer), "weight", None)
    fits = isinstance(weight, Tensor) and weight.shape == op.args[1]
    return weight.detach().cpu().double().abs() if isinstance(weight, Tensor) and fits else None


def by_input(weight: Float[Tensor, "o i *kernel"], op: Op | None, n_units: int) -> Float[Tensor, " u"] | None:
    """Sums over all outputs, for each input unit; a flattened unit has one input for every position."""
    assert op is not None
    groups = 1
    if op.name == "conv2d" and weight.shape[1] < n_units:
        groups = n_units // weight.shape[1]
    inputs = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    summed = inputs.unflatten(0, (groups, -1)).sum(1).flatten()
    return summed.unflatten(0, (n_units, -1)).sum(1) if len(summed) % n_units == 0 else None
