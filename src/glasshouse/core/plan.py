"""The private fast copy of a model that methods run on.

Made once per model and device, from a deep copy, so the user's module is never touched: batch norms folded into the
convolutions before them, channels-last memory, and the faster of two kernels for linear layers. Each step computes the
same function up to rounding, and the copy is checked against the untouched model on the first images it meets.
"""

import copy
import logging
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import wrap_torch_function

from glasshouse.core.backward import python_module
from glasshouse.core.errors import BadModel, GlasshouseError
from glasshouse.core.target import logits
from glasshouse.core.trace import Trace, evaluating, plain_attention, record, structure

log = logging.getLogger("glasshouse")
TOLERANCE = 1e-4  # of the range of the logits
SHORT = 2**14  # values in a weight, up to which it is read together with the other short ones
LEAST_WORK = 2**22  # products in a linear layer, below which the choice of kernel does not matter


class TrainingModeWarning(UserWarning):
    """The model was in training mode, where images of a batch influence each other; it was run in evaluation mode."""


@dataclass(frozen=True)
class Plan:
    """A model to run, and what was done to it. `private` is false where the user's own module has to be used.

    `folded` names the places that no longer give what the user's module gives there, because a norm was folded in.
    """

    model: nn.Module
    steps: tuple[str, ...]
    private: bool
    folded: frozenset[str] = frozenset()


@dataclass
class Entry:
    plans: dict[Any, Plan]
    fingerprint: tuple[Any, ...]


_entries: WeakKeyDictionary[nn.Module, Entry] = WeakKeyDictionary()
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock that a method holds while it uses a model; models are shared between threads."""
    with _guard:
        return _locks.setdefault(model, threading.RLock())


def prepare(model: nn.Module, inputs: Tensor, layers: Sequence[str] = (), exact: bool = False) -> Plan:
    """The plan for a model, built at the first call and whenever weights have changed.

    Args:
        layers: layers that will be read or edited; if a folded convolution is among them, all norms stay apart.
        exact: no change of any operation, for rules that look at the operations themselves.
    """
    model = python_module(model)
    if reason := not_copyable(model):
        return Plan(model, (reason,), private=False)
    fingerprint = structure(model), weights_fingerprint(model)
    with _guard:
        entry = _entries.get(model)
    if entry is None or entry.fingerprint != fingerprint:
        entry = Entry({}, fingerprint)
        with _guard:
            _entries[model] = entry
    key = (inputs.device, inputs.dtype, exact)
    plan = entry.plans.get(key) or build(model, inputs, exact)
    if plan.private:  # the user's own module is not kept, or it would never be freed
        entry.plans[key] = plan
    if plan.folded.intersection(name.split("#")[0] for name in layers):
        apart = (*key, "apart")
        if apart not in entry.plans:
            entry.plans[apart] = build(model, inputs, exact, fold=False)
        plan = entry.plans[apart]
    return plan


def not_copyable(model: nn.Module) -> str:
    """Why a copy could differ: hooks may do anything, and a `forward` set on an instance refers to the original."""
    modules = list(model.modules())
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules):
        return "the model itself, for its hooks"
    if any("forward" in vars(module) for module in modules):
        return "the model itself, for a forward set on an instance"
    return ""


def build(model: nn.Module, inputs: Tensor, exact: bool, fold: bool = True) -> Plan:
    """Copy, speed up, compare; where any of that fails, the user's own module."""
    try:
        private = copy.deepcopy(model).eval()
    except Exception as error:  # anything may happen in a user's __deepcopy__
        log.info("%s cannot be copied (%s); methods run on the model itself.", type(model).__name__, error)
        return Plan(model, ("the model itself, which cannot be copied",), private=False)
    private.requires_grad_(False)
    if exact:
        return Plan(private, ("a copy",), private=True)
    image, steps, folded = inputs[:1].detach(), ["a copy"], frozenset[str]()
    with torch.no_grad(), plain_attention():
        reference = logits(private(image))
        trace = record(private, image)
        if fold and inputs.dtype in (torch.float32, torch.float64):
            folded = fold_batch_norms(private, trace)
            steps += ["batch norms folded"] if folded else []
        if inputs.dtype != torch.float64 and use_channels_last(private, trace):
            steps.append("channels last")
        if inputs.device.type == "cpu" and inputs.dtype == torch.float32:
            swapped = use_convolution_for_linear(private, trace)
            steps += [f"{swapped} linear layers as convolutions"] if swapped else []
        result = logits(private(image))
    gap, span = float((result - reference).abs().max()), float(reference.max() - reference.min())
    tolerance = TOLERANCE if inputs.dtype in (torch.float32, torch.float64) else 0.05
    if not gap <= tolerance * span + 1e-6:
        log.warning(
            "the fast copy of %s differs by %.1e (range %.1e); an unchanged copy is used.",
            type(model).__name__,
            gap,
            span,
        )
        return Plan(copy.deepcopy(model).eval().requires_grad_(False), ("a copy",), private=True)
    return Plan(private, tuple(steps), private=True, folded=folded)


def weights_fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Changes when weights change, by whatever route: place, version and a digest of every parameter and buffer."""
    weights = [*model.parameters(), *model.buffers()]
    small, runs = dict[Any, list[Tensor]](), list[Tensor]()
    for weight in weights:
        values = weight.detach().reshape(-1)
        if len(values) < SHORT:
            small.setdefault((values.device, values.dtype), []).append(values)
        else:
            runs.append(values)
    with torch.no_grad():
        digests = [digest(values).cpu() for values in [*runs, *(torch.cat(group) for group in small.values())]]
    joined = torch.cat(digests) if digests else torch.empty(0)
    if not joined.isfinite().all():
        check_weights(model)
    places = tuple((weight.data_ptr(), version(weight)) for weight in weights)
    return hash(places), hash(joined.numpy().tobytes())


def digest(values: Tensor, width: int = 4096) -> Tensor:
    """Each run of `width` values as one number: their product with a fixed row of irregular ones.

    One pass over memory, as a sum is; but values that change places change it too.
    """
    if not values.is_floating_point() or values.dtype.itemsize < 4:
        values = values.float()
    row, whole = irregular(width, values.device).to(values.dtype), len(values) // width * width
    rest = torch.dot(values[whole:], row[: len(values) - whole])[None]
    return torch.cat([torch.mv(values[:whole].view(-1, width), row), rest]).double()


@cache
def irregular(n: int, device: torch.device) -> Tensor:
    """Numbers in 0.5…1.5, none like another."""
    return (torch.arange(1, n + 1, device=device) * 0.6180339887).frac() + 0.5


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


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


@contextmanager
def untouched(model: nn.Module) -> Generator[None]:
    """Evaluation mode for the length of the `with`, under the model's lock; every flag comes back as it was."""
    with lock_of(model):
        warn_training(model)
        with evaluating(model):
            yield


def warn_training(model: nn.Module) -> None:
    """Name the layers that behave differently in training mode."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    names = [name for name, module in model.named_modules() if module.training and isinstance(module, kinds)]
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        warnings.warn(
            f"the model is in training mode ({shown}); it is explained in evaluation mode. Call model.eval() first.",
            TrainingModeWarning,
            stacklevel=5,
        )


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are not numbers."""
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise BadModel(f"weight '{name}' holds NaN or infinite values.", "Load the weights again.")


__all__ = [
    "GlasshouseError",
    "Plan",
    "TrainingModeWarning",
    "check_weights",
    "lock_of",
    "prepare",
    "untouched",
]
