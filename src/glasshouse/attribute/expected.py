"""Integrated gradients from many baselines at once: no single image has to stand for "nothing there"."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.attribute.baselines import baseline_images
from glasshouse.attribute.gradients import LOCAL, relative_gap
from glasshouse.core import Aim, BadInput, Cost, Images, PerImage, Reading, Target, generator, in_chunks, method, select
from glasshouse.core.gradient import gradient
from glasshouse.core.target import logits


def passes(settings: Mapping[str, Any], shape: Sequence[int]) -> Cost:
    """Of expected gradients: one way there and back per sample, the image, and every baseline that is drawn, once."""
    given, n = settings["baselines"], settings["n_samples"]
    several = isinstance(given, Tensor) and given.ndim == 4
    return Cost(n + 1 + (min(n, len(given)) if several else 1) / shape[0], n)


@method(cost=passes, claims=("complete", *LOCAL, "linear"), paper="Erion et al., 2021", example={"n_samples": 16})
def expected_gradients(
    model: nn.Module,
    inputs: Images,
    target: Target = None,
    *,
    baselines: float | Tensor = 0.0,
    n_samples: int = 50,
    seed: int = 0,
    score: Reading = "logit",
    chunk: int = 16,
) -> tuple[Images, dict[str, PerImage]]:
    """What each input value adds to the score on the way from an image of a set to this one, on average over the set.

        mean over x0 in the set and a in 0…1 of (x - x0) dy / dx at x0 + a (x - x0)

    Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models with axiomatic
    attribution priors and expected gradients", Nature Machine Intelligence 2021, eq. 3. GradientSHAP without its noise.
    The values sum to `y(x)` less the mean of `y(x0)`; how far they miss it, for the baselines that were drawn, is
    `extras["gap"]`, relative to that difference.

    Differs: places a are drawn one from each of `n_samples` equal parts of 0…1, and baselines in shuffled rounds, so
    that each is used as often as any other. Means are the same, with less chance in them.

    Args:
        baselines: the set in the model's input space, `b c h w`, the same for every image; a number or one value per
            channel as `c 1 1` makes a set of one.
        n_samples: pairs of a baseline and a place; the same are drawn for every image.
        chunk: samples per forward pass; any number gives the same result.
    """
    if n_samples < 1 or chunk < 1:
        raise BadInput(f"n_samples {n_samples} and chunk {chunk} must be at least 1.")
    aim, n, device = Aim.of(target), len(inputs), inputs.device
    starts = baseline_set(baselines, inputs)
    chosen, places = draws(len(starts), n_samples, seed)
    chosen, places = chosen.to(device), places.to(device)
    with torch.no_grad():
        change = select(model(inputs), aim, score) - mean_score(model, starts, chosen, aim, score, n, chunk)

    def contributions(rows: Int[Tensor, " r"]) -> Tensor:
        image, sample = rows % n, rows // n
        start, end = starts[chosen[sample]], inputs[image]
        share = rearrange(places[sample].to(end.dtype), "r -> r 1 1 1")
        points = (start + share * (end - start)).requires_grad_()
        return (end - start) * gradient(select(model(points), aim.rows(image), score), points)

    total = torch.zeros_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
    for rows, values in in_chunks(contributions, n_samples * n, chunk, device):
        total.index_add_(0, rows % n, values.to(total))
    values = total / n_samples
    return values, {"gap": relative_gap(values, change)}


def baseline_set(baselines: float | Tensor, inputs: Images) -> Float[Tensor, "b c h w"]:
    """A set of images from a number, a value per channel, or the images themselves."""
    if not isinstance(baselines, Tensor) or baselines.ndim < 4:
        return baseline_images(baselines, inputs[:1])
    if baselines.ndim > 4 or baselines.shape[1:] != inputs.shape[1:] or not len(baselines):
        raise BadInput(
            f"baselines of shape {tuple(baselines.shape)} for images {tuple(inputs.shape)}.",
            "Give a number, or images `b c h w` of the same size.",
        )
    return baselines.detach().to(inputs)


def draws(n_baselines: int, n_samples: int, seed: int) -> tuple[Int[Tensor, " s"], Float[Tensor, " s"]]:
    """A baseline and a place for each sample."""
    source = generator(seed)
    places = (torch.arange(n_samples) + torch.rand(n_samples, generator=source, dtype=torch.float64)) / n_samples
    rounds = [torch.randperm(n_baselines, generator=source) for _ in range(0, n_samples, n_baselines)]
    return torch.cat(rounds)[:n_samples], places


def mean_score(
    model: nn.Module,
    starts: Float[Tensor, "b c h w"],
    chosen: Int[Tensor, " s"],
    aim: Aim,
    score: Reading,
    n: int,
    chunk: int,
) -> PerImage:
    """Each image's own question, asked of the baselines instead, and averaged as often as they were drawn."""
    drawn, times = chosen.unique(return_counts=True)
    total = starts.new_zeros(n, dtype=torch.promote_types(starts.dtype, torch.float32))
    parts = in_chunks(lambda rows: logits(model(starts[drawn[rows]])), len(drawn), chunk, starts.device)
    for rows, output in parts:
        asked = [aim.rows(torch.full_like(rows, image)) for image in range(n)]
        scores = torch.stack([select(output, question, score) for question in asked])
        total += (scores.to(total) * times[rows]).sum(1)
    return (total / len(chosen)).to(starts.dtype)
