"""What a network says of an image with patches put in, computed only where they change something. Exact.

clean = clean_pass(model, image, boxes, cover)
clean.patched(boxes, cover)  # equals model(covered(image, boxes, cover))
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core.boxes import Box, Span, windows
from glasshouse.core.chunks import in_chunks
from glasshouse.core.errors import BadInput, BadModel
from glasshouse.core.incremental import Call, Increment, Keep, NotLocal, Patched, whole
from glasshouse.core.target import logits
from glasshouse.core.trace import tensors
from glasshouse.core.types import Images

log = logging.getLogger("glasshouse")

Engine: TypeAlias = Literal["auto", "incremental", "dense"]
"""How patched images are run: as whole images ("dense"), by boxes, or by boxes where that is worth its overhead."""
Patches: TypeAlias = Int[Tensor, "p 4"]
"""Boxes of pixels: top, left, bottom, right, the last two outside."""
Image: TypeAlias = Float[Tensor, "1 c h w"]

LEAST_PATCHES = 100  # under "auto": the trial takes five passes
MOST_WORK = 0.75  # of the multiplications of whole passes; above, boxes are not worth their handling
LEAST_GAIN = {"cpu": 4e6}  # multiplications saved per operation, on a chunk of 16
LEAST_GAIN_ELSEWHERE = 3e9  # estimated for accelerators, which do as much while Python handles a box
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the range of the logits; 0.05 in half precision


@dataclass(frozen=True)
class Clean:
    """One image's pass through a model, which can be run again with patches put in.

    Args:
        output: the model's scores for the image, a batch of one.
        calls: every operation of the pass.
        products: multiplications that the pass took.
        work: what a patch takes of that, from 0 to 1, measured on the patches of the trial.
    """

    model: nn.Module
    image: Image
    output: Tensor
    calls: list[Call]
    products: float
    work: float = 1.0

    def patched(self, boxes: Patches, cover: Image) -> Tensor:
        """The model's scores for the image with `cover`, one image for all boxes, in each of the boxes."""
        try:
            output, _ = self.run(boxes, cover)
        except NotLocal:
            output = None
        if output is None or output.isnan().any():
            return whole_passes(self.model, self.image, boxes, cover)
        return output

    def run(self, boxes: Patches, cover: Image) -> tuple[Tensor, int]:
        """The scores, and the multiplications that they took."""
        mode = Increment(self.calls)
        with torch.no_grad():
            stand_in = Patched.of(boxed(self.image, boxes, cover))
            with mode:
                output = self.model(stand_in)
        return whole(logits(output)), mode.products

    @property
    def worthwhile(self) -> bool:
        """Whether the multiplications saved are worth the handling of boxes."""
        gain = 16 * (1 - self.work) * self.products / max(1, len(self.calls))
        return self.work <= MOST_WORK and gain >= LEAST_GAIN.get(self.image.device.type, LEAST_GAIN_ELSEWHERE)


def boxed(image: Image, boxes: Patches, cover: Image) -> Box:
    """What `covered` gives, as boxes. Those that are smaller than the largest hold some of the image too."""
    top, left, bottom, right = boxes.cpu().unbind(1)
    rows, cols = (
        Span(first.clamp(max=size - int((stop - first).max())), int((stop - first).max()))
        for first, stop, size in ((top, bottom, image.shape[2]), (left, right, image.shape[3]))
    )
    i, j = rows.positions()[:, :, None], cols.positions()[:, None, :]
    top, left, bottom, right = (side[:, None, None] for side in (top, left, bottom, right))
    inside = ((i >= top) & (i < bottom) & (j >= left) & (j < right))[:, None].to(image.device)
    new, old = (windows(whole, rows, cols, (2, 3)) for whole in (cover, image))
    return Box(image, torch.where(inside, new, old), rows, cols, (2, 3))


def covered(image: Image, boxes: Patches, cover: Image) -> Float[Tensor, "p c h w"]:
    """The image with `cover` in each box."""
    top, left, bottom, right = boxes.to(image.device)[:, :, None].unbind(1)
    i, j = (torch.arange(size, device=image.device) for size in image.shape[-2:])
    inside = ((i >= top) & (i < bottom))[:, None, :, None] & ((j >= left) & (j < right))[:, None, None, :]
    return torch.where(inside, cover, image)


def whole_passes(model: nn.Module, image: Image, boxes: Patches, cover: Image) -> Tensor:
    with torch.no_grad():
        return logits(model(covered(image, boxes, cover)))


def remember(model: nn.Module, image: Image, boxes: Patches, cover: Image) -> Clean:
    """The clean pass of an image, tried out on some boxes. Costs a pass, and two for each box.

    A model that answers otherwise by boxes than as a whole raises `NotLocal`.
    """
    batch = torch.cat([image, covered(image, boxes, cover)])
    keep = Keep(model, len(batch))
    with torch.no_grad(), keep:
        answer = model(batch)
    for tensor in tensors(answer):
        keep.read(tensor)
    expected = logits(answer)
    clean = Clean(model, image, expected[:1], keep.calls, keep.products / len(batch))
    try:
        found, products = clean.run(boxes, cover)
    except NotLocal:
        raise
    except Exception as error:  # an operation called in a way that its rule does not know; the whole pass ran
        raise NotLocal(f"{type(error).__name__}: {error}") from error
    gap, span = float((found - expected[1:]).abs().max()), float(expected.max() - expected.min())
    if not gap <= TOLERANCE.get(image.dtype, 0.05) * span:
        raise NotLocal(f"the scores differ by {gap:.1e}, of a range of {span:.1e}")
    return replace(clean, work=products / len(boxes) / clean.products if clean.products else 1.0)


def tries(engine: Engine, n_boxes: int) -> bool:
    """Whether a clean pass is remembered, for so many boxes."""
    if engine not in ("auto", "incremental", "dense"):
        raise BadInput(f"engine '{engine}' is unknown.", "Use 'auto', 'incremental' or 'dense'.")
    return engine == "incremental" or (engine == "auto" and n_boxes >= LEAST_PATCHES)


def clean_pass(
    model: nn.Module,
    image: Image,
    boxes: Patches,
    cover: Image,
    engine: Engine = "auto",
) -> Clean | None:
    """The clean pass to run boxes on; None where whole passes are to be made instead.

    A model that boxes are not right for is run as a whole, or, where the engine is "incremental", an error.
    """
    if not tries(engine, len(boxes)):
        return None
    try:
        clean = remember(model, image, boxes[[0, len(boxes) // 2]], cover)
    except NotLocal as reason:
        kind = type(model).__name__
        if engine == "incremental":
            raise BadModel(f"{kind} cannot be run by boxes: {reason}.", "Use engine='auto'.") from reason
        log.warning("%s is run as a whole for every patch: %s.", kind, reason)
        return None
    return clean if engine == "incremental" or clean.worthwhile else None


class Answers(NamedTuple):
    """Of a chunk of patched images: which image and which box it is, the model's scores, and the share of a pass."""

    image: Int[Tensor, " r"]
    box: Int[Tensor, " r"]
    output: Tensor
    work: Float[Tensor, " r"]


def patched_outputs(
    model: nn.Module, images: Images, boxes: Patches, cover: Images, *, engine: Engine = "auto", chunk: int = 16
) -> Iterator[Answers]:
    """The model's scores for every image with its `cover` in each of the boxes, one box at a time.

    Args:
        boxes: top, left, bottom, right in pixels, the last two outside; the same for all images.
        engine: "dense" runs whole images; "incremental" only what each box can change, with the same result; "auto"
            chooses, by the multiplications that boxes save.
    """

    @lru_cache(1)
    def remembered(image: int) -> Clean | None:
        return clean_pass(model, images[image : image + 1], boxes, cover[image : image + 1], engine)

    def run(rows: Int[Tensor, " r"]) -> Answers:
        outputs: list[Tensor] = []
        work = torch.ones(len(rows))
        image, box = rows // len(boxes), rows % len(boxes)
        for number in image.unique().tolist():
            this = image == number
            one, new, clean = images[number : number + 1], cover[number : number + 1], remembered(number)
            if clean is None:
                outputs.append(whole_passes(model, one, boxes[box[this]], new))
            else:
                outputs.append(clean.patched(boxes[box[this]], new))
                work[this] = clean.work
        return Answers(image.to(images.device), box.to(images.device), torch.cat(outputs), work.to(images.device))

    for _, answers in in_chunks(run, len(images) * len(boxes), chunk):
        yield answers
