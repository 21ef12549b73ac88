"""Telling attacked images from clean ones by their heat maps alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    Explanation,
    Images,
    Model,
    Noun,
    generator,
    in_chunks,
    registered,
    resize,
    steps,
)
from glasshouse.core.lift import checked_images, setting
from glasshouse.diagnose.attacks import Adversarial

Explain: TypeAlias = Callable[[Model | nn.Module, Tensor], Explanation]
"""From a model and images to the heat maps of their top classes: any attribution method does."""

SIZE = 32
CHANNELS = (16, 32, 32)
BATCH, MOMENTUM = 32, 0.9


@dataclass(frozen=True, repr=False)
class Detection(Noun):
    """How well heat maps give attacked images away.

    Args:
        method: what made the heat maps.
        accuracy: share of heat maps that were told right by a network that had not seen their image; 1/2 by chance.
        stderr: of `accuracy`, over images.
        control, control_stderr: the same after the two maps were swapped in half of the images, drawn at random in
            each fold: 1/2, but for chance, if nothing is wrong with the procedure.
        attacked: the probability that was told for the map of each clean image, and of each attacked one.
        rows: the images that were used: those whose answer the attack changed.
    """

    method: str
    accuracy: float
    stderr: float
    control: float
    control_stderr: float
    attacked: Float[Tensor, "n 2"]
    rows: Int[Tensor, " n"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        shown = f"{self.accuracy:.1%} ± {self.stderr:.1%}, control {self.control:.1%} ± {self.control_stderr:.1%}"
        return f"Detection({self.method}, {len(self.rows)} images, {shown})"


@registered("diagnose", paper="Fong & Vedaldi, ICCV 2017")
def detect_adversarial(
    model: Model | nn.Module,
    inputs: Images,
    adversarial: Adversarial,
    *,
    explain: Explain,
    n_folds: int = 5,
    n_epochs: int = 30,
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
    seed: int = 0,
    chunk: int = 16,
) -> Detection:
    """How often a small network can tell, from a heat map alone, whether the image behind it was attacked.

    Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017, sec. 5.5.
    The maps are of the top class. Both maps of an image are held out together, each image in one of `n_folds` parts.

    Differs: a network of three convolutions on maps of 32×32 pixels, and cross-validation, so that some hundred images
    are enough. Maps are scaled as for display: only their form can tell.

    Args:
        inputs: the clean images.
        adversarial: the same images after an attack. Where it did not change the answer, they are left out.
        explain: an attribution method, or any function from model and images to an explanation.
        n_epochs, lr, weight_decay: of stochastic gradient descent with momentum 0.9.
        seed: of folds, weights, order, and swaps.
        chunk: images per call of `explain`.
    """
    images = checked_images(inputs)
    if images.shape != adversarial.images.shape:
        raise BadInput(
            f"images {tuple(images.shape)} are not those that were attacked, {tuple(adversarial.images.shape)}.",
            "Pass the clean images that the attack was given.",
        )
    rows = adversarial.changed.nonzero()[:, 0]
    if n_folds < 2 or n_epochs < 1 or len(rows) < 2 * n_folds:
        raise BadInput(
            f"{len(rows)} attacked images with another answer are too few for {n_folds} folds.",
            "Two or more per fold are needed, and at least 2 folds and 1 epoch.",
        )
    pairs = [heat_maps(model, source[rows], explain, chunk) for source in (images, adversarial.images)]
    maps = torch.stack([found for found, _ in pairs], 1)
    draws = generator(seed)
    order = torch.randperm(len(rows), generator=draws)
    fold, plain, half = order % n_folds, torch.zeros(len(rows)).bool(), order // n_folds % 2 == 1
    training = Training(n_epochs, lr, weight_decay)
    attacked, shuffled = (held_out(maps, fold, swapped, training, draws) for swapped in (plain, half))
    (accuracy, stderr), (control, control_stderr) = share_right(attacked, plain), share_right(shuffled, half)
    settings: dict[str, Any] = {
        "explain": setting(explain),
        "n_folds": n_folds,
        "n_epochs": n_epochs,
        "lr": lr,
        "weight_decay": weight_decay,
        "seed": seed,
        "chunk": chunk,
    }
    method = pairs[0][1]
    return Detection(method, accuracy, stderr, control, control_stderr, attacked, rows, settings)


def heat_maps(
    model: Model | nn.Module, images: Images, explain: Explain, chunk: int
) -> tuple[Float[Tensor, "n s s"], str]:
    """Maps as for display, on a small grid, and the name of the method that made them."""
    found = [explanation for _, explanation in in_chunks(lambda rows: explain(model, images[rows]), len(images), chunk)]
    maps = torch.cat([explanation.normalised() for explanation in found]).cpu()
    return resize(maps[:, None], (SIZE, SIZE))[:, 0], found[0].method


@dataclass(frozen=True)
class Training:
    """How the small network is trained."""

    n_epochs: int
    lr: float
    weight_decay: float


def held_out(
    maps: Float[Tensor, "n 2 s s"],
    fold: Int[Tensor, " n"],
    swapped: Bool[Tensor, " n"],
    training: Training,
    draws: torch.Generator,
) -> Float[Tensor, "n 2"]:
    """For each map the probability that it is of an attacked image, told by a network trained on the other folds."""
    answers = torch.stack([swapped, ~swapped], 1).float()
    told = torch.empty_like(answers)
    for part in range(int(fold.max()) + 1):
        seen, unseen = fold != part, fold == part
        spread = maps[seen].std()
        examples = rearrange(maps[seen] / spread, "n two h w -> (n two) 1 h w")
        weights = fitted(examples, answers[seen].flatten(), training, draws)
        with torch.no_grad():
            rest = rearrange(maps[unseen] / spread, "n two h w -> (n two) 1 h w")
            told[unseen] = judged(weights, rest).sigmoid().view(-1, 2)
    return told


def fitted(
    maps: Float[Tensor, "m 1 s s"], answers: Float[Tensor, " m"], training: Training, draws: torch.Generator
) -> list[Tensor]:
    """Weights of the small network after stochastic gradient descent."""
    weights = fresh(draws)
    speeds = [torch.zeros_like(weight) for weight in weights]
    for _ in steps(training.n_epochs):
        for rows in torch.randperm(len(maps), generator=draws).split(BATCH):
            with torch.enable_grad():
                leaves = [weight.requires_grad_() for weight in weights]
                loss = F.binary_cross_entropy_with_logits(judged(leaves, maps[rows]), answers[rows])
                slopes = torch.autograd.grad(loss, leaves)
            speeds = [
                MOMENTUM * speed + slope + training.weight_decay * weight.detach()
                for speed, slope, weight in zip(speeds, slopes, weights, strict=True)
            ]
            weights = [weight.detach() - training.lr * speed for weight, speed in zip(weights, speeds, strict=True)]
    return weights


def fresh(draws: torch.Generator) -> list[Tensor]:
    """Weights and biases of three convolutions of stride 2 and a linear layer (He et al., ICCV 2015, eq. 10)."""
    sizes: list[tuple[int, ...]] = [(n_out, n_in, 3, 3) for n_in, n_out in zip((1, *CHANNELS), CHANNELS, strict=False)]
    sizes.append((1, CHANNELS[-1] * (SIZE // 2 ** len(CHANNELS)) ** 2))
    weights: list[Tensor] = []
    for size in sizes:
        weight = torch.randn(size, generator=draws)
        weights += [weight * (2 / weight[0].numel()) ** 0.5, torch.zeros(size[0])]
    return weights


def judged(weights: list[Tensor], maps: Float[Tensor, "m 1 s s"]) -> Float[Tensor, " m"]:
    """The logit of each map for "attacked"."""
    *convolutions, (weight, bias) = zip(weights[::2], weights[1::2], strict=True)
    for kernel, offset in convolutions:
        maps = F.conv2d(maps, kernel, offset, stride=2, padding=1).relu()
    return F.linear(maps.flatten(1), weight, bias)[:, 0]


def share_right(attacked: Float[Tensor, "n 2"], swapped: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Share of maps that were told right, and its standard error; the two maps of an image count as one draw."""
    right = ((attacked > 0.5) == torch.stack([swapped, ~swapped], 1)).double().mean(1)
    return float(right.mean()), float(right.std() / len(right) ** 0.5)
