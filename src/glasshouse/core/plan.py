"""The private fast copy of a model that methods run on.

Made once per model and device, from a deep copy, so the user's module is never touched: batch norms folded into the
convolutions before them, channels-last memory, and the faster of two kernels for linear layers. Each step computes the
same function up to rounding, and the copy is checked against the untouched model on the first images it meets.
"""

import copy
import logging
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from glasshouse.core.backward import python_module
from glasshouse.core.errors import BadModel
from glasshouse.core.rewrites import fold_batch_norms, use_channels_last, use_convolution_for_linear
from glasshouse.core.target import logits
from glasshouse.core.trace import evaluating, plain_attention, record, structure

log = logging.getLogger("glasshouse")
TOLERANCE = 1e-4  # of the range of the logits
SHORT = 2**14  # values in a weight, up to which it is read together with the other short ones


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


def weights_fingerprint(model: nn.Module) -> tuple[int, int]:
    """Changes when weights change, by whatever route: place, version and a digest of every parameter and buffer."""
    weights = weights_of(model)
    long, short = list[Tensor](), dict[tuple[torch.device, torch.dtype], list[Tensor]]()
    for weight in weights:
        values = weight.detach().reshape(-1)
        if len(values) < SHORT:
            short.setdefault((values.device, values.dtype), []).append(values)
        else:
            long.append(values)
    with torch.no_grad():
        digests = [digest(values) for values in [*long, *(torch.cat(group) for group in short.values())]]
    joined = torch.cat(digests) if digests else torch.empty(0)
    if not joined.isfinite().all():
        check_weights(model)
    places = tuple((weight.data_ptr(), version(weight)) for weight in weights)
    return hash(places), hash(joined.numpy().tobytes())


def weights_of(model: nn.Module) -> list[Tensor]:
    """Every parameter and buffer, once each."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for weight in (*module._parameters.values(), *module._buffers.values()):
            if weight is not None:
                found[id(weight)] = weight
    return list(found.values())


def digest(values: Tensor, width: int = 4096) -> Tensor:
    """Each run of `width` values as one number: their product with a fixed row of irregular ones.

    One pass over memory, as a sum is; but values that change places change it too.
    """
    if not values.is_floating_point() or values.dtype.itemsize < 4:
        values = values.float()
    row, whole = irregular(width, values.device).to(values.dtype), len(values) // width * width
    rest = torch.dot(values[whole:], row[: len(values) - whole])[None]
    return torch.cat([torch.mv(values[:whole].view(-1, width), row), rest]).cpu().double()


@cache
def irregular(n: int, device: torch.device) -> Tensor:
    """Numbers in 0.5…1.5, none like another."""
    return (torch.arange(1, n + 1, device=device) * 0.6180339887).frac() + 0.5


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


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
    if not any(module.training for module in model.modules()):
        return
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
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise BadModel(f"weight '{name}' holds NaN or infinite values.", "Load the weights again.")
