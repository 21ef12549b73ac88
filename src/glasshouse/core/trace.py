"""One recorded forward pass: which operations ran, in which layers, on which values.

The pass runs the model's own Python under a `TorchFunctionMode`, so functional, in-place and reused operations are
seen, and nothing has to be traceable symbolically. Layer geometry (`field`), batch-norm folding and suffix runs
(`plan`) all read this record.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Op:
    """One operation. `inputs` and `outputs` number the values it read and wrote; tensors in `args` became shapes."""

    name: str
    layer: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class LayerCall:
    """One run of a layer: the values it was given and gave back, and how many operations had ended by then."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    started: int
    ended: int


@dataclass
class Trace:
    """The record. Values are numbered in order of birth; an in-place operation gives its tensor a new number.

    `objects` maps a value to the first number of the tensor object that held it, so values written into the same
    tensor share it. `inputs` are the numbers of the model's own inputs.
    """

    ops: list[Op] = field(default_factory=list[Op])
    calls: dict[str, list[LayerCall]] = field(default_factory=dict[str, list[LayerCall]])
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    objects: dict[int, int] = field(default_factory=dict[int, int])
    inputs: tuple[int, ...] = ()
    finished: list[str] = field(default_factory=list[str])

    def readers(self, value: int) -> list[int]:
        """Numbers of the operations that read `value`."""
        return [number for number, op in enumerate(self.ops) if value in op.inputs]


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts (and objects that behave like a dict of outputs)."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def written(name: str, args: tuple[Any, ...], out: Any) -> list[Tensor]:
    """The tensors an operation gave or changed; assignment to an index changes its first argument."""
    return tensors(args[0]) if name == "__setitem__" else tensors(out)


def shape_of(leaf: Any) -> Any:
    """A tensor's shape; anything else as it is."""
    return leaf.shape if isinstance(leaf, Tensor) else leaf


class Recorder(TorchFunctionMode):
    """Writes operations into a `Trace`. Every tensor met is kept alive, so that its `id` stays its own."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self.number: dict[int, int] = {}
        self.first: dict[int, int] = {}
        self.kept: list[Tensor] = []
        self.stack: list[str] = []

    def born(self, tensor: Tensor) -> int:
        number = len(self.kept)
        self.kept.append(tensor)
        self.number[id(tensor)] = number
        self.trace.objects[number] = self.first.setdefault(id(tensor), number)
        self.trace.shapes[number] = tuple(tensor.shape)
        return number

    def known(self, tensor: Tensor) -> int:
        return self.number[id(tensor)] if id(tensor) in self.number else self.born(tensor)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        seen = tensors((args, kwargs))
        inputs = tuple(self.known(tensor) for tensor in seen)
        out = func(*args, **kwargs)
        if made := written(func.__name__, args, out):
            outputs = tuple(self.born(tensor) for tensor in made)
            layer = self.stack[-1] if self.stack else ""
            arguments = tree_map(shape_of, args), tree_map(shape_of, kwargs)
            self.trace.ops.append(Op(func.__name__, layer, *arguments, inputs, outputs))
        return out


@contextmanager
def layer_events(
    model: nn.Module, before: Callable[[str, Any], None], after: Callable[[str, Any, Any], None]
) -> Generator[None]:
    """Calls `before(name, args)` and `after(name, args, output)` around every run of every named submodule."""
    handles: list[Any] = []
    try:
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(lambda _, args, name=name: before(name, args)))
                handles.append(module.register_forward_hook(lambda _, args, out, name=name: after(name, args, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_hooks(model: nn.Module) -> Generator[None]:
    """Take every hook off every module for a while: looking at a model must not trigger its user's hooks, or ours."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    kept = [(module, {name: module.__dict__[name] for name in names}) for module in model.modules()]
    try:
        for module, hooks in kept:
            module.__dict__.update({name: type(value)() for name, value in hooks.items()})
        yield
    finally:
        for module, hooks in kept:
            module.__dict__.update(hooks)


def structure(model: nn.Module) -> int:
    """Changes when a module is put in, taken out, swapped, or set differently, as far as its `repr` shows."""
    return hash(tuple((name, id(m), type(m), m.extra_repr()) for name, m in model.named_modules()))


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode for the length of the `with`; afterwards every module's flag is as it was."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def record(model: nn.Module, inputs: Tensor) -> Trace:
    """Run `model` once on `inputs` and write down what happened. Costs one forward pass and no gradient.

    The model is looked at in evaluation mode, so that looking moves no running mean and draws no dropout.
    """
    recorder = Recorder()
    trace, opened = recorder.trace, list[int]()

    def before(name: str, args: Any) -> None:
        recorder.stack.append(name)
        opened.append(len(trace.ops))

    def after(name: str, args: Any, output: Any) -> None:
        recorder.stack.pop()
        given = tuple(recorder.known(tensor) for tensor in tensors(args))
        made = tuple(recorder.known(tensor) for tensor in tensors(output))
        call = LayerCall(given, made, opened.pop(), len(trace.ops))
        trace.calls.setdefault(name, []).append(call)
        trace.finished.append(name)

    trace.inputs = (recorder.born(inputs),)
    with without_hooks(model), evaluating(model), torch.no_grad(), plain_attention():
        with layer_events(model, before, after), recorder:
            model(inputs)
    return trace


@contextmanager
def plain_attention() -> Generator[None]:
    """Without `nn.MultiheadAttention`'s fused path, which skips the submodules and operations it stands for."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
