"""Send something other than the gradient back through a network, operation by operation.

`Flow` hands every operation that touches the signal (whatever depends on the images) to a handler, which gives back
the operation's value with a backward rule of its own. It sees what the model's Python calls, so functional, in-place
and reused operations are all met, and no module is replaced.
"""

import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from glasshouse.core.backward import inplace_argument
from glasshouse.core.trace import layer_events, plain_attention, tensors

Back: TypeAlias = Callable[[Tensor], Sequence[Tensor | None]]
"""From what arrives at an operation's output to what each of its signals gets."""

SAME = {
    **dict.fromkeys(("iadd", "radd"), "add"),
    **dict.fromkeys(("isub", "subtract"), "sub"),
    **dict.fromkeys(("imul", "rmul", "multiply"), "mul"),
    **dict.fromkeys(("idiv", "divide", "truediv", "itruediv", "true_divide"), "div"),
}
"""Other names of the same operation."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of a torch function, without the signals it was called on: it keeps no graph alive.

    Args:
        name: of the function, without the marks of in-place and reflected versions.
        places: which of the `leaves` (the arguments, flattened by `form`) are signals.
        inplace: whether it overwrites its first argument.
        layer: the module it was called in.
    """

    name: str
    function: Callable[..., Any]
    leaves: tuple[Any, ...]
    form: TreeSpec
    places: tuple[int, ...]
    inplace: bool
    layer: str

    @staticmethod
    def of(function: Callable[..., Any], args: Any, kwargs: Any, layer: str) -> "Operation":
        leaves, form = tree_flatten((args, kwargs))
        places = tuple(place for place, leaf in enumerate(leaves) if is_signal(leaf))
        inplace = overwrites(function.__name__, args, kwargs)
        still = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if inplace and 0 not in places:
            still[0] = still[0].clone()
        still = [None if place in places else leaf for place, leaf in enumerate(still)]
        return Operation(plain_name(function.__name__), function, tuple(still), form, places, inplace, layer)

    def arguments(self, values: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with `values` for the signals."""
        leaves = list(self.leaves)
        for place, value in zip(self.places, values, strict=True):
            leaves[place] = value
        return tree_unflatten(leaves, self.form)

    def __call__(self, *values: Tensor) -> Any:
        """What the operation gives for other values of its signals; nothing is overwritten."""
        args, kwargs = self.arguments(values)
        if not self.inplace:
            return self.function(*args, **kwargs)
        changed = args[0].clone()
        self.function(changed, *args[1:], **kwargs)
        return changed

    @property
    def constants(self) -> list[Tensor]:
        """The tensors among the arguments that do not depend on the images."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]


def is_signal(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad and not isinstance(leaf, nn.Parameter)


def plain_name(name: str) -> str:
    """`__iadd__`, `add_` and `add` are one operation, and `F.threshold` calls itself `_threshold`."""
    name = name.strip("_")
    return SAME.get(name, name)


def overwrites(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call changes its first argument."""
    if not args or not isinstance(args[0], Tensor):
        return False
    if name.startswith("__"):
        return name == "__setitem__" or name.removeprefix("__") in ("iadd__", "isub__", "imul__", "itruediv__")
    return name.endswith("_") or bool(kwargs.get("inplace")) or inplace_argument(name, args)


class Kept:
    """A value for the way back, which survives being overwritten in place."""

    def __init__(self, value: Tensor):
        self.value = value.detach()


class Rewired(torch.autograd.Function):
    """A value that is already computed, with another way back, and a note on what made it for those that come later."""

    @staticmethod
    def forward(ctx: Any, made: tuple[Tensor], back: Back, note: Any, *signals: Tensor) -> Tensor:
        ctx.back, ctx.note, ctx.count = back, note, len(signals)
        ctx.set_materialize_grads(False)
        return made[0].data  # no view: those may not be written into

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Any, ...]:
        back = (None,) * ctx.count if arriving[0] is None else ctx.back(arriving[0])
        return (None, None, None, *back)


class Overwritten(torch.autograd.Function):
    """As `Rewired`, for a tensor that has been overwritten: its caller may go on reading it."""

    @staticmethod
    def forward(ctx: Any, back: Back, note: Any, *signals: Tensor) -> Tensor:
        ctx.back, ctx.note, ctx.count = back, note, len(signals)
        ctx.set_materialize_grads(False)
        ctx.mark_dirty(signals[0])
        return signals[0]

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Any, ...]:
        return Rewired.backward(ctx, *arriving)[1:]


def rewired(value: Tensor, back: Back, note: Any, *signals: Tensor) -> Tensor:
    """`value`, computed from `signals`, with `back` as its way back to them."""
    return Rewired.apply((value,), back, note, *signals)


def note_of(tensor: Tensor) -> Any:
    """The note on the operation that made a tensor; None if its way back was not rewired."""
    return getattr(tensor.grad_fn, "note", None)


class Flow(TorchFunctionMode):
    """A mode that hands each operation on the signal to `handle`, and writes what comes back where it belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[str] = []
        self.kept: dict[int, list[weakref.ref[Kept]]] = {}

    def handle(self, operation: Operation, signals: tuple[Tensor, ...]) -> Any:
        """The operation's result, with another way back; None leaves it to autograd."""
        return None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, out = kwargs or {}, None
        signals = tuple(tensor for tensor in tensors((args, kwargs)) if is_signal(tensor))
        if signals and torch.is_grad_enabled():
            operation = Operation.of(func, args, kwargs, self.layers[-1] if self.layers else "")
            out = self.handle(operation, signals)
        if overwrites(func.__name__, args, kwargs):
            self.rescue(args[0])
            if out is not None and out is not args[0]:
                return args[0].copy_(out)
        if out is not None:
            return out
        if not signals and any(tensor.requires_grad for tensor in tensors((args, kwargs))):
            with torch.no_grad():  # weights make no signal
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def rewire(
        self, operation: Operation, signals: tuple[Tensor, ...], back: Back, value: Tensor | None = None
    ) -> Tensor:
        """The operation's value (computed here unless given) with `back` as its way back to the signals."""
        if operation.inplace and operation.places[0] == 0 and value is None:
            self.rescue(signals[0])
            args, kwargs = operation.arguments(signals)
            with torch.no_grad():
                operation.function(*args, **kwargs)
            return Overwritten.apply(back, operation, *signals)
        with torch.no_grad():
            result: Tensor = operation(*signals) if value is None else value
        return rewired(result, back, operation, *signals)

    def keep(self, value: Tensor) -> Kept:
        """Hold a value for the way back without copying it; it is copied only if somebody overwrites it."""
        kept = Kept(value)
        self.kept.setdefault(value.untyped_storage().data_ptr(), []).append(weakref.ref(kept))
        return kept

    def rescue(self, target: Tensor) -> None:
        """Copy what was kept of a tensor that is about to be overwritten."""
        for reference in self.kept.pop(target.untyped_storage().data_ptr(), ()):
            if kept := reference():
                kept.value = kept.value.clone()


@contextmanager
def flowing(flow: Flow, model: nn.Module) -> Generator[None]:
    """Run the model under `flow` inside the `with`; operations know the layer they are called in."""

    def before(name: str, args: Any) -> None:
        flow.layers.append(name)

    def after(name: str, args: Any, output: Any) -> None:
        flow.layers.pop()

    try:
        with plain_attention(), layer_events(model, before, after), flow:
            yield
    finally:
        flow.kept.clear()


def vector_jacobian(
    function: Callable[..., Tensor], values: Sequence[Tensor]
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    """A function's value, and its plain way back, in whatever gradient mode.

    Autograd does not notice if `values` are overwritten in between, which matters where the function is not linear.
    """
    with torch.enable_grad():
        leaves = [value.data.requires_grad_() for value in values]
        out = function(*leaves)

    def back(arriving: Tensor) -> tuple[Tensor, ...]:
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        return torch.autograd.grad(out, leaves, arriving.to(out.dtype), **options)

    return out.detach(), back
