"""How operations act on boxes: what of their output a patch can have changed, computed from what of it they read.

A rule is given an operation's arguments, boxes in the place of activations, and gives boxes back; None where the
operation, or these arguments of it, mix all positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from glasshouse.core.boxes import Axes, Box, Span, Taps, windows
from glasshouse.core.field import pair

SHARE = 0.75  # of an activation's positions; a larger box is computed as a whole

Args: TypeAlias = tuple[Any, ...]
Boxes: TypeAlias = Box | Tensor | tuple[Box, ...] | None
Rule: TypeAlias = Callable[[Callable[..., Any], Args, dict[str, Any], Any], Boxes]


def argument(args: Args, kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    value = kwargs[name] if name in kwargs else args[place] if len(args) > place else None
    return default if value is None else value


def pointwise(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Every position by itself; what else it is given has no positions."""
    box = args[0]
    return replace(box, clean=clean, values=func(box.values, *args[1:], **kwargs))


def activated(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """The same function of every value; not one whose bounds are tensors."""
    others = tree_leaves((args[1:], kwargs))
    return None if any(isinstance(item, Tensor) for item in others) else pointwise(func, args, kwargs, clean)


def normed(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Batch norm with the statistics of the training."""
    return None if argument(args, kwargs, 5, "training") else pointwise(func, args, kwargs, clean)


def last_axis(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Linear maps and layer norms of channels that come last."""
    box = args[0]
    shape = argument(args, kwargs, 1, "normalized_shape", ())
    mixed = 1 if isinstance(shape, Tensor) else len(shape)
    return pointwise(func, args, kwargs, clean) if max(box.axes) < box.clean.ndim - mixed else None


def combined(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Sums, products and the like of activations and constants: the box around all of them."""
    boxes = [item for item in args if isinstance(item, Box)]
    around = union(boxes)
    if around is None or any(isinstance(item, Box) for item in kwargs.values()):
        return None
    first, (rows, cols) = boxes[0], around
    operands: list[Any] = []
    for item in args:
        if isinstance(item, Box):
            operands.append(item.within(rows, cols))
        elif isinstance(item, Tensor):
            constant = spread(item, first, rows, cols)
            if constant is None:
                return None
            operands.append(constant)
        else:
            operands.append(item)
    return Box(clean, func(*operands, **kwargs), rows, cols, first.axes)


def union(boxes: Sequence[Box]) -> tuple[Span, Span] | None:
    """The spans around boxes of one grid; None where grids differ, or together they are too large."""
    first = boxes[0]
    rows, cols = first.rows, first.cols
    for box in boxes[1:]:
        if (box.grid, box.axes, box.clean.ndim) != (first.grid, first.axes, first.clean.ndim):
            return None
        rows, cols = rows.joined(box.rows, box.grid[0]), cols.joined(box.cols, box.grid[1])
    return (rows, cols) if small(rows, cols, first.grid) else None


def small(rows: Span, cols: Span, grid: tuple[int, int]) -> bool:
    return rows.size * cols.size < SHARE * prod(grid)


def spread(constant: Tensor, box: Box, rows: Span, cols: Span) -> Tensor | None:
    """The part of a constant that an operation on these spans needs."""
    if constant.ndim > box.clean.ndim:
        return None
    whole = constant[(None,) * (box.clean.ndim - constant.ndim)]
    grid = whole.shape[box.axes[0]], whole.shape[box.axes[1]]
    if grid == (1, 1):
        return constant
    return windows(whole, rows, cols, box.axes) if grid == box.grid and len(whole) == 1 else None


def slid(
    box: Box, clean: Tensor, taps: tuple[Taps, Taps], run: Callable[[Tensor], Tensor], filler: float = 0.0
) -> Box | None:
    """A window moved over rows and columns; `run` does it without padding."""
    if box.axes != (2, 3) or clean.ndim != 4:
        return None
    grid = clean.shape[2], clean.shape[3]
    rows, cols = (span.through(t, size) for span, t, size in zip((box.rows, box.cols), taps, grid, strict=True))
    if not small(rows, cols, grid):
        return None
    reads = rows.read_by(taps[0]), cols.read_by(taps[1])
    frame: list[int] = []
    for t, size, out in zip(reversed(taps), reversed(box.grid), reversed(grid), strict=True):
        frame += [t.before, max(0, (out - 1) * t.stride + t.reach + 1 - size - t.before)]
    padded = F.pad(box.clean, frame, value=filler) if any(frame) else box.clean
    inner = replace(box, clean=padded, rows=box.rows.shifted(taps[0].before), cols=box.cols.shifted(taps[1].before))
    return Box(clean, run(inner.within(*reads)), rows, cols, box.axes)


def convolved(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    weight, bias = argument(args, kwargs, 1, "weight"), argument(args, kwargs, 2, "bias")
    stride, dilation = pair(argument(args, kwargs, 3, "stride", 1)), pair(argument(args, kwargs, 5, "dilation", 1))
    padding, groups = argument(args, kwargs, 4, "padding", 0), argument(args, kwargs, 6, "groups", 1)
    kernel = weight.shape[-2:]
    if isinstance(padding, str):
        same = padding == "same"
        padding = [d * (k - 1) // 2 if same else 0 for d, k in zip(dilation, kernel, strict=True)]
    taps = windows_of(kernel, stride, padding, dilation)
    return slid(args[0], clean, taps, lambda inner: func(inner, weight, bias, stride, 0, dilation, groups))


def windows_of(kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Taps, Taps]:
    rows, cols = zip(pair(kernel), pair(stride), pair(padding), pair(dilation), strict=True)
    return Taps(*rows), Taps(*cols)


def max_pooled(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    kernel = argument(args, kwargs, 1, "kernel_size")
    stride, dilation = argument(args, kwargs, 2, "stride", kernel), argument(args, kwargs, 4, "dilation", 1)
    if not isinstance(clean, Tensor):  # the positions of the maxima were asked for too
        return None
    taps = windows_of(kernel, stride or kernel, argument(args, kwargs, 3, "padding", 0), dilation)
    return slid(args[0], clean, taps, lambda inner: F.max_pool2d(inner, kernel, stride, 0, dilation), filler=-torch.inf)


def average_pooled(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    kernel, padding = argument(args, kwargs, 1, "kernel_size"), argument(args, kwargs, 3, "padding", 0)
    stride = argument(args, kwargs, 2, "stride", kernel) or kernel
    cut, counted = argument(args, kwargs, 4, "ceil_mode", False), argument(args, kwargs, 5, "count_include_pad", True)
    divisor = argument(args, kwargs, 6, "divisor_override")
    if (cut and uneven(args[0].grid, clean, kernel, stride, padding)) or (any(pair(padding)) and not counted):
        return None  # windows at the border divide by fewer
    taps = windows_of(kernel, stride, padding)
    return slid(args[0], clean, taps, lambda inner: F.avg_pool2d(inner, kernel, stride, divisor_override=divisor))


def uneven(grid: tuple[int, int], clean: Tensor, kernel: Any, stride: Any, padding: Any) -> bool:
    """Whether the last windows reach over the border."""
    sizes = zip(grid, clean.shape[-2:], pair(kernel), pair(stride), pair(padding), strict=True)
    return any((out - 1) * s + k > size + 2 * p for size, out, k, s, p in sizes)


def adaptive_average(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Of one window: the mean. Where the windows are all alike: average pooling."""
    box = args[0]
    if clean.ndim != 4 or box.axes != (2, 3):
        return None
    if tuple(clean.shape[2:]) == (1, 1):
        return mean_of(box, clean)
    ratios = [divmod(size, out) for size, out in zip(box.grid, clean.shape[2:], strict=True)]
    if any(rest for _, rest in ratios):
        return None
    kernel = [ratio for ratio, _ in ratios]
    return slid(box, clean, windows_of(kernel, kernel, 0), lambda inner: F.avg_pool2d(inner, kernel))


def averaged(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """The mean over all positions."""
    box, dims = args[0], argument(args, kwargs, 1, "dim", ())
    if not isinstance(dims, tuple | list) or kwargs.get("dtype") is not None:
        return None
    gone = {int(dim) % box.clean.ndim for dim in cast(Sequence[int], dims)}
    return mean_of(box, clean) if gone == set(box.axes) else None


def mean_of(box: Box, clean: Tensor) -> Tensor:
    """The clean mean, and by how much the boxes' sums differ from theirs; rounded once, where precision is half."""
    exact = torch.promote_types(clean.dtype, torch.float32)
    change = (box.values.to(exact) - windows(box.clean, box.rows, box.cols, box.axes)).sum(box.axes)
    mean = box.clean.to(exact).mean(box.axes) + change / prod(box.grid)
    return mean.to(clean.dtype).view(len(change), *clean.shape[1:])


def joined(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Activations side by side along another axis."""
    items = args[0]
    if not all(isinstance(item, Box) for item in items):
        return None
    around, axis = union(items), int(argument(args, kwargs, 1, "dim", 0)) % clean.ndim
    if around is None or axis == 0 or axis in items[0].axes:
        return None
    return Box(clean, torch.cat([item.within(*around) for item in items], axis), *around, items[0].axes)


def divided(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Parts along another axis."""
    box = args[0]
    axis = int(argument(args, kwargs, 2, "dim", 0)) % box.clean.ndim
    if axis == 0 or axis in box.axes:
        return None
    parts = func(box.values, *args[1:], **kwargs)
    return tuple(replace(box, clean=whole, values=part) for whole, part in zip(clean, parts, strict=True))


def indexed(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Part of the channels."""
    box, index = args[0], args[1]
    items = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(item, slice) for item in items):
        return None
    kept = [axis for axis, item in enumerate(items) if item == slice(None)]
    if any(axis < len(items) and axis not in kept for axis in (0, *box.axes)):
        return None
    return pointwise(func, args, kwargs, clean)


def padded(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    box, frame = args[0], argument(args, kwargs, 1, "pad")
    mode = argument(args, kwargs, 2, "mode", "constant")
    if mode != "constant" or len(frame) > 4 or min(frame) < 0 or box.axes != (clean.ndim - 2, clean.ndim - 1):
        return None
    left, _, top, _ = (*frame, 0, 0)[:4]
    return replace(box, clean=clean, rows=box.rows.shifted(top), cols=box.cols.shifted(left))


def permuted(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """The axes in another order, which is read off an index of them."""
    box = args[0]
    ndim = box.clean.ndim
    numbers = torch.empty(list(range(1, ndim + 1)), device="meta")
    order = [size - 1 for size in func(numbers, *args[1:], **kwargs).shape]
    if order[0] != 0:
        return None
    axes: Axes = order.index(box.axes[0]), order.index(box.axes[1])
    return replace(box, clean=clean, values=func(box.values, *args[1:], **kwargs), axes=axes)


def reshaped(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
    """Channels in groups, or together again; rows and columns stay last."""
    box, ndim = args[0], clean.ndim
    last = box.axes == (box.clean.ndim - 2, box.clean.ndim - 1)
    if not last or ndim < 4 or tuple(clean.shape[-2:]) != box.grid:
        return None
    values = box.values.reshape(len(box.values), *clean.shape[1:-2], box.rows.size, box.cols.size)
    return replace(box, clean=clean, values=values, axes=(ndim - 2, ndim - 1))


def alone(rule: Rule) -> Rule:
    """The rule, for operations that read one box, and read it first."""

    def checked(func: Callable[..., Any], args: Args, kwargs: dict[str, Any], clean: Any) -> Boxes:
        others = tree_leaves((args[1:], kwargs))
        if not args or not isinstance(args[0], Box) or any(isinstance(item, Box) for item in others):
            return None
        return rule(func, args, kwargs, clean)

    return checked


ACTIVATIONS = """
relu relu6 hardtanh leaky_relu rrelu elu selu celu gelu silu mish hardswish hardsigmoid sigmoid logsigmoid tanh softplus
softsign threshold clamp clamp_min clamp_max exp log sqrt rsqrt square abs neg dropout dropout2d feature_dropout
alpha_dropout feature_alpha_dropout contiguous clone detach data float double half bfloat16 to
"""
OPERATORS = "add sub mul div true_divide multiply subtract divide maximum minimum pow"
SPECIAL = "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow"

RULES: dict[str, Rule] = {
    **{name + end: alone(activated) for name in ACTIVATIONS.split() for end in ("", "_")},
    **{name + end: combined for name in OPERATORS.split() for end in ("", "_")},
    **{f"__{name}__": combined for name in SPECIAL.split()},
    "batch_norm": alone(normed),
    "prelu": alone(pointwise),
    "linear": alone(last_axis),
    "convolution_linear": alone(last_axis),
    "layer_norm": alone(last_axis),
    "rms_norm": alone(last_axis),
    "conv2d": alone(convolved),
    "max_pool2d": alone(max_pooled),
    "avg_pool2d": alone(average_pooled),
    "adaptive_avg_pool2d": alone(adaptive_average),
    "mean": alone(averaged),
    "cat": joined,
    "concat": joined,
    "chunk": alone(divided),
    "split": alone(divided),
    "__getitem__": alone(indexed),
    "pad": alone(padded),
    "permute": alone(permuted),
    "transpose": alone(permuted),
    "swapaxes": alone(permuted),
    "movedim": alone(permuted),
    "view": alone(reshaped),
    "reshape": alone(reshaped),
    "unflatten": alone(reshaped),
}
