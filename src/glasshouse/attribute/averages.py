"""Averages of a method over disturbed copies of the image."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    Aim,
    BadInput,
    Cost,
    Explanation,
    Images,
    Info,
    Reading,
    Target,
    find_method,
    generator,
    in_chunks,
    method,
)
from glasshouse.core.registry import Reduction


def averaged(of: str | Callable[..., Explanation]) -> Info:
    """The method that is averaged, by name or itself."""
    if isinstance(of, str):
        return find_method(of, "attribute")
    if not hasattr(of, "__wrapped__"):
        raise BadInput(f"{of!r} is no attribution method.", "Pass a name such as 'saliency', or attribute.saliency.")
    return find_method(of.__name__, "attribute")


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
    """Of an average: those of the method itself, once per sample; None where it does not tell its own."""
    info, n = averaged(settings["of"]), settings["n_samples"]
    once = info.price(info.defaults, shape)
    return once and Cost(n * once.forward, n * once.backward)


def reduction(settings: Mapping[str, Any]) -> Reduction:
    """That of the method itself."""
    own = averaged(settings["of"]).reduction
    return own(settings) if callable(own) else own


@method(
    reduction=reduction,
    cost=passes,
    claims=("dummy", "implementation", "silent", "linear"),
    paper="Smilkov et al., 2017",
    example={"n_samples": 4},
)
def smooth(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    of: str | Callable[..., Explanation] = "saliency",
    n_samples: int = 50,
    sigma: float = 0.15,
    seed: int = 0,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[Float[Tensor, "n ..."], dict[str, Tensor]]:
    """The mean of another method over noisy copies of the image: what its values have in common nearby.

        mean_s M(x + e_s),   e_s ~ N(0, (sigma (max x - min x))^2)

    Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, sec. 2. The standard error of the mean is
    `extras["stderr"]`.

    Differs: the first sample carries no noise, so that one sample is the method itself.

    Args:
        of: an attribution method, by name or itself.
        sigma: noise level as a share of the range of values in the image; the paper finds 0.1 to 0.2 best.
        seed: the same noise is used for every image, so that an image's result does not depend on its neighbours.
        chunk: noisy copies per forward pass; any number gives the same result.
    """
    if n_samples < 1 or chunk < 1 or sigma < 0:
        raise BadInput(f"n_samples {n_samples}, chunk {chunk} and sigma {sigma} are not all in range.", "See help.")
    raw = averaged(of).function.__wrapped__  # type: ignore[attr-defined]
    aim, n = Aim.of(target), len(inputs)
    clean = values_of(raw(model, inputs.clone(), aim, score=score)).double()
    total, squares = clean.clone(), clean.square()
    width = sigma * (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3)))

    def disturbed(rows: Int[Tensor, " r"]) -> Tensor:
        image, sample = rows % n, (rows // n).tolist()
        noise = {s: draw_noise(inputs, seed, s) for s in set(sample)}
        copies = inputs[image] + rearrange(width[image], "r -> r 1 1 1") * torch.stack([noise[s] for s in sample])
        return values_of(raw(model, copies, aim.rows(image), score=score)).double()

    for rows, values in in_chunks(disturbed, (n_samples - 1) * n, chunk, inputs.device):
        total.index_add_(0, rows % n, values)
        squares.index_add_(0, rows % n, values.square())
    mean = total / n_samples
    spread = (squares / n_samples - mean.square()).clamp(min=0) / max(1, n_samples - 1)
    return mean.to(inputs.dtype), {"stderr": spread.sqrt().to(inputs.dtype)}


def values_of(result: Any) -> Tensor:
    """The values alone, of a method that also returns extras."""
    return (result[0] if isinstance(result, tuple) else result).detach()


def draw_noise(inputs: Images, seed: int, sample: int) -> Float[Tensor, "c h w"]:
    """Standard normal noise of one sample, the same whatever came before it."""
    source = generator(seed * 1_000_003 + sample)
    return torch.randn(inputs.shape[1:], generator=source).to(inputs)
