"""Attention of transformers: the weights of every block, and how tokens lie in the image.

Weights are read from operations, not from modules: fused kernels, `nn.MultiheadAttention` and a softmax written out
all give the same maps, whoever wrote the network.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glasshouse.core.errors import BadModel, NothingMatched
from glasshouse.core.field import argument
from glasshouse.core.layers import LayerGeometry, geometry, learnt
from glasshouse.core.trace import Op, Trace, layer_events, plain_attention

Attention: TypeAlias = Float[Tensor, "n heads q t"]
"""How much each query token takes from each token; every row sums to 1."""


def dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` in the operations that it is made of."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = torch.matmul(query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


multi_head_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    "multi_head_attention",
    F.multi_head_attention_forward.__defaults__,
    F.multi_head_attention_forward.__closure__,
)
"""torch's own function, except that it does not ask whether somebody overrides it: so its operations can be seen."""


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": dot_product_attention,
    "multi_head_attention_forward": partial(multi_head_attention, need_weights=False),
}
"""Fused operations by name, and what computes the same with a softmax that can be seen."""


class Keep(TorchFunctionMode):
    """Writes fused attention out, and keeps the weights of all attention by the layer that computed them."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.maps: dict[str, Tensor] = {}

    def enter(self, layer: str, args: Any) -> None:
        self.stack.append(layer)

    def leave(self, layer: str, args: Any, output: Any) -> None:
        self.stack.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        if name in WRITTEN_OUT:
            kwargs = {key: value for key, value in kwargs.items() if key != "need_weights"}
            with self:
                return WRITTEN_OUT[name](*args, **kwargs)
        out = func(*args, **kwargs)
        if name == "softmax" and over_tokens(out.shape, kwargs.get("dim", args[1] if len(args) > 1 else None)):
            layer = self.stack[-1] if self.stack else ""
            runs = sum(kept.split("#")[0] == layer for kept in self.maps)
            if torch.is_grad_enabled():
                out.requires_grad_()  # also where it does not depend on the image
            self.maps[f"{layer}#{runs}" if runs else layer] = out
        return out


def over_tokens(shape: Sequence[int], dim: int | None) -> bool:
    """Whether a softmax is attention's: over the last of `n heads q t`, or more axes."""
    return len(shape) >= 4 and dim in (-1, len(shape) - 1)


@contextmanager
def attention_maps(model: nn.Module) -> Generator[Mapping[str, Tensor]]:
    """Keep the attention weights of every layer while the model runs inside the `with`.

        with attention_maps(model) as maps:
            model(images)
        maps["blocks.3.attn"]               # n heads q t, attached to the graph

    In order of execution, by the layer that attends; a second run of the same layer is `name#1`. Dropout of
    attention weights is left out, as in evaluation mode.
    """
    keep = Keep()
    with layer_events(model, keep.enter, keep.leave), plain_attention(), keep:
        yield keep.maps


def token_layout(model: nn.Module, inputs: Tensor) -> LayerGeometry:
    """How the tokens that attend to each other lie in the image: their grid, and how many stand before it.

    Every block must attend from all tokens to all; other networks raise. Costs one forward of one image, once per
    size of input.
    """
    n_tokens = learnt(model, inputs, tokens_attending)
    for layer in geometry(model, inputs).layers.values():
        if layer.axes == "ntk" and layer.shape[1] == n_tokens:
            return layer
    raise BadModel(f"{type(model).__name__} attends among {n_tokens} tokens, whose places in the image are not known.")


def tokens_attending(model: nn.Module, trace: Trace) -> int:
    """How many tokens there are in every block."""
    attending = [(op.layer, shape) for op in trace.ops if (shape := shape_of_weights(op, trace))]
    if not attending:
        raise no_attention(model)
    n_tokens = attending[0][1][-1]
    for layer, shape in attending:
        if len(shape) != 4 or shape[0] != 1 or set(shape[2:]) != {n_tokens}:
            raise not_global(layer, shape, n_tokens)
    return n_tokens


def token_entry(model: nn.Module, inputs: Tensor) -> str:
    """The input of the first block: the place through which all passes that the network knows of the image."""
    return learnt(model, inputs, entry)


def entry(model: nn.Module, trace: Trace) -> str:
    """The outermost layer around the first attention that is given the tokens, where nothing bypasses them."""
    n_tokens = tokens_attending(model, trace)
    first = next(number for number, op in enumerate(trace.ops) if shape_of_weights(op, trace))
    path = trace.ops[first].layer.split(".")
    given: dict[str, int] = {}
    for depth in range(len(path), 0, -1):
        calls = trace.calls.get(name := ".".join(path[:depth]), [])
        if len(calls) == 1 and calls[0].inputs and carries_all(trace, calls[0].inputs[0], calls[0].started):
            given[name] = calls[0].inputs[0]
    tokens = [value for value in given.values() if trace.shapes[value][1:-1] == (n_tokens,)]
    if not tokens:
        raise BadModel(
            f"no layer around the first attention of this {type(model).__name__} is given all {n_tokens} tokens, and "
            "nothing else of the image is read behind it.",
            "Use occlusion, which covers pixels and leaves all tokens in place.",
        )
    return f"{[name for name, value in given.items() if value == tokens[0]][-1]}.input"


def shape_of_weights(op: Op, trace: Trace) -> tuple[int, ...]:
    """`n heads q t` of an operation that attends; empty for all others."""
    if op.name == "softmax":
        shape = trace.shapes[op.outputs[0]]
        return shape if over_tokens(shape, argument(op, 1, "dim", None)) else ()
    if op.name not in WRITTEN_OUT:
        return ()
    q, k = (trace.shapes[value] for value in op.inputs[:2])
    if op.name == "multi_head_attention_forward":
        return q[1], int(op.args[4]), q[0], k[0]
    return (*q[:-1], k[-2])


def carries_all(trace: Trace, value: int, start: int) -> bool:
    """Whether operations from number `start` on read nothing of the image but `value` and what they make of it."""
    seen = set(trace.inputs)
    for op in trace.ops[:start]:
        if seen.intersection(op.inputs):
            seen.update(op.outputs)
    return all(v == value or v not in seen for op in trace.ops[start:] for v in op.inputs)


def no_attention(model: nn.Module) -> NothingMatched:
    kinds = Counter(type(m).__name__ for m in model.modules() if not list(m.children())).most_common(5)
    seen = ", ".join(f"{kind} ({count})" for kind, count in kinds)
    return NothingMatched(
        f"no attention among tokens in this {type(model).__name__}: it has {seen}.",
        "Use a method that needs none, such as grad_cam or occlusion.",
    )


def not_global(layer: str, shape: Sequence[int], n_tokens: int) -> NothingMatched:
    windows = len(shape) > 4 or shape[0] > 1
    where = "within windows" if windows else f"from {shape[-2]} tokens to {shape[-1]}, not from all {n_tokens} to all"
    return NothingMatched(
        f"layer '{layer}' attends {where} (weights {tuple(shape)}), so attention cannot be followed token by token.",
        "Use a method on the image or on a layer, such as occlusion, integrated_gradients or grad_cam.",
    )
