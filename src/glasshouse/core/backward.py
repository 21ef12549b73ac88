"""Change what operations do on the way back.

Rules are attached to operations, not to modules: a `TorchFunctionMode` sees `nn.ReLU`, `F.relu`, `x.relu_()` and a
module used ten times alike, where module hooks see only the first. A rule that met no operation is an error: the
gradient would silently be the plain one.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glasshouse.core.errors import BadModel, NothingMatched
from glasshouse.core.trace import plain_attention

Rule: TypeAlias = Callable[[Tensor], Tensor]
"""The operation's replacement: given the pre-activation, gives the activation, with the wanted gradient."""

RELU, RELU6, LEAKY_RELU = "relu", "relu6", "leaky_relu"

KINDS: dict[str, str] = {
    "relu": RELU,
    "relu_": RELU,
    "relu6": RELU6,
    "relu6_": RELU6,
    "leaky_relu": LEAKY_RELU,
    "leaky_relu_": LEAKY_RELU,
} | {
    name + end: name
    for name in [
        "gelu",
        "silu",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "tanh",
        "elu",
        "selu",
        "celu",
        "prelu",
        "rrelu",
        "softplus",
        "mish",
        "logsigmoid",
        "hardshrink",
        "softshrink",
        "tanhshrink",
        "softsign",
        "glu",
        "softmax",
        "hardtanh",
        "threshold",
        "clamp",
        "clamp_min",
    ]
    for end in ("", "_")
}
"""Which kind of non-linearity a function is, by its name."""

GATES = frozenset({"softmax", "clamp", "clamp_min", "threshold", "sigmoid", "hardsigmoid"})
"""Kinds that weigh or bound signals rather than activate units; they are reported only where nothing else is."""


class Rules(TorchFunctionMode):
    """Applies a table of rules, and counts every non-linearity it meets."""

    def __init__(self, table: Mapping[str, Rule]):
        super().__init__()
        self.table = dict(table)
        self.seen: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.lstrip("_")  # F.threshold calls itself _threshold
        kind = kind_of(name, args, kwargs)
        if kind is None or not args or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        self.seen[kind] += 1
        rule = self.table.get(kind)
        if rule is None:
            return func(*args, **kwargs)
        value = args[0]
        if kind in SMOOTH:
            same_function(kind, rule(value.detach()), func(value.detach().clone(), *args[1:], **kwargs))
        if name.endswith("_") or kwargs.get("inplace") or inplace_argument(name, args):
            # The caller may ignore what is returned and read its tensor, so that tensor itself must change.
            return value.copy_(rule(value.clone()))
        return rule(value)

    @property
    def shared_key(self) -> Any:
        """Equal for equal tables: passes under the same rules are the same pass."""
        return frozenset(self.table.items())

    @property
    def applied(self) -> int:
        """How many operations a rule replaced."""
        return sum(self.seen[kind] for kind in self.table)


def kind_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The kind of non-linearity a call is. `hardtanh(0, 6)` and `clamp(0, 6)` are ReLU6, `clamp(min=0)` is ReLU."""
    kind = KINDS.get(name)
    if kind in ("hardtanh", "clamp", "clamp_min", "threshold"):
        first = "threshold" if kind == "threshold" else "min_val" if kind == "hardtanh" else "min"
        second = "value" if kind == "threshold" else "max_val" if kind == "hardtanh" else "max"
        fallback = (-1, 1) if kind == "hardtanh" else (None, None)
        low = args[1] if len(args) > 1 else kwargs.get(first, fallback[0])
        high = args[2] if len(args) > 2 else kwargs.get(second, fallback[1])
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return kind
        if (low, high) == ((0, 0) if kind == "threshold" else (0, None)):
            return RELU
        if kind != "threshold" and (low, high) == (0, 6):
            return RELU6
    return kind


def same_function(kind: str, ours: Tensor, theirs: Tensor) -> None:
    """A rule knows an activation in its default settings only; others would silently become another network."""
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5):
        raise BadModel(
            f"this model's {kind} has settings of its own, which its rule does not know.",
            "Let the plain gradient pass there.",
        )


def inplace_argument(name: str, args: tuple[Any, ...]) -> bool:
    """Whether `inplace=True` was passed by position."""
    place = {"relu": 1, "relu6": 1, "leaky_relu": 2, "hardtanh": 3, "threshold": 3, "elu": 2, "celu": 2}.get(name)
    return place is not None and len(args) > place and args[place] is True


@contextmanager
def rules(table: Mapping[str, Rule]) -> Generator[Rules]:
    """Apply backward rules to every operation inside the `with`, by kind.

        with rules({RELU: GuidedReLU.apply}):
            gradient = torch.autograd.grad(model(images)[0, 3], images)

    Raises `NothingMatched`, naming the non-linearities that were met, if no rule found its operation.
    """
    with plain_attention(), Rules(table) as active:
        yield active
    if not active.applied and active.seen:
        raise nothing_matched(active)


def nothing_matched(active: Rules) -> NothingMatched:
    """The error of rules that met none of their operations."""
    kinds = [kind for kind, _ in active.seen.most_common()]
    kinds = [kind for kind in kinds if kind not in GATES] or kinds
    seen = ", ".join(f"{kind} ({active.seen[kind]})" for kind in kinds) or "no non-linearity at all"
    wanted = " or ".join(active.table)
    return NothingMatched(
        f"no {wanted} in this model: it has {seen}.",
        "Use a method that needs no particular non-linearity, such as saliency or integrated_gradients.",
    )


def python_module(model: nn.Module) -> nn.Module:
    """The model whose Python code can be followed: compiled ones are unwrapped, scripted ones refused."""
    inner = getattr(model, "_orig_mod", model)
    for name, module in inner.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise BadModel(
                f"'{name or type(module).__name__}' is TorchScript; its operations cannot be seen from Python.",
                "Pass the model it was scripted from.",
            )
    return inner


class GuidedReLU(torch.autograd.Function):
    """ReLU whose backward passes only positive signals, and only where its input was positive.

    Springenberg et al., "Striving for simplicity", ICLR workshop 2015, fig. 1c. Blocks at exact zero, as autograd does.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value > 0)
        return value.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate,) = ctx.saved_tensors
        return gradients[0].clamp(min=0) * gate


class GuidedReLU6(torch.autograd.Function):
    """`GuidedReLU` with an upper bound: the gate is open where 0 < input < 6."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward((value > 0) & (value < 6))
        return value.clamp(0, 6)

    backward = GuidedReLU.backward


class DeconvReLU(torch.autograd.Function):
    """ReLU whose backward is a ReLU on the signal, whatever its input was (Zeiler & Fergus, ECCV 2014, sec. 2.1)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(min=0)


class DeconvReLU6(torch.autograd.Function):
    """`DeconvReLU` for an activation clipped at 6."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clamp(0, 6)

    backward = DeconvReLU.backward


def guided(function: Callable[..., Tensor]) -> Rule:
    """Our generalisation of guided backprop to any activation: signal and local slope both clamped at 0."""

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = value.detach().requires_grad_()
                out = function(leaf)
            (slope,) = torch.autograd.grad(out, leaf, torch.ones_like(out))
            ctx.save_for_backward(slope.clamp(min=0))
            return out.detach()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (slope,) = ctx.saved_tensors
            return gradients[0].clamp(min=0) * slope

    return Guided.apply


SMOOTH: dict[str, Callable[..., Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}
"""Activations that `guided` can stand in for with their default settings."""
