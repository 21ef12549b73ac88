"""Layers by name: the axes, units and receptive field of each, and which of them is the usual one to look at."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core.errors import BadModel, LayerNotFound, NothingMatched, not_found
from glasshouse.core.field import Extent, View, views
from glasshouse.core.trace import Trace, record, structure

R = TypeVar("R")
MOST_PREFIX_TOKENS = 16
ATTENTION = {"scaled_dot_product_attention", "multi_head_attention_forward", "softmax"}


@dataclass(frozen=True)
class LayerGeometry:
    """Axes and receptive field of one layer's output.

    Args:
        axes: meaning of each axis: `nkij` (channels first), `nijk` (channels last), `ntk` (tokens), `nk` (neither).
        shape: of the output for one image.
        units: how many output channels there are.
        grid: positions as (rows, columns); (1, 1) without positions.
        prefix: tokens before the grid's own (class token, registers).
        rows, cols: receptive field in pixels of the input.
        local: whether a position sees its window only; else the window is the direct path, beside global ones.
        calls: how often the layer ran in one forward pass.
    """

    name: str
    kind: str
    axes: str
    shape: tuple[int, ...]
    units: int
    grid: tuple[int, int]
    prefix: int
    rows: Extent
    cols: Extent
    local: bool
    calls: int
    image: tuple[int, int]

    @property
    def spatial(self) -> bool:
        """Whether units have more than one position."""
        return "k" in self.axes and prod(self.grid) > 1

    def maps(self, output: Tensor) -> Float[Tensor, "n k i j"]:
        """The layer's output (or anything of its shape) as `n k i j`; tokens before the grid are left out."""
        if self.axes == "nkij":
            return output
        if self.axes == "nijk":
            return output.permute(0, 3, 1, 2)
        if self.axes == "nk":
            return output[:, :, None, None]
        tokens = output if self.axes == "ntk" else output.transpose(1, 2)
        i, j = self.grid
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, (i, j))

    def unmaps(self, maps: Float[Tensor, "n k i j"], output: Tensor) -> Tensor:
        """The inverse of `maps`: `output` with its grid part replaced."""
        if self.axes == "nkij":
            return maps
        if self.axes == "nijk":
            return maps.permute(0, 2, 3, 1)
        if self.axes == "nk":
            return maps[:, :, 0, 0]
        tokens = maps.flatten(2).transpose(1, 2)
        before = output if self.axes == "ntk" else output.transpose(1, 2)
        whole = torch.cat([before[:, : self.prefix], tokens], 1)
        return whole if self.axes == "ntk" else whole.transpose(1, 2)

    def boxes(self, positions: Int[Tensor, " p"], clip: bool = True) -> Int[Tensor, "p 4"]:
        """Pixels seen from flat grid positions, as (top, left, bottom, right), the last two exclusive."""
        j = self.grid[1]
        sides: list[Tensor] = []
        for extent, at, limit in (
            (self.rows, positions // j, self.image[0]),
            (self.cols, positions % j, self.image[1]),
        ):
            centre = extent.start + at.double() * extent.jump
            low, high = (centre - (extent.size - 1) / 2).floor(), (centre + (extent.size - 1) / 2).ceil() + 1
            sides += [low.clamp(0, limit - 1), high.clamp(1, limit)] if clip else [low, high]
        top, bottom, left, right = sides
        return torch.stack([top, left, bottom, right], 1).long()


@dataclass(frozen=True)
class Geometry:
    """Geometry of all layers that ran, in the order in which they finished."""

    layers: dict[str, LayerGeometry]
    default: str | None

    def __getitem__(self, layer: str) -> LayerGeometry:
        name = layer.split("#")[0]
        if name not in self.layers:
            raise not_found("layer", name, self.layers, LayerNotFound)
        return self.layers[name]

    def usual(self) -> str:
        """The layer that class activation maps use when none is named."""
        if self.default is None:
            raise BadModel("no layer of this model has a spatial output.", "Name one with layer=….")
        return self.default


def describe(
    name: str, kind: str, view: View | None, shape: tuple[int, ...], calls: int, trace: Trace
) -> LayerGeometry:
    image = trace.shapes[trace.inputs[0]][-2:]
    axes = view.axes if view else "?"
    grid, prefix = (1, 1), 0
    if view and axes in ("nkij", "nijk"):
        grid = (shape[axes.index("i")], shape[axes.index("j")])
    elif view and axes in ("ntk", "nkt"):
        tokens = shape[axes.index("t")]
        positions = prod(view.grid) if view.grid else 0
        if positions and 0 <= tokens - positions <= MOST_PREFIX_TOKENS:
            grid, prefix = view.grid or (1, 1), tokens - positions
        else:
            axes = "?"
    elif axes != "nk":
        axes = "?" * len(shape)
    units = shape[axes.index("k")] if "k" in axes else 0
    rows, cols, local = (view.rows, view.cols, view.local) if view else (Extent(), Extent(), False)
    size = (int(image[0]), int(image[-1]))
    return LayerGeometry(name, kind, axes, tuple(shape), units, grid, prefix, rows, cols, local, calls, size)


def survey(model: nn.Module, trace: Trace) -> Geometry:
    """Geometry of every layer in a recorded pass."""
    known, layers = views(trace), dict[str, LayerGeometry]()
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    for name in dict.fromkeys(trace.finished):
        calls = trace.calls[name]
        for suffix, values in (("", calls[-1].outputs), (".input", calls[-1].inputs)):
            if values:
                shape = trace.shapes[values[0]]
                layers[name + suffix] = describe(
                    name + suffix, kinds[name], known.get(values[0]), shape, len(calls), trace
                )
    return Geometry(layers, usual_layer(trace, layers))


def usual_layer(trace: Trace, layers: dict[str, LayerGeometry]) -> str | None:
    """The last layer with positions; behind a class token, the stream that enters the last attention block."""
    spatial = [
        name
        for name in dict.fromkeys(trace.finished)
        if layers[name].spatial and layers[name].calls == 1 and not layers[name].kind.startswith("Adaptive")
    ]
    attention = [op.layer for op in trace.ops if op.name in ATTENTION]
    if attention and spatial and layers[spatial[-1]].prefix:
        ended = {name: trace.calls[name][-1].ended for name in spatial}
        block = attention[-1]
        while block:
            parent = block.rpartition(".")[0]
            if block in trace.calls:
                start = trace.calls[block][-1].started
                before = [n for n in spatial if n.rpartition(".")[0] == parent and ended[n] <= start]
                if any(layers[n].kind == layers[block].kind for n in before):
                    return before[-1]
            block = parent
    if not spatial:
        return None
    last = trace.calls[spatial[-1]][-1].outputs[0]
    same_value = [name for name in spatial if trace.calls[name][-1].outputs[:1] == (last,)]
    return min(same_value, key=lambda name: name.count("."))


_known: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def learnt(model: nn.Module, inputs: Tensor, look: Callable[[nn.Module, Trace], R]) -> R:
    """What `look` makes of a recorded pass. Costs one forward of one image, once per size of input."""
    key = (look, tuple(inputs.shape[1:]), inputs.dtype, inputs.device, structure(model))
    found = _known.setdefault(model, {})
    if key not in found:
        found[key] = look(model, record(model, inputs[:1].detach()))
    return found[key]


def geometry(model: nn.Module, inputs: Tensor) -> Geometry:
    """Axes and receptive fields of all layers for inputs of this size. Costs one forward of one image, once."""
    return learnt(model, inputs, survey)


def unit_maps(model: nn.Module, inputs: Tensor, layer: str) -> LayerGeometry:
    """Geometry of one layer, which must have units that can be told apart."""
    found = geometry(model, inputs)[layer]
    if "k" not in found.axes:
        raise NothingMatched(
            f"cannot tell the units of layer '{layer}' ({found.kind}, output {found.shape}) from its positions.",
            "Choose a convolution, a normalisation, a linear layer or a block; `glasshouse list layers` shows them.",
        )
    return found
