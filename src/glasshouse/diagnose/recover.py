"""Getting the answer back that an attack took away, by blurring what speaks for the wrong one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Explanation, Images, Maps, Model, Noun, blur, borrow, in_chunks, registered
from glasshouse.core.lift import setting
from glasshouse.core.mask import blend
from glasshouse.core.target import logits
from glasshouse.diagnose.attacks import Adversarial
from glasshouse.diagnose.detect import Explain

SIDE = 224  # pixels: the shorter side of the images that `blur_sigma` is meant for


@dataclass(frozen=True, repr=False)
class Recovery(Noun):
    """How often the answer before an attack comes back, once what speaks for the wrong answer is blurred.

    Args:
        method: what made the heat maps.
        top: share of images whose answer before the attack is on top again, and `stderr` of it.
        top_k: share where it is among the k top classes.
        truth: share where the true class is on top; None where it was not given.
        attacked_top_k: as `top_k`, before anything is blurred: the attack leaves the old answer high.
        control, control_stderr: as `top`, with the masks of other images.
        removed: mean share of an image that is blurred.
        recovered: which images have their answer back.
        rows: the images that were used: those whose answer the attack changed.
    """

    method: str
    top: float
    stderr: float
    top_k: float
    truth: float | None
    attacked_top_k: float
    control: float
    control_stderr: float
    removed: float
    recovered: Bool[Tensor, " n"]
    rows: Int[Tensor, " n"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        shown = f"{self.top:.1%} ± {self.stderr:.1%}, control {self.control:.1%} ± {self.control_stderr:.1%}"
        return f"Recovery({self.method}, {len(self.rows)} images, {shown})"


@registered("diagnose", paper="Fong & Vedaldi, ICCV 2017")
def recover_labels(
    model: Model | nn.Module,
    adversarial: Adversarial,
    labels: Int[Tensor, " n"] | None = None,
    *,
    explain: Explain,
    remove: float | None = None,
    blur_sigma: float | int = 10.0,
    k: int = 5,
    chunk: int = 16,
) -> Recovery:
    """How often the answer before an attack is back when the pixels that explain the wrong answer are blurred.

    Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017, sec. 5.5.
    The control blurs each image by the mask of another: an attack may not survive any blur.

    Args:
        adversarial: attacked images. Where the attack did not change the answer, they are left out.
        labels: the true classes of all the images.
        explain: an attribution method, or any function from model and images to an explanation.
        remove: share of pixels to blur, those of the highest values; None takes the map itself, in 0…1, as the share
            of blur at each pixel, which is what `meaningful_perturbation` gives.
        blur_sigma: in pixels where the shorter side has 224, in proportion elsewhere.
        chunk: images per call of `explain`, and per run of the model.
    """
    rows = adversarial.changed.nonzero()[:, 0]
    if len(rows) < 2:
        raise BadInput(
            f"the attack changed {len(rows)} answers; two or more are needed.", "Attack more images, or harder."
        )
    images, before = adversarial.images[rows], adversarial.before[rows]
    found = [explanation for _, explanation in in_chunks(lambda part: explain(model, images[part]), len(rows), chunk)]
    mask = torch.cat([deletion_mask(explanation, remove) for explanation in found])
    nothing = blur(images, blur_sigma * min(images.shape[-2:]) / SIDE)
    outputs = [
        classified(model, changed, chunk)
        for changed in (images, blend(nothing, mask, images), blend(nothing, mask.roll(1, 0), images))
    ]
    ranks = [rank(output, before) for output in outputs]
    top, control = (share(found == 0) for found in ranks[1:])
    settings: dict[str, Any] = {
        "explain": setting(explain),
        "remove": remove,
        "blur_sigma": blur_sigma,
        "k": k,
        "chunk": chunk,
    }
    return Recovery(
        method=found[0].method,
        top=top[0],
        stderr=top[1],
        top_k=share(ranks[1] < k)[0],
        truth=None if labels is None else share(outputs[1].argmax(1) == labels[rows].to(rows.device))[0],
        attacked_top_k=share(ranks[0] < k)[0],
        control=control[0],
        control_stderr=control[1],
        removed=float(mask.mean()),
        recovered=ranks[1] == 0,
        rows=rows,
        settings=settings,
    )


def deletion_mask(explanation: Explanation, remove: float | None) -> Maps:
    """How much of each pixel to take away, 0…1."""
    values = explanation.heatmap
    if remove is None:
        low, high = float(values.min()), float(values.max())
        if low < -1e-4 or high > 1 + 1e-4:
            raise BadInput(
                f"maps of {explanation.method} go from {low:.3g} to {high:.3g}: they are no masks.",
                "Give remove=0.1 to blur the tenth of the pixels with the highest values.",
            )
        return values.clamp(0, 1)
    if not 0 < remove <= 1:
        raise BadInput(f"remove {remove} is no share of the pixels.", "Use a number above 0, up to 1.")
    flat = values.flatten(1)
    chosen = flat.topk(max(1, round(remove * flat.shape[1])), 1).indices
    return torch.zeros_like(flat).scatter_(1, chosen, 1.0).view_as(values)


def classified(model: Model | nn.Module, images: Images, chunk: int) -> Tensor:
    """The class scores of all images."""
    with borrow(model, images) as network, torch.no_grad():
        looks = in_chunks(lambda rows: logits(network(images[rows])), len(images), chunk, images.device)
        return torch.cat([found for _, found in looks])


def rank(output: Tensor, classes: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How many classes are above the given one."""
    return (output > output.gather(1, classes[:, None])).sum(1)


def share(hits: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Of the images, and its standard error."""
    hit = hits.double()
    return float(hit.mean()), float(hit.std() / len(hit) ** 0.5)
