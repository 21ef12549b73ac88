"""Which operation has which account of a difference: multipliers, its own gradient, or none."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from glasshouse.attribute.multipliers import (
    Pair,
    attention,
    chord,
    log_softmax,
    max_pool,
    midpoint,
    norm,
    quotient,
    softmax,
)
from glasshouse.core import BadModel
from glasshouse.core.backward import KINDS, inplace_argument
from glasshouse.core.trace import tensors

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """One call of an operation, with its arguments for the image and for the baseline."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    silent: Arguments

    def run(self, *args: Any) -> Any:
        """The operation on other arguments of the same kind; one that writes is given a copy to write to."""
        first = args[0].clone() if in_place(self.function, self.args, self.kwargs) else args[0]
        return self.function(first, *args[1:], **self.kwargs)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def pair(self, place: int, name: str = "input") -> Pair:
        args, kwargs = self.silent
        return Pair(self.argument(place, name), args[place] if len(args) > place else kwargs[name])


Account: TypeAlias = Callable[[Call], Any]
"""Computes an operation so that its gradient accounts for the difference that the baseline makes."""


def depends(tensor: Tensor) -> bool:
    """Whether a tensor is made from the images."""
    return tensor.requires_grad and not isinstance(tensor, nn.Parameter)


def plain_name(function: Callable[..., Any]) -> str:
    """`relu_`, `_threshold` and `__mul__` without their underscores."""
    return function.__name__.strip("_")


def in_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    name = function.__name__
    marked = name.endswith("_") and not name.endswith("__")
    return marked or bool(kwargs.get("inplace")) or inplace_argument(name, args)


def no_rule(name: str) -> BadModel:
    return BadModel(
        f"deep_lift has no rule for '{name}', through which this model passes what it sees.",
        "Use integrated_gradients, which needs none.",
    )


def of_each_number(call: Call) -> Tensor:
    if any(map(depends, tensors((call.args[1:], call.kwargs)))):
        raise no_rule(call.function.__name__)
    return chord(lambda x: call.run(x, *call.args[1:]), call.pair(0)).image


def of_product(call: Call) -> Any:
    """Linear where only one factor is made from the images."""
    factors = tensors((call.args, call.kwargs))
    if sum(map(depends, factors)) < 2:
        return call.run(*call.args)
    if sum(map(depends, factors)) > 2 or tensors(call.kwargs):
        raise no_rule(call.function.__name__)

    def product(*values: Tensor) -> Tensor:
        given = iter(values)
        return call.run(*tree_map(lambda leaf: next(given) if isinstance(leaf, Tensor) else leaf, call.args))

    return midpoint(product, *map(Pair, factors, tensors(call.silent[0]))).image


def of_quotient(call: Call) -> Tensor:
    """Linear where only what is divided is made from the images."""
    upper, lower = call.argument(0, "input"), call.argument(1, "other")
    if plain_name(call.function) in ("rdiv", "rtruediv"):
        return chord(torch.reciprocal, call.pair(0)).image * lower
    if call.argument(2, "rounding_mode"):
        raise no_rule("div with rounding")
    if not isinstance(lower, Tensor) or not depends(lower):
        return call.run(*call.args)
    if not isinstance(upper, Tensor):
        return chord(torch.reciprocal, call.pair(1, "other")).image * upper
    return quotient(call.pair(0), call.pair(1, "other")).image


def of_softmax(call: Call) -> Tensor:
    rule = softmax if plain_name(call.function) == "softmax" else log_softmax
    return rule(call.pair(0), int(call.argument(1, "dim"))).image


def of_layer_norm(call: Call) -> Tensor:
    shape, weight, bias = call.argument(1, "normalized_shape"), call.argument(2, "weight"), call.argument(3, "bias")
    out = norm(call.pair(0), tuple(range(-len(shape), 0)), call.argument(4, "eps", 1e-5)).image
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def of_group_norm(call: Call) -> Tensor:
    groups, weight, bias = call.argument(1, "num_groups"), call.argument(2, "weight"), call.argument(3, "bias")
    x = call.pair(0)
    shape = (1, -1) + (1,) * (x.image.ndim - 2)
    out = norm(x.map(lambda v: v.unflatten(1, (groups, -1)).flatten(2)), (-1,), call.argument(4, "eps", 1e-5)).image
    out = out.view_as(x.image)
    out = out if weight is None else out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def of_max_pool(call: Call) -> Any:
    pool = F.adaptive_max_pool2d if "adaptive" in call.function.__name__ else F.max_pool2d_with_indices
    settings = {**call.kwargs, "return_indices": True}
    if call.kwargs.get("return_indices") or "indices" in call.function.__name__:
        raise no_rule(f"{call.function.__name__} with its indices")
    return max_pool(lambda x: pool(x, *call.args[1:], **settings), call.pair(0)).image


def of_attention(call: Call) -> Tensor:
    query, key, value = (call.pair(place, name) for place, name in enumerate(("query", "key", "value")))
    mask, scale = call.argument(3, "attn_mask"), call.kwargs.get("scale")
    if call.argument(5, "is_causal") or call.kwargs.get("enable_gqa") or (mask is not None and depends(mask)):
        raise no_rule("scaled_dot_product_attention with a causal mask, groups or a mask made from the image")
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.image.dtype).masked_fill(~mask, -torch.inf)
    return attention(query, key, value, mask, scale or 1 / sqrt(query.image.shape[-1]))[0].image


MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def of_multi_head_attention(call: Call) -> tuple[Tensor, Tensor | None]:
    """`nn.MultiheadAttention`, one operation in torch: projections, attention of each head, projection."""
    given = MULTI_HEAD.bind(*call.args, **call.kwargs)
    given.apply_defaults()
    a = given.arguments
    unusual = ("bias_k", "bias_v", "add_zero_attn", "use_separate_proj_weight", "key_padding_mask", "attn_mask")
    if any(a[name] is not None and a[name] is not False for name in unusual) or a["query"].ndim != 3:
        raise no_rule("multi_head_attention_forward with masks or weights of its own for each projection")
    weights = a["in_proj_weight"].chunk(3)
    biases = a["in_proj_bias"].chunk(3) if a["in_proj_bias"] is not None else (None,) * 3
    length, n, _ = a["query"].shape

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (a["num_heads"], -1)).permute(1, 2, 0, 3)

    def projected(place: int) -> Pair:
        tokens = call.pair(place, ("query", "key", "value")[place])
        return tokens.map(lambda t: heads(F.linear(t, weights[place], biases[place])))

    query, key, value = map(projected, range(3))
    out, shares = attention(query, key, value, None, 1 / sqrt(query.image.shape[-1]))
    joined = out.image.permute(2, 0, 1, 3).reshape(length, n, -1)
    seen = shares.image.mean(1) if a["average_attn_weights"] else shares.image
    return F.linear(joined, a["out_proj_weight"], a["out_proj_bias"]), seen if a["need_weights"] else None


ELEMENTWISE = {name.rstrip("_") for name in KINDS} - {"softmax", "glu"} | {
    "abs",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "pow",
    "sin",
    "cos",
    "erf",
}
ACCOUNTS: dict[str, Account] = {
    **dict.fromkeys(ELEMENTWISE, of_each_number),
    **dict.fromkeys(("mul", "rmul", "multiply", "matmul", "rmatmul", "bmm", "mm", "einsum"), of_product),
    **dict.fromkeys(("div", "rdiv", "truediv", "rtruediv", "divide", "true_divide"), of_quotient),
    **dict.fromkeys(("softmax", "log_softmax"), of_softmax),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d"), of_max_pool),
    "layer_norm": of_layer_norm,
    "group_norm": of_group_norm,
    "scaled_dot_product_attention": of_attention,
    "multi_head_attention_forward": of_multi_head_attention,
}
WEIGHTED = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear convolution_linear".split()  # noqa: SIM905
)
LINEAR = WEIGHTED | frozenset(
    "add radd iadd sub rsub isub subtract neg mean sum cumsum cat concat concatenate stack hstack vstack batch_norm "  # noqa: SIM905
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout unfold fold pad constant_pad_nd "
    "pixel_shuffle pixel_unshuffle channel_shuffle reshape view view_as reshape_as flatten unflatten ravel permute "
    "movedim moveaxis transpose swapaxes t squeeze unsqueeze expand expand_as broadcast_to repeat repeat_interleave "
    "tile chunk split tensor_split unbind getitem setitem get select narrow gather index_select take_along_dim "
    "diagonal roll flip fliplr flipud rot90 contiguous clone to type type_as float double half bfloat16".split()
)
"""Operations whose own gradient accounts for any difference, in evaluation mode and with weights that stay."""


def own_gradient_accounts(name: str, given: Arguments) -> bool:
    """Whether an operation is linear in what is made from the images."""
    return name in LINEAR and (name not in WEIGHTED or sum(map(depends, tensors(given))) < 2)
