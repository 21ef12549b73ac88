"""A network computed only where an image has changed: one pass is kept, the next ones carry boxes through it.

`Keep` records the pass of a clean image. Under `Increment` the model's own Python runs again, on stand-ins that have
the shape of the activations and hold a box of them: the part that a patch can have changed, which grows by each kernel
and shrinks by each stride. What is not local, or nearly as large as the activation, is computed as a whole from there
on. So any model that runs can be run this way; how far the boxes reach only decides what it costs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from glasshouse.core.boxes import Box
from glasshouse.core.locality import RULES, argument
from glasshouse.core.plan import version
from glasshouse.core.trace import tensors, written

PLAIN = """
shape ndim dtype device layout is_cuda is_cpu is_nested is_sparse is_quantized is_mkldnn requires_grad size dim numel
nelement is_floating_point is_complex get_device __len__
"""
"""What may be asked of a stand-in itself."""


class NotLocal(Exception):
    """The model has to be run as a whole."""


class Patched(Tensor):
    """Stands for an activation of patched images: of its shape, all NaN, and holding a box, or the whole of it."""

    held: Box | Tensor

    @staticmethod
    def of(box: Box) -> "Patched":
        nothing = torch.full((), torch.nan, dtype=box.clean.dtype, device=box.clean.device)
        stand_in = nothing.expand(len(box.values), *box.clean.shape[1:]).as_subclass(Patched)
        stand_in.held = box
        return stand_in

    def whole(self) -> Tensor:
        """The activation, from now on for everybody who reads it."""
        if isinstance(self.held, Box):
            self.held = self.held.whole()
        return self.held


@dataclass
class Call:
    """One operation of the clean pass.

    Args:
        clean: what it gave for the clean image.
        varies: for each tensor it was given, whether that could depend on the image.
        returned: whether it gave back the first tensor it was given, as operations in place do.
        fresh: whether what it gave shares no memory with what it was given.
        shadowed: whether it wrote into memory that is read later through another tensor, made before.
    """

    name: str
    clean: Any
    varies: list[bool]
    returned: bool
    fresh: bool
    shadowed: bool = False


def name_of(func: Callable[..., Any]) -> str:
    """An operation's name; of an attribute that is read, the attribute's."""
    return func.__self__.__name__ if func.__name__ == "__get__" else func.__name__  # type: ignore[attr-defined]


def products(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Multiplications of a convolution or a linear map."""
    if name not in ("conv2d", "linear", "convolution_linear"):
        return 0
    return out.numel() * argument(args, kwargs, 1, "weight")[0].numel()


def place_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Keep(TorchFunctionMode):
    """Writes down every operation of a pass and what it gave for the first image of the batch."""

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.size = size
        self.calls: list[Call] = []
        self.products = 0
        self.constant = {id(weight) for weight in (*model.parameters(), *model.buffers())}
        self.born: dict[int, int] = {}
        self.writes: dict[int, list[tuple[int, int]]] = {}
        self.alive: list[Tensor] = []  # so that an `id` stays one tensor's

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        versions = [version(tensor) for tensor in given]
        for tensor in given:
            self.read(tensor)
        out = func(*args, **kwargs)
        name = name_of(func)
        if made := written(name, args, out):
            varies = [id(tensor) not in self.constant for tensor in given]
            places = {place_of(tensor) for tensor in given}
            returned = bool(given) and out is given[0]
            fresh = not any(place_of(tensor) in places for tensor in made)
            self.calls.append(Call(name, tree_map(self.first, out), varies, returned, fresh))
            self.products += products(name, args, kwargs, out)
            for tensor, before in zip(given, versions, strict=True):
                if version(tensor) != before:
                    self.writes.setdefault(place_of(tensor), []).append((len(self.calls) - 1, id(tensor)))
            for tensor in made:
                self.born.setdefault(id(tensor), len(self.calls) - 1)
                self.alive.append(tensor)
                (self.constant.discard if any(varies) else self.constant.add)(id(tensor))
        return out

    def read(self, tensor: Tensor) -> None:
        """Writing into memory matters to a tensor that is older than the write, and another."""
        for number, writer in self.writes.get(place_of(tensor), ()):
            if id(tensor) != writer and self.born.get(id(tensor), -1) < number:
                self.calls[number].shadowed = True

    def first(self, leaf: Any) -> Any:
        """The clean image's part, as it is now."""
        of_all = isinstance(leaf, Tensor) and leaf.ndim > 1 and len(leaf) == self.size
        return leaf[:1].clone() if of_all else None


class Increment(TorchFunctionMode):
    """Runs operations on boxes for as long as they are local, and counts the multiplications made."""

    def __init__(self, calls: list[Call]):
        super().__init__()
        self.calls, self.made, self.products = calls, 0, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, name_of(func)
        given = tensors((args, kwargs))
        if not any(isinstance(tensor, Patched) for tensor in given):
            return self.noted(name, args, kwargs, func(*args, **kwargs))
        if name in PLAIN.split():
            return func(*args, **kwargs)
        boxes = self.boxes(func, name, given, args, kwargs)
        if boxes is not None:
            return boxes
        arguments = tree_map(whole, args), tree_map(whole, kwargs)
        return self.noted(name, *arguments, func(*arguments[0], **arguments[1]))

    def noted(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """Count an operation that ran as a whole."""
        if written(name, args, out):
            self.next(name)
            self.products += products(name, args, kwargs, out)
        return out

    def next(self, name: str) -> Call:
        """What the clean pass did here."""
        call = self.calls[self.made] if self.made < len(self.calls) else None
        if call is None or call.name != name:
            raise NotLocal(f"{name} ran where the clean image needed {call.name if call else 'nothing'}")
        self.made += 1
        return call

    def boxes(
        self, func: Callable[..., Any], name: str, given: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Stand-ins for what a local operation gives; None where it is not local."""
        rule, call = RULES.get(name), self.calls[self.made] if self.made < len(self.calls) else None
        if rule is None or call is None or call.name != name or call.clean is None:
            return None
        held = [tensor.held if isinstance(tensor, Patched) else tensor for tensor in given]
        if any(not isinstance(item, Box) and varies for item, varies in zip(held, call.varies, strict=True)):
            return None
        if call.returned and not isinstance(given[0], Patched):
            return None
        found = rule(func, tree_map(hold, args), tree_map(hold, kwargs), call.clean)
        if found is None:
            return None
        if call.returned and call.shadowed:
            raise NotLocal(f"{name} writes into memory that another tensor shares")
        self.made += 1
        if isinstance(found, tuple):
            return tuple(Patched.of(box) for box in found)
        if isinstance(found, Tensor):
            return found
        self.products += products(name, args, kwargs, found.values)
        if call.returned and isinstance(first := given[0], Patched):
            first.held = found
            return first
        return Patched.of(apart(found, held) if call.fresh else found)


def apart(box: Box, given: list[Any]) -> Box:
    """The box in memory of its own."""
    places = {place_of(item.values) for item in given if isinstance(item, Box)}
    if place_of(box.values) not in places:
        return box
    return replace(box, values=box.values.clone())


def hold(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, Patched) else leaf


def whole(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Patched) else leaf
