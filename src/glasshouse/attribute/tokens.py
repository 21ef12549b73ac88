"""Occlusion for transformers: a token can be taken away, where a pixel can only be painted over."""

from math import prod

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Int
from torch import Tensor, nn

from glasshouse.attribute.answers import wide
from glasshouse.attribute.perturb import inside, told, windows
from glasshouse.core import Aim, BadInput, BadModel, Images, LayerMaps, Reading, Target, in_chunks, method, select
from glasshouse.core.activations import attach, find
from glasshouse.core.attention import token_entry, token_layout
from glasshouse.core.chunks import is_out_of_memory
from glasshouse.core.field import pair
from glasshouse.core.target import logits


@method(
    paper="Zeiler & Fergus, ECCV 2014",
    example={"sliding_window_shapes": 2, "strides": 2, "chunk": 8},
    needs="attention",
)
def token_occlusion(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    sliding_window_shapes: int | tuple[int, int] = 2,
    strides: int | tuple[int, int] = 1,
    all_classes: bool = False,
    score: Reading = "prob",
    chunk: int = 16,
) -> tuple[LayerMaps, dict[str, Tensor]]:
    """How much the score falls when the tokens of a few patches are taken away, averaged over each token's windows.

        d(p) = y(all tokens) - y(tokens outside p),   map(u) = mean of d(p) over windows p that contain u

    Tokens are dropped after their positions were added, before the first block. With a class token that is the same
    as forbidding every block to attend to them, so there is no colour that covers, and a pass costs less than a whole
    one. Window by window: `extras["grid"]` holds d, `extras["probability"]` the softmax of the target and
    `extras["top"]` the top class.

    Differs: from occlusion of pixels (Zeiler and Fergus, "Visualizing and understanding convolutional networks",
    ECCV 2014, sec. 4.2) by what is taken away; and the last window is moved inside the grid, not cut off.

    Args:
        sliding_window_shapes: height and width of the window in tokens.
        strides: tokens between windows; not above the window, or tokens would be left out.
        all_classes: also give `extras["scores"]`, the score of every class without each window, `n k i j`.
        chunk: rows of tokens per forward pass; any number gives the same result.
    """
    layout, entry = token_layout(model, inputs), token_entry(model, inputs)
    (wh, ww), (sh, sw), (h, w) = pair(sliding_window_shapes), pair(strides), layout.grid
    if not (0 < wh <= h and 0 < ww <= w and 0 < sh <= wh and 0 < sw <= ww and wh * ww < h * w and chunk > 0):
        raise BadInput(
            f"a window of {wh}×{ww} tokens moved by {sh}×{sw} does not cover a grid of {h}×{w}.",
            "The window must fit into the grid and leave a token, and the stride must fit into the window.",
        )
    y, x = (
        inside(windows(size, window, stride, "shift"), size).to(inputs.device)
        for size, window, stride in ((h, wh, sh), (w, ww, sw))
    )
    shape, aim = {"n": len(inputs), "i": len(y), "j": len(x)}, Aim.of(target)

    def run(part: Int[Tensor, " r"]) -> dict[str, Tensor]:
        image, row, col = torch.unravel_index(part, tuple(shape.values()))
        kept = ~(y[row, :, None] & x[col, None, :]).flatten(1)
        kept = F.pad(kept, (layout.prefix, 0), value=True).nonzero()[:, 1].view(len(part), -1)
        seen = told(on_tokens(model, inputs[image], entry, kept), aim.rows(image), score, all_classes)
        return seen | {"grid": clean[image] - seen.pop("score")}

    with torch.no_grad():
        clean = select(model(inputs), aim, score).to(wide(inputs))
        parts = [seen for _, seen in in_chunks(run, prod(shape.values()), chunk, inputs.device)]
    extras = {
        name: rearrange(torch.cat([seen[name] for seen in parts]), "(n i j) ... -> n ... i j", **shape)
        for name in parts[0]
    }
    fall, y, x = extras["grid"], y.to(clean), x.to(clean)
    mean = einsum(fall, y, x, "n p s, p i, s j -> n i j") / einsum(y.sum(0), x.sum(0), "i, j -> i j")
    return mean, extras


def on_tokens(model: nn.Module, images: Images, place: str, kept: Int[Tensor, "n t"]) -> Tensor:
    """The scores where, from `place` on, image n goes on with the tokens `kept[n]` only."""
    handle = attach(find(model, place), lambda tokens: tokens.take_along_dim(kept[:, :, None], 1))
    try:
        return logits(model(images))
    except Exception as error:  # whatever a model raises that counts its tokens
        if is_out_of_memory(error):
            raise
        raise BadModel(
            f"{type(model).__name__} does not run on {kept.shape[1]} tokens: {error}",
            "Use occlusion, which covers pixels and leaves all tokens in place.",
        ) from error
    finally:
        handle.remove()
