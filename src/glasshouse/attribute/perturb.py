"""Perturbation methods: change a part of the image and see what happens to the score."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from glasshouse.attribute.baselines import Baselines, baseline_images
from glasshouse.core import Aim, BadInput, Cost, Images, Reading, Target, method, select
from glasshouse.core.field import pair
from glasshouse.core.patches import Engine, patched_outputs, tries
from glasshouse.core.target import readings

Edge = Literal["truncate", "shift"]


def windows(size: int, window: int, stride: int, edge: Edge) -> list[tuple[int, int]]:
    """First and last-plus-one pixel of each window along one axis; the last is cut at the border, or moved inside."""
    count = ceil((size - window) / stride) + 1
    starts = [place * stride for place in range(count)]
    if edge == "shift":
        starts = [min(start, size - window) for start in starts]
    return [(start, min(start + window, size)) for start in starts]


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of occlusion: one forward pass per window, and one of the clean image.

    A clean pass that is remembered takes another, and its trial two passes as a whole and two by boxes.
    """
    (wh, ww), (sh, sw) = pair(settings["sliding_window_shapes"]), pair(settings["strides"])
    edge = settings["edge"]
    count = len(windows(shape[-2], wh, sh, edge)) * len(windows(shape[-1], ww, sw, edge))
    return Cost(1 + count + 5 * tries(settings["engine"], count))


@method(
    cost=passes,
    claims=("dummy", "implementation", "silent", "linear"),
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
    baselines: Baselines = 0.0,
    edge: Edge = "truncate",
    all_classes: bool = False,
    engine: Engine = "auto",
    score: Reading = "prob",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n 1 h w"], dict[str, Tensor]]:
    """How much the score falls when a patch is covered, averaged over the patches that cover each pixel.

        d(p) = y(x) - y(x with patch p replaced),   map(u) = mean of d(p) over patches p that contain u

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, sec. 4.2. Patch by patch:
    `extras["grid"]` holds d, `extras["probability"]` the softmax of the target and `extras["top"]` the top class
    under each patch (the paper's fig. 7). `extras["work"]` is the share of a pass that a patch took, measured on two.

    Args:
        sliding_window_shapes: height and width of the patch in pixels.
        strides: pixels between patches; not above the window, or pixels would be left out.
        baselines: what covers the patch, in input space: a number (0 is the data set's mean colour), a tensor that
            broadcasts to the images, or one made of each image: its "mean" colour, a "blur" of it, or "noise".
        edge: the last patch is cut off at the border ("truncate") or moved inside it ("shift").
        all_classes: also give `extras["scores"]`, the score of every class under each patch, `n k i j`.
        engine: "incremental" computes only what a patch can change, layer by layer, with the same result; "dense" runs
            the whole network; "auto" takes the first where it saves enough.
        chunk: covered images per forward pass; any number gives the same result.
    """
    (wh, ww), (sh, sw) = pair(sliding_window_shapes), pair(strides)
    n, _, h, w = inputs.shape
    if not (0 < wh <= h and 0 < ww <= w and 0 < sh <= wh and 0 < sw <= ww and chunk > 0):
        raise BadInput(
            f"a window of {wh}×{ww} pixels moved by {sh}×{sw} does not cover an image of {h}×{w}.",
            "The window must fit into the image, and the stride into the window.",
        )
    rows, cols = windows(h, wh, sh, edge), windows(w, ww, sw, edge)
    boxes = torch.tensor([(top, left, bottom, right) for top, bottom in rows for left, right in cols])
    cover, aim = baseline_images(baselines, inputs), Aim.of(target)
    with torch.no_grad():
        clean = select(model(inputs), aim, score)
    columns: dict[str, list[Tensor]] = {}
    for part in patched_outputs(model, inputs, boxes, cover, engine=engine, chunk=chunk):
        seen = told(part.output, aim.rows(part.image), score, all_classes)
        seen |= {"grid": clean[part.image] - seen.pop("score"), "work": part.work}
        for name, value in seen.items():
            columns.setdefault(name, []).append(value)
    shape = {"n": n, "i": len(rows), "j": len(cols)}
    extras = {
        name: rearrange(torch.cat(values), "(n i j) ... -> n ... i j", **shape) for name, values in columns.items()
    }
    extras["work"] = extras["work"].flatten(1).mean(1)
    y, x = inside(rows, h).to(clean), inside(cols, w).to(clean)
    mean = einsum(extras["grid"], y, x, "n i j, i h, j w -> n h w") / einsum(y.sum(0), x.sum(0), "h, w -> h w")
    return mean[:, None], extras


def told(output: Tensor, aim: Aim, score: Reading, all_classes: bool) -> dict[str, Tensor]:
    """What is kept of the output for each covered image."""
    found = {"score": select(output, aim, score), "top": output.flatten(1).argmax(1)}
    classes = output.ndim == 2
    found["probability"] = select(output, aim, "prob") if classes else output.new_zeros(len(output))
    if all_classes:
        if not classes:
            raise BadInput(f"the output {tuple(output.shape)} has positions besides classes.", "Use all_classes=False.")
        found["scores"] = readings(output, score)
    return found


def inside(spans: list[tuple[int, int]], size: int) -> Bool[Tensor, "p s"]:
    """One row per window, true at the pixels it covers along one axis."""
    place = torch.arange(size)
    return torch.stack([(place >= first) & (place < last) for first, last in spans])
