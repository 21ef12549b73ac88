"""Where a unit is: the axes of a layer's output, and the part of the image that each of its positions sees.

Both are read from one recorded forward pass (`trace`). Every value carries the meaning of its axes, one letter each
(`n` images, `k` units, `i` `j` grid, `t` tokens, `?` unknown), and a receptive field per image axis, composed operation
by operation (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, TypeAlias

from glasshouse.core.trace import Op, Trace


@dataclass(frozen=True)
class Extent:
    """Receptive field along one image axis: position p sees `size` pixels around pixel `start + p * jump`."""

    jump: float = 1.0
    size: float = 1.0
    start: float = 0.0

    def through(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> "Extent":
        """After a window of `kernel` taps, `dilation` apart, moved by `stride` over an input padded by `padding`."""
        reach = (kernel - 1) * dilation
        return Extent(self.jump * stride, self.size + reach * self.jump, self.start + (reach / 2 - padding) * self.jump)

    def sliced(self, first: int, step: int) -> "Extent":
        return Extent(self.jump * step, self.size, self.start + first * self.jump)

    def union(self, other: "Extent") -> "Extent":
        """The smallest extent around both; they must move alike."""
        low = min(self.start - self.size / 2, other.start - other.size / 2)
        high = max(self.start + self.size / 2, other.start + other.size / 2)
        return Extent(self.jump, high - low, (low + high) / 2)


@dataclass(frozen=True)
class View:
    """What is known of one value. `local` is false once positions mix outside their window (attention, gates)."""

    axes: str
    grid: tuple[int, int] | None = None
    rows: Extent = Extent()
    cols: Extent = Extent()
    local: bool = True


Rule: TypeAlias = Callable[[View, Op, list[tuple[int, ...]], tuple[int, ...]], View]


def pair(value: Any) -> tuple[int, int]:
    """A size for rows and columns from an int or a sequence of one or two."""
    if isinstance(value, int | float):
        return int(value), int(value)
    return (int(value[0]), int(value[-1]))


def argument(op: Op, place: int, name: str, default: Any) -> Any:
    if name in op.kwargs:
        return op.kwargs[name]
    return op.args[place] if len(op.args) > place and op.args[place] is not None else default


def slid(view: View, kernel: Any, stride: Any, padding: Any, dilation: Any, out: tuple[int, ...]) -> View:
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel), pair(stride), pair(padding), pair(dilation)
    rows, cols = view.rows.through(kh, sh, ph, dh), view.cols.through(kw, sw, pw, dw)
    return replace(view, axes="nkij", grid=(out[-2], out[-1]), rows=rows, cols=cols)


def convolution(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    kernel, stride = shapes[1][-2:], argument(op, 3, "stride", 1)
    padding, dilation = argument(op, 4, "padding", 0), argument(op, 5, "dilation", 1)
    if isinstance(padding, str):
        reach = [(k - 1) * d for k, d in zip(kernel, pair(dilation), strict=True)]
        padding = 0 if padding == "valid" else [r // 2 for r in reach]
    return slid(view, kernel, stride, padding, dilation, out)


def pooling(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    kernel = argument(op, 1, "kernel_size", 1)
    stride = argument(op, 2, "stride", None) or kernel
    dilation = argument(op, 4, "dilation", 1) if op.name.startswith("max") else 1
    return slid(view, kernel, stride, argument(op, 3, "padding", 0), dilation, out)


def adaptive(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    rows, cols = (shared(e, a, b) for e, a, b in zip((view.rows, view.cols), shapes[0][-2:], out[-2:], strict=True))
    return replace(view, axes="nkij", grid=(out[-2], out[-1]), rows=rows, cols=cols)


def shared(extent: Extent, old: int, new: int) -> Extent:
    """After `old` positions were shared out among `new`: window p reaches from floor(p old/new) to ceil((p+1) old/new).

    Where that does not divide evenly the windows differ; the extent then holds the widest, a position more at most.
    """
    ratio = old / new
    reach = ratio + 2 * (1 - gcd(old, new) / new) - 1
    return Extent(extent.jump * ratio, extent.size + reach * extent.jump, extent.start + (ratio - 1) / 2 * extent.jump)


def padded(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    amounts = list(argument(op, 1, "pad", []))
    starts = {len(out) - 1 - place // 2: amounts[place] for place in range(0, len(amounts), 2)}
    return cut(view, {axis: (-amount, 1) for axis, amount in starts.items()}, out)


def cut(view: View, moves: dict[int, tuple[int, int]], out: tuple[int, ...]) -> View:
    """Rows and columns after slicing: `moves` gives (first, step) by axis."""
    if "i" not in view.axes:
        return view
    i, j = view.axes.index("i"), view.axes.index("j")
    rows, cols = view.rows.sliced(*moves.get(i, (0, 1))), view.cols.sliced(*moves.get(j, (0, 1)))
    return replace(view, grid=(out[i], out[j]), rows=rows, cols=cols)


def indexed(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    index, shape = op.args[1], shapes[0]
    items = list(index) if isinstance(index, tuple) else [index]
    if any(not isinstance(item, int | slice) and item is not Ellipsis for item in items):
        return lost(view, op, shapes, out)
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    items += [slice(None)] * (len(shape) - len(items))
    axes = "".join(a for a, item in zip(view.axes, items, strict=True) if isinstance(item, slice))
    moves = {
        axis: (item.indices(size)[0], item.indices(size)[2])
        for axis, (item, size) in enumerate(zip(items, shape, strict=True))
        if isinstance(item, slice)
    }
    if ("i" in view.axes) and "i" in axes and "j" in axes and len(axes) == len(view.axes):
        return cut(view, moves, out)
    return replace(view, axes=axes, local=view.local and "t" in axes)


def permuted(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    n = len(view.axes)
    if op.name == "permute":
        order = op.args[1] if isinstance(op.args[1], tuple | list) else op.args[1:]
        return replace(view, axes="".join(view.axes[int(axis) % n] for axis in order))
    a, b = int(argument(op, 1, "dim0", 0)) % n, int(argument(op, 2, "dim1", 1)) % n
    swapped = list(view.axes)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    return replace(view, axes="".join(swapped))


def reshaped(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    """Axes that keep their sizes keep their names; a grid may fold into tokens and unfold again."""
    shape, axes = shapes[0], view.axes
    if tuple(shape) == tuple(out):
        return view
    for merged, split in (("nkt", "nkij"), ("ntk", "nijk")):
        if axes == split and len(out) == 3 and out == folded(shape, split):
            return replace(view, axes=merged)
        if axes == merged and len(out) == 4 and view.grid and folded(out, split) == tuple(shape):
            i = split.index("i")
            return replace(view, axes=split, grid=(out[i], out[i + 1]))
    if "k" in axes and len(out) == 2 and out[1] == shape[axes.index("k")]:
        return replace(view, axes="nk")
    if len(out) == 4 and "?" in axes and out[0] == 1 and view.grid:
        first, last = tuple(out[2:]) == view.grid, tuple(out[1:3]) == view.grid
        if first != last:
            return replace(view, axes="nkij" if first else "nijk")
    return lost(view, op, shapes, out)


def folded(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    i = axes.index("i")
    return (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])


def lost(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    return replace(view, axes="?" * len(out))


def channels_last(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    """Linear maps and layer norms act on the last axis, so that axis holds the units."""
    if len(out) == 2:
        return replace(view, axes="nk", local=view.local and view.axes == "nk")
    if "?" not in view.axes:
        return view if view.axes[-1] == "k" else mixed(view, op, shapes, out)
    if out[0] != 1 or len(out) not in (3, 4):
        return lost(view, op, shapes, out)
    if len(out) == 3:
        return replace(view, axes="ntk")
    return replace(regridded(view, (out[1], out[2])), axes="nijk")


def regridded(view: View, grid: tuple[int, int]) -> View:
    """A view whose positions were regrouped out of sight: each now stands for an equal share of the image."""
    if not view.grid or view.grid == grid:
        return replace(view, grid=grid)
    jumps = (e.jump * old / new for e, old, new in zip((view.rows, view.cols), view.grid, grid, strict=True))
    rows, cols = (Extent(jump, jump, (jump - 1) / 2) for jump in jumps)
    return replace(view, grid=grid, rows=rows, cols=cols)


def reduced(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    dims = argument(op, 1, "dim", None)
    if dims is None or not isinstance(dims, int | tuple | list):
        return lost(view, op, shapes, out)
    n = len(view.axes)
    gone = {int(d) % n for d in ([dims] if isinstance(dims, int) else dims)}
    spatial = any(view.axes[d] in "ijt" for d in gone)
    axes = view.axes if len(out) == n else "".join(a for d, a in enumerate(view.axes) if d not in gone)
    grid = (1, 1) if spatial and len(out) == n else view.grid
    return replace(view, axes=axes, grid=grid, local=view.local and not spatial)


def mixed(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    return replace(lost(view, op, shapes, out), local=False)


def global_mix(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    return replace(same(view, op, shapes, out), local=False)


def same(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    return view if len(view.axes) == len(out) else lost(view, op, shapes, out)


def resized(view: View, op: Op, shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    rows, cols = (
        Extent(e.jump * a / b, e.size + e.jump, e.start + (a / b - 1) * e.jump / 2)
        for e, a, b in zip((view.rows, view.cols), shapes[0][-2:], out[-2:], strict=True)
    )
    return replace(view, grid=(out[-2], out[-1]), rows=rows, cols=cols)


RULES: dict[str, Rule] = {
    "conv2d": convolution,
    "max_pool2d": pooling,
    "max_pool2d_with_indices": pooling,
    "avg_pool2d": pooling,
    "lp_pool2d": pooling,
    "adaptive_avg_pool2d": adaptive,
    "adaptive_max_pool2d": adaptive,
    "pad": padded,
    "__getitem__": indexed,
    "permute": permuted,
    "transpose": permuted,
    "swapaxes": permuted,
    "flatten": reshaped,
    "unflatten": reshaped,
    "reshape": reshaped,
    "view": reshaped,
    "squeeze": reshaped,
    "unsqueeze": reshaped,
    "linear": channels_last,
    "convolution_linear": channels_last,
    "layer_norm": channels_last,
    "rms_norm": channels_last,
    "mean": reduced,
    "roll": same,
    "sum": reduced,
    "amax": reduced,
    "interpolate": resized,
    "upsample": resized,
    "group_norm": global_mix,
    "instance_norm": global_mix,
    "scaled_dot_product_attention": mixed,
    "multi_head_attention_forward": global_mix,
    "matmul": mixed,
    "__matmul__": mixed,
    "bmm": mixed,
    "einsum": mixed,
    "conv_transpose2d": mixed,
}


def views(trace: Trace) -> dict[int, View]:
    """The view of every value that descends from the input."""
    known: dict[int, View] = {}
    for value in trace.inputs:
        shape = trace.shapes[value]
        known[value] = View("nkij", (shape[-2], shape[-1])) if len(shape) == 4 else View("?" * len(shape))
    for op in trace.ops:
        parents = [known[value] for value in op.inputs if value in known]
        if not parents:
            continue
        shapes = [trace.shapes[value] for value in op.inputs]
        for value in op.outputs:
            out = trace.shapes[value]
            view = join([known.get(v) for v in op.inputs], shapes, out)
            known[value] = RULES.get(op.name, same)(view, op, shapes, out)
    return known


def join(parents: list[View | None], shapes: list[tuple[int, ...]], out: tuple[int, ...]) -> View:
    """One view for several inputs: the axes of the one most like the output, the union of their fields."""
    found = [(view, shape) for view, shape in zip(parents, shapes, strict=True) if view is not None]

    def fit(item: tuple[View, tuple[int, ...]]) -> tuple[bool, bool, int]:
        view, shape = item
        return "?" not in view.axes, len(shape) == len(out), prod(shape)

    main, shape = max(found, key=fit)
    for view, other in found:
        alike = view.grid == main.grid and len(other) == len(shape) and view.rows.jump == main.rows.jump
        if alike and "?" not in view.axes:
            rows, cols = main.rows.union(view.rows), main.cols.union(view.cols)
            main = replace(main, rows=rows, cols=cols)
        spread = view.grid == (1, 1) != main.grid  # one value for all positions, such as a gate
        main = replace(main, local=main.local and view.local and not spread)
    return main
