"""What to explain: a class, a combination of classes, or any number read from the output."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.types import PerImage, Reading


class Aim:
    """A target that is resolved once, on the first output it reads, which must be that of the clean images.

    Args:
        spec: any `Target`.
        indices: the class of each image, once known; None for weights and functions.
        clean: the score of each clean image, once read.
    """

    def __init__(self, spec: Any, indices: Int[Tensor, " n"] | None = None):
        self.spec = spec
        self.indices = indices
        self.clean: PerImage | None = None

    @staticmethod
    def of(target: Any) -> "Aim":
        """The target itself if it is one already, else a new one."""
        return target if isinstance(target, Aim) else Aim(target)

    def read(self, output: Any, score: Reading = "logit") -> PerImage:
        """One number per row of the output."""
        values = readings(logits(output), score)
        if self.indices is None and not callable(self.spec) and not _is_weights(self.spec):
            if isinstance(self.spec, tuple):
                return self.keep(_at(values, self.spec))
            self.indices = resolve(self.spec, values)
        if self.indices is not None:
            if len(self.indices) != len(values):
                raise BadInput(f"{len(self.indices)} targets for {len(values)} images.", "Give one class per image.")
            return self.keep(values.gather(1, self.indices.to(values.device)[:, None])[:, 0])
        if callable(self.spec):
            return self.keep(checked(self.spec(values), len(values)))
        weights = self.spec
        if weights.shape != values.shape:
            raise BadInput(f"weights of shape {tuple(weights.shape)} for an output {tuple(values.shape)}.")
        return self.keep((weights.to(values) * values).sum(1))

    def keep(self, value: PerImage) -> PerImage:
        if self.clean is None:
            self.clean = value.detach()
        return value

    def rows(self, index: Int[Tensor, " m"]) -> "Aim":
        """The same question about other rows: `index[r]` is the image that row r of an output belongs to."""
        if self.indices is not None:
            part = Aim(self.spec, self.indices[index.to(self.indices.device)])
        elif _is_weights(self.spec):
            part = Aim(self.spec[index.to(self.spec.device)])
        elif callable(self.spec) or isinstance(self.spec, tuple):
            part = Aim(self.spec)
        else:
            raise BadInput("a target must first be read on the clean images.", "Call `select` on their output.")
        return part

    def part(self, index: Int[Tensor, " m"]) -> "Aim":
        """The same question about some of the images, whether or not their output was read yet."""
        listed = isinstance(self.spec, list) or (isinstance(self.spec, Tensor) and self.spec.ndim == 1)
        if self.indices is None and listed and len(self.spec) > int(index.max()):
            return Aim([self.spec[row] for row in index.tolist()])
        return self.rows(index) if self.indices is not None or _is_weights(self.spec) else Aim(self.spec)

    def join(self, parts: "Sequence[Aim]") -> None:
        """What was read for all parts of the images, in order."""
        clean = [part.clean for part in parts if part.clean is not None]
        indices = [part.indices for part in parts if part.indices is not None]
        self.clean = torch.cat(clean) if clean else None
        self.indices = torch.cat(indices) if indices else None


Target: TypeAlias = int | Sequence[int] | Tensor | Callable[[Tensor], Tensor] | Aim | None
"""An int (one class for all), ints (one per image), a tuple (an index into one image's output), a float tensor `n k`
(weights of the classes), a function from the output to one number per image, or None (each image's top class)."""


def select(output: Any, target: Target, score: Reading = "logit") -> PerImage:
    """The score to explain, one number per image.

    Args:
        score: "logit" (default; class-wise, what gradients need), "prob" (softmax), "logprob", or "margin" (the lead
            over the best other class).
    """
    return Aim.of(target).read(output, score)


def logits(output: Any) -> Tensor:
    """The class scores in whatever a model returns: a tensor, or the first one of a tuple, dict or output object."""
    if isinstance(output, Tensor):
        found = output
    elif isinstance(getattr(output, "logits", None), Tensor):
        found = output.logits
    elif isinstance(output, dict) and output:
        found = output.get("logits", next(iter(output.values())))
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    else:
        raise BadInput(f"the model returned a {type(output).__name__}, in which no scores were found.")
    if not isinstance(found, Tensor) or found.ndim < 2:
        seen = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise BadInput(f"the model's output {seen} has no axis of classes.", "It should be `n k`: one row per image.")
    return found


def readings(values: Tensor, score: Reading) -> Tensor:
    if score == "logit":
        return values
    if score == "prob":
        return F.softmax(values, 1)
    if score == "logprob":
        return F.log_softmax(values, 1)
    if score == "margin":
        return margins(values)
    raise BadInput(f"score '{score}' is unknown.", "Use 'logit', 'prob', 'logprob' or 'margin'.")


def margins(values: Tensor) -> Tensor:
    """Each class's score less the best other one's, which is above 0 for the class that wins alone."""
    if values.shape[1] < 2:
        return values
    best, second = values.topk(2, dim=1).values.split(1, dim=1)
    return values - torch.where(values == best, second, best)


def resolve(spec: Any, values: Tensor) -> Int[Tensor, " n"]:
    """Class indices, one per image; out of range raises."""
    n, k = values.shape[:2]
    if values.ndim > 2:
        raise BadInput(
            f"the output {tuple(values.shape)} has positions besides classes.",
            "Give a tuple such as (class, row, column), or a function of the output.",
        )
    if spec is None:
        return values.detach().argmax(1)
    no_class = BadInput(f"target {spec!r} is no class.", "Give an int, or one int per image.")
    try:
        indices = torch.as_tensor(spec, device=values.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise no_class from error
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise no_class
    indices = indices.long()
    if indices.ndim == 0:
        indices = indices.expand(n)
    if indices.ndim != 1 or len(indices) != n:
        raise BadInput(f"{indices.numel()} targets for {n} images.", "Give one class per image, or one for all.")
    if not ((indices >= 0) & (indices < k)).all():
        wrong = indices[(indices < 0) | (indices >= k)][0]
        raise BadInput(f"target {int(wrong)} is out of range: the model has {k} classes.", f"Use 0…{k - 1}.")
    return indices


def checked(value: Any, n: int) -> PerImage:
    """What a target function returned: one number per image."""
    if not isinstance(value, Tensor) or value.shape != (n,):
        seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"the target function returned {seen} for {n} images.", f"It must return shape ({n},).")
    return value


def _at(values: Tensor, index: tuple[int, ...]) -> PerImage:
    if len(index) != values.ndim - 1:
        raise BadInput(f"target {index} does not index an output of shape {tuple(values.shape)}.")
    for place, size in zip(index, values.shape[1:], strict=True):
        if not 0 <= place < size:
            raise BadInput(f"target {index} is outside an output of shape {tuple(values.shape)}.")
    return values[(slice(None), *index)]


def _is_weights(spec: Any) -> bool:
    return isinstance(spec, Tensor) and spec.is_floating_point() and spec.ndim == 2
