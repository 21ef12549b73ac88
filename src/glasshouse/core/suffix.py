"""Run the rest of a network from a layer's cached activation.

The model's own Python runs again, but every call before the layer gives back what it gave the first time: a stand-in
of the right shape, or, for the few values that are read again behind the layer (skip connections), the cached tensor.
So any model that runs can be cut, traceable or not, and gradients reach the activation it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from glasshouse.core.activations import attach, find
from glasshouse.core.errors import BadInput, BadModel
from glasshouse.core.layers import learnt
from glasshouse.core.target import logits
from glasshouse.core.trace import Trace, plain_attention, structure, without_hooks, written

Calls: TypeAlias = list[tuple[str, Any]]
"""The name of every call of a run and its answer, in which tensors have become stand-ins."""


@dataclass(frozen=True)
class StandIn:
    """A tensor that is not computed again: the object it was, its shape, type and place."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass
class Memory:
    """What a first run leaves behind: the answer of every call before the layer, and the tensors read after it.

    Args:
        number: of the object that the layer gave.
        resized: the calls again, by the number of rows that they were stretched to.
    """

    calls: Calls = field(default_factory=Calls)
    tensors: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    activation: Tensor = field(default_factory=lambda: torch.empty(0))
    number: int = -1
    closed: bool = False
    resized: dict[int, Calls] = field(default_factory=dict[int, Calls])


class Remember(TorchFunctionMode):
    """Fills a `Memory` until the layer has run. `wanted` are the objects that are read behind the layer."""

    def __init__(self, trace: Trace, wanted: set[int]):
        super().__init__()
        self.trace, self.wanted, self.memory = trace, wanted, Memory()
        self.live: dict[int, Tensor] = {}
        self.number: dict[int, int] = {}
        self.made = 0

    def describe(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        number = self.number.get(id(leaf), -1)
        return StandIn(number, tuple(leaf.shape), leaf.dtype, leaf.device)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.memory.closed:
            return out
        if made := written(func.__name__, args, out):
            values = self.trace.ops[self.made].outputs if self.made < len(self.trace.ops) else ()
            if len(values) != len(made):
                raise BadModel("the model's operations differ from one run to the next.")
            for value, tensor in zip(values, made, strict=True):
                number = self.trace.objects[value]
                self.number[id(tensor)] = number
                if number in self.wanted:
                    self.live[number] = tensor
            self.made += 1
        self.memory.calls.append((func.__name__, tree_map(self.describe, out)))
        return out

    def close(self, activation: Tensor) -> Tensor:
        """The layer has run: copy what will be read again, as it is now."""
        self.memory.closed = True
        self.memory.activation, self.memory.number = activation.detach().clone(), self.describe(activation).number
        self.memory.tensors = {number: tensor.detach().clone() for number, tensor in self.live.items()}
        return activation


class Recall(TorchFunctionMode):
    """Answers from a `Memory` for as long as it has answers; then lets calls through."""

    def __init__(self, memory: Memory):
        super().__init__()
        self.calls = iter(memory.calls)
        self.left = len(memory.calls)
        self.objects = {number: tensor.clone() for number, tensor in memory.tensors.items()}

    def fill(self, leaf: Any) -> Any:
        if not isinstance(leaf, StandIn):
            return leaf
        if leaf.number not in self.objects:
            empty = torch.empty((), dtype=leaf.dtype, device=leaf.device)
            self.objects[leaf.number] = empty.expand(leaf.shape)
        return self.objects[leaf.number]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if not self.left:
            return func(*args, **(kwargs or {}))
        self.left -= 1
        name, answer = next(self.calls)
        if name != func.__name__:
            raise BadModel(
                f"a call of {func.__name__} came where {name} was remembered: the model runs differently this time.",
                "Do not probe, edit or change it between cutting it and running the rest.",
            )
        return tree_map(self.fill, answer)


@dataclass(frozen=True)
class Suffix:
    """The part of a model behind a layer, for the images it was cut on.

    Args:
        activation: what the layer gave for those images, in its own order of axes.
        output: the model's output for them.
    """

    model: nn.Module
    inputs: Tensor
    layer: str
    activation: Tensor
    output: Tensor
    memory: Memory

    def __call__(self, activation: Tensor) -> Any:
        """The model's output had the layer given `activation`. Costs the layers behind it only."""
        if activation.shape != self.activation.shape:
            raise BadInput(
                f"layer '{self.layer}' gave {tuple(self.activation.shape)}, not {tuple(activation.shape)}.",
                "Cut the model again on as many images as you want to run at once, or take `suffix.rows(index)`.",
            )
        handle = attach(find(self.model, self.layer), lambda _: activation.clone())
        try:
            with plain_attention(), Recall(self.memory):
                return self.model(self.inputs)
        finally:
            handle.remove()

    def rows(self, index: Int[Tensor, " r"]) -> "Suffix":
        """The part behind the layer for other rows: row r goes on from image `index[r]`.

            image = torch.tensor([0, 0, 0, 1])
            suffix.rows(image)(activations)  # four outputs: three of the first image, one of the second

        Nothing before the layer is computed again, so any number of images can be run at once.
        """
        n, known, index = len(self.inputs), script(self.model, self.inputs), index.to(self.inputs.device)
        kept = {number: known.spread(number, tensor, index, n) for number, tensor in self.memory.tensors.items()}
        activation = known.spread(self.memory.number, self.activation, index, n)
        calls = self.memory.resized.get(len(index))
        stretched = calls or known.resize(self.memory.calls, len(index) - n)
        memory = Memory(stretched, kept, activation, self.memory.number, closed=True)
        part = replace(self, inputs=self.inputs[index], activation=activation, output=self.output[index], memory=memory)
        if calls is None:
            part.check(torch.finfo(self.output.dtype).eps ** 0.5)  # other numbers of rows, other kernels
            self.memory.resized[len(index)] = stretched
        return part

    def check(self, tolerance: float = 1e-6) -> None:
        """Going on from the layer's own activation must lead to the output that is known."""
        with torch.no_grad():
            again = logits(self(self.activation))
        if not torch.allclose(again, self.output, rtol=1e-5, atol=tolerance * float(self.output.abs().max())):
            raise BadModel(
                f"the model cannot be cut at '{self.layer}': what follows does not depend on its calls alone."
            )


def cut(model: nn.Module, inputs: Tensor, layer: str) -> Suffix:
    """Cut a model behind `layer`: run it once on `inputs`, and keep what the rest needs.

    `cut(model, x, layer)(activation)` equals the model with that layer's output replaced, and costs only what comes
    after it. The layer must run once.
    """
    place = find(model, layer)
    trace = learnt(model, inputs, whole)
    name = layer.split("#")[0]
    runs = trace.calls.get(name.removesuffix(".input") if place.at_input else name, [])
    if len(runs) != 1:
        raise BadInput(f"layer '{layer}' ran {len(runs)} times; a model can be cut where it runs once.")
    end = runs[0].started if place.at_input else runs[0].ended
    wanted = {trace.objects[value] for op in trace.ops[end:] for value in op.inputs if value in trace.objects}
    born = {trace.objects[value] for op in trace.ops[:end] for value in op.outputs}
    remember = Remember(trace, wanted & born)
    with without_hooks(model), torch.no_grad(), plain_attention():
        handle = attach(place, remember.close)
        try:
            with remember:
                output = logits(model(inputs))
        finally:
            handle.remove()
    suffix = Suffix(model, inputs, layer, remember.memory.activation, output, remember.memory)
    suffix.check()
    return suffix


def whole(model: nn.Module, trace: Trace) -> Trace:
    """The record itself."""
    return trace


@dataclass(frozen=True)
class Script:
    """What a model calls for one image and for two: what differs between them grows with the number of images."""

    one: Calls
    two: Calls
    shapes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]]

    def resize(self, calls: Calls, more: int) -> Calls:
        """Calls of a run, as they are with `more` images."""

        def grow(now: Any, one: Any, two: Any) -> Any:
            if isinstance(now, StandIn):
                sizes = zip(now.shape, one.shape, two.shape, strict=True)
                return replace(now, shape=tuple(size + (b - a) * more for size, a, b in sizes))
            return now + (two - one) * more if type(now) is int else now

        triples = list(zip(calls, self.one, self.two, strict=False))
        if len(triples) < len(calls) or any(len({name for name, _ in triple}) > 1 for triple in triples):
            raise BadModel("the model's operations depend on the number of images.", "Run it on as many as it was cut.")
        return [(now[0], tree_map(grow, now[1], one[1], two[1])) for now, one, two in triples]

    def spread(self, number: int, tensor: Tensor, index: Int[Tensor, " r"], n: int) -> Tensor:
        """Rows `index` of a tensor of n images, along the axis that grows with them; without one, it suits them all."""
        one, two = self.shapes.get(number, ((1,), (2,)))
        for axis, (a, b) in enumerate(zip(one, two, strict=True)):
            if a != b:
                return tensor.unflatten(axis, (n, -1)).index_select(axis, index).flatten(axis, axis + 1)
        return tensor


_scripts: WeakKeyDictionary[nn.Module, dict[Any, Script]] = WeakKeyDictionary()


def script(model: nn.Module, inputs: Tensor) -> Script:
    """The script for inputs of this size. Costs three forwards of one image, once."""
    key = (tuple(inputs.shape[1:]), inputs.dtype, inputs.device, structure(model))
    known = _scripts.setdefault(model, {})
    if key not in known:
        trace, calls = learnt(model, inputs, whole), list[Calls]()
        for images in (inputs[[0]], inputs[[0, 0]]):
            remember = Remember(trace, set())
            with without_hooks(model), torch.no_grad(), plain_attention(), remember:
                model(images)
            calls.append(remember.memory.calls)
        one, two = calls
        larger = {leaf.number: leaf.shape for leaf in stand_ins(two)}
        shapes = {leaf.number: (leaf.shape, larger[leaf.number]) for leaf in stand_ins(one) if leaf.number in larger}
        known[key] = Script(one, two, shapes)
    return known[key]


def stand_ins(calls: Calls) -> list[StandIn]:
    return [leaf for _, answer in calls for leaf in tree_leaves(answer) if isinstance(leaf, StandIn)]
