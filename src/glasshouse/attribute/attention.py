"""Attention followed through the blocks of a Vision Transformer, from the tokens that are read back to the image."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.attribute.answers import wide
from glasshouse.core import (
    BadInput,
    Cost,
    Images,
    LayerMaps,
    NothingMatched,
    PerImage,
    Reading,
    Target,
    generator,
    method,
    select,
)
from glasshouse.core.attention import Attention, attention_maps, token_layout
from glasshouse.core.gradient import gradient
from glasshouse.core.target import logits

Heads = Literal["mean", "max", "min"]


@method(
    cost=lambda settings, shape: Cost(1, 1),
    class_sensitive=False,
    warning="It shows where attention could carry information from, not what was made of it; the class plays no part.",
    paper="Abnar & Zuidema, ACL 2020",
    needs="attention",
)
def attention_rollout(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    heads: Heads = "mean",
    discard_ratio: float = 0.0,
    score: Reading = "logit",
) -> tuple[LayerMaps, dict[str, Tensor]]:
    """The share of each patch in what the classifier reads, were every block a weighted mean of its tokens.

        R = A_L ... A_2 A_1,   A_l = rownorm(heads' attention + I),   map = R[class token, patches]

    Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020, sec. 3. The class is only recorded.
    `extras["tokens"]` holds the row of R over all tokens, which sums to 1. Where the classifier reads several tokens
    (a mean over patches, a distillation token), it is the mean of their rows. Costs the way back through the last
    block besides the forward pass, to see which tokens are read.

    Args:
        heads: one matrix from all heads: their mean (the paper's), or entry by entry the largest or smallest.
        discard_ratio: share of each matrix, its smallest entries, that is set to 0 before the identity is added.
    """
    if not 0 <= discard_ratio < 1:
        raise BadInput(f"discard_ratio {discard_ratio} is no share.", "Use 0 to keep all attention, or less than 1.")
    layout = token_layout(model, inputs)
    with attention_maps(model) as maps:
        output = model(inputs.requires_grad_())
    select(output, target, score)
    attention, values = list(maps.values()), logits(output).flatten(1)
    some = values @ torch.rand(values.shape[1], generator=generator(0)).to(values)  # whatever is read shows in it
    row = shares(gradient(some, attention[-1]))
    if not row.any(1).all():
        raise NothingMatched(
            "the output depends on no token of the last block.", "Train the network first: new ones have a zero head."
        )
    for weights in reversed(attention):
        block = one_head(weights.detach(), heads, discard_ratio).to(row)
        row = row / (1 + block.sum(2))
        row = row + through(row, block)
    return layout.maps(row[:, :, None])[:, 0], {"tokens": row}


@method(cost=lambda settings, shape: Cost(1, 1), paper="Chefer, Gur & Wolf, ICCV 2021", needs="attention")
def attention_relevance(
    model: nn.Module, inputs: Images, target: Target = None, *, score: Reading = "logit"
) -> tuple[LayerMaps, dict[str, Tensor]]:
    """How relevant each patch is for the class, by the attention that raises its score, block after block.

        R <- R + B R,   B = mean_heads(relu(dy/dA * A)),   R = I at first,   map = (R - I)[class token, patches]

    Chefer, Gur and Wolf, "Generic attention-model explainability for interpreting bi-modal and encoder-decoder
    transformers", ICCV 2021, eqs. 5-6. `extras["tokens"]` holds the row over all tokens.

    Differs: where the score reads several tokens (a mean over patches, a distillation token), the map is the mean of
    their rows; I is taken off, since each of them would otherwise show itself. A class token's map stays as it is.
    """
    layout = token_layout(model, inputs)
    with attention_maps(model) as maps:
        y = select(model(inputs.requires_grad_()), target, score)
    attention = list(maps.values())
    slopes = gradients(y, attention)
    read = shares(slopes[-1])
    row = torch.zeros_like(read)
    for weights, slope in zip(reversed(attention), reversed(slopes), strict=True):
        block = reduce((slope * weights.detach()).relu(), "n heads q t -> n q t", "mean").to(row)
        row = row + through(read + row, block)
    return layout.maps(row[:, :, None])[:, 0], {"tokens": row}


def shares(slope: Attention) -> Float[Tensor, "n q"]:
    """Equal parts for the tokens that are read after the last block: attention to fill them has a gradient there."""
    read = (slope != 0).any(3).any(1).to(wide(slope))
    return read / read.sum(1, keepdim=True).clamp(min=1)


def one_head(weights: Attention, heads: Heads, discard_ratio: float) -> Float[Tensor, "n q t"]:
    """One matrix from those of all heads, without its smallest entries."""
    joined = reduce(weights, "n heads q t -> n q t", heads)
    if count := int(discard_ratio * joined[0].numel()):
        smallest = joined.flatten(1).topk(count, largest=False).indices
        joined = joined.flatten(1).scatter(1, smallest, 0.0).view_as(joined)
    return joined


def through(row: Float[Tensor, "n q"], block: Float[Tensor, "n q t"]) -> Float[Tensor, "n t"]:
    """One row of a product of blocks, a block further towards the image; the whole product is never made."""
    return einsum(row, block, "n q, n q t -> n t")


def gradients(score: PerImage, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """`gradient` with respect to several tensors, in one pass back."""
    if not score.requires_grad:
        return [gradient(score, tensor) for tensor in tensors]  # which says what is wrong
    return torch.autograd.grad(score.sum(), tensors, allow_unused=True, materialize_grads=True)
