"""Perturbation methods: change a part of the image and see what happens to the score."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.attribute.baselines import baseline_images
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, method, select
from glasshouse.core.field import pair
from glasshouse.core.target import logits

Edge = Literal["truncate", "shift"]


def windows(size: int, window: int, stride: int, edge: Edge) -> list[tuple[int, int]]:
    """First and last-plus-one pixel of each window along one axis; the last is cut at the border, or moved inside."""
    count = ceil((size - window) / stride) + 1
    starts = [place * stride for place in range(count)]
    if edge == "shift":
        starts = [min(start, size - window) for start in starts]
    return [(start, min(start + window, size)) for start in starts]


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of occlusion: one forward pass per window, and one of the clean image."""
    (wh, ww), (sh, sw) = pair(settings["sliding_window_shapes"]), pair(settings["strides"])
    edge = settings["edge"]
    return Cost(1 + len(windows(shape[-2], wh, sh, edge)) * len(windows(shape[-1], ww, sw, edge)))


@method(
    cost=passes,
    claims=("dummy", "implementation", "silent"),
    paper="Zeiler & Fergus, ECCV 2014",
    example={"sliding_window_shapes": 16, "strides": 16, "chunk": 8},
)
def occlusion(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    sliding_window_shapes: int | tuple[int, int] = 32,
    strides: int | tuple[int, int] = 16,
    baselines: float | Tensor = 0.0,
    edge: Edge = "truncate",
    score: Reading = "prob",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """How much the score falls when a patch is covered, averaged over the patches that cover each pixel.

        d(p) = y(x) - y(x with patch p replaced),   map(u) = mean of d(p) over patches p that contain u

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, sec. 4.2. Patch by patch:
    `extras["grid"]` holds d, `extras["probability"]` the softmax of the target and `extras["top"]` the top class
    under each patch (the paper's fig. 7).

    Args:
        sliding_window_shapes: height and width of the patch in pixels.
        strides: pixels between patches; not above the window, or pixels would be left out.
        baselines: what covers the patch, in input space (0 is the data set's mean colour); broadcasts to the images.
        edge: the last patch is cut off at the border ("truncate") or moved inside it ("shift").
        chunk: covered images per forward pass; any number gives the same result.
    """
    (wh, ww), (sh, sw) = pair(sliding_window_shapes), pair(strides)
    n, _, h, w = inputs.shape
    if not (0 < wh <= h and 0 < ww <= w and 0 < sh <= wh and 0 < sw <= ww and chunk > 0):
        raise BadInput(
            f"a window of {wh}×{ww} pixels moved by {sh}×{sw} does not cover an image of {h}×{w}.",
            "The window must fit into the image, and the stride into the window.",
        )
    rows, cols = (
        inside(windows(h, wh, sh, edge), h).to(inputs.device),
        inside(windows(w, ww, sw, edge), w).to(inputs.device),
    )
    cover, aim, n_cols = baseline_images(baselines, inputs), Aim.of(target), len(cols)
    with torch.no_grad():
        clean = select(model(inputs), aim, score)
        results: list[Tensor] = []
        for part in torch.arange(len(rows) * n_cols * n, device=inputs.device).split(chunk):
            image, patch = part % n, part // n
            covered = rows[patch // n_cols][:, None, :, None] & cols[patch % n_cols][:, None, None, :]
            output = logits(model(torch.where(covered, cover[image], inputs[image])))
            question = aim.rows(image)
            probability = select(output, question, "prob") if output.ndim == 2 else output.new_zeros(len(part))
            top = output.flatten(1).argmax(1).to(output.dtype)
            results.append(torch.stack([clean[image] - select(output, question, score), probability, top]))
    drop, probability, top = rearrange(torch.cat(results, 1), "q (i j n) -> q n i j", i=len(rows), j=n_cols)
    y, x = rows.to(drop), cols.to(drop)
    mean = einsum(drop, y, x, "n i j, i h, j w -> n h w") / einsum(y.sum(0), x.sum(0), "h, w -> h w")
    return mean[:, None], {"grid": drop, "probability": probability, "top": top.long()}


def inside(spans: list[tuple[int, int]], size: int) -> Bool[Tensor, "p s"]:
    """One row per window, true at the pixels it covers along one axis."""
    place = torch.arange(size)
    return torch.stack([(place >= first) & (place < last) for first, last in spans])
