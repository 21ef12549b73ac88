"""Oracles, which say what is in a scene: the part at every pixel, and the value of every factor.

They are asked about generated images too, so half of the images they learn from are blurred and noisy, and they learn
at 32 and at 64 px.
"""

from functools import cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse import data
from glasshouse.core.image import blur
from glasshouse.core.model import Preprocess
from glasshouse.core.seed import generator
from glasshouse.core.types import Images, Logits, PerImage
from glasshouse.zoo.nets.residual import FactorNet
from glasshouse.zoo.nets.unet import UNet
from glasshouse.zoo.recipes.classifiers import GLANCE, HELD_OUT, N_GLANCE
from glasshouse.zoo.recipes.supervised import Answers, Schedule, Supervised
from glasshouse.zoo.training import Recipe

PRESET = "houses"
PLANE = "part"
BATCH, SIZES = 64, (32, 64)
PREPROCESS = Preprocess(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
SEGMENTER_STEPS, SEGMENTER_RATE, SEGMENTER_WIDTH = 2_000, 4e-3, 16
REGRESSOR_STEPS, REGRESSOR_RATE, REGRESSOR_WIDTH = 3_000, 3e-3, 0.5
NOISE, BLUR = 0.05, 0.7  # of pixels in 0…1; in px
N_HELD_OUT, PART = 1_000, 200


def roughened(images: Images, seed: int) -> Images:
    """The second half of the images blurred and with noise: generated images are never as clean as rendered ones."""
    clean, rough = images[: len(images) // 2], images[len(images) // 2 :]
    if len(rough) == 0:
        return images
    noise = NOISE * torch.randn(rough.shape, generator=generator(seed)).to(images.device)
    return torch.cat([clean, (blur(rough, BLUR, 5) + noise).clamp(0, 1)])


def _scenes(
    seed: int, step: int, n: int, size: int, device: torch.device | str = "cpu", labels: bool = True
) -> data.Scenes:
    return data.scenes(PRESET, n, size=size, seed=seed, start=step * n, labels=labels, device=device)


def _one() -> data.Scenes:
    return data.scenes(PRESET, 1, size=16, labels=False)


# The segmenter


@cache
def parts() -> tuple[str, ...]:
    """Names of the parts, in the order of the segmenter's outputs."""
    return _one().vocabulary[PLANE]


def _segmenter() -> nn.Module:
    return UNet(len(parts()), width=SEGMENTER_WIDTH)


def segmenter_batch(seed: int, device: torch.device, step: int) -> tuple[Images, Answers]:
    """Scenes and the part at each pixel, at 32 and at 64 px in turn."""
    found = _scenes(seed, step, BATCH, SIZES[step % len(SIZES)], device)
    return roughened(found.images, (seed << 32) + step), {"part": found.labels[PLANE]}


def pixel_loss(logits: Float[Tensor, "n k h w"], answers: Answers) -> PerImage:
    """Minus the log of the probability that the right part gets, on average over pixels."""
    return F.cross_entropy(logits, answers["part"], reduction="none").mean((1, 2))


def overlap(
    guess: Int[Tensor, "n h w"], truth: Int[Tensor, "n h w"], n_parts: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Per part, at how many pixels guess and truth agree on it, and at how many at least one of them says it."""
    both = torch.bincount(truth[guess == truth], minlength=n_parts)
    either = torch.bincount(guess.flatten(), minlength=n_parts) + torch.bincount(truth.flatten(), minlength=n_parts)
    return both, either - both


def segmenter_figures(network: nn.Module, *, n: int = N_HELD_OUT, seed: int = HELD_OUT) -> dict[str, float]:
    """Intersection over union of each part over all held-out pixels, their mean, and the share of pixels right."""
    figures: dict[str, float] = {}
    device = next(network.parameters()).device
    for size in SIZES:
        both, either, pixels = (torch.zeros(len(parts()), dtype=torch.long) for _ in range(3))
        for step in range(max(1, n // PART)):
            found = _scenes(seed, step, min(n, PART), size)
            with torch.no_grad():
                guess = network(found.images.to(device)).argmax(1).cpu()
            agreed, said = overlap(guess, found.labels[PLANE], len(parts()))
            both, either = both + agreed, either + said
            pixels += torch.bincount(found.labels[PLANE].flatten(), minlength=len(parts()))
        seen = pixels > 0
        iou = both.double() / either.clamp(min=1)
        figures[f"mean_iou_{size}px"] = float(iou[seen].mean())
        figures[f"pixels_right_{size}px"] = float(both.sum() / pixels.sum())
        if size == SIZES[-1]:
            named = zip(parts(), iou.tolist(), seen.tolist(), strict=True)
            figures |= {f"iou_{name}": value for name, value, present in named if present}
    return figures


def _segmenter_task(seed: int, device: torch.device) -> Supervised:
    return Supervised(
        _segmenter,
        batch=partial(segmenter_batch, seed, device),
        loss=pixel_loss,
        look=partial(segmenter_figures, n=100, seed=GLANCE),
        schedule=Schedule(SEGMENTER_RATE, SEGMENTER_STEPS),
        seed=seed,
        device=device,
    )


# The regressor


@cache
def heads() -> dict[str, int]:
    """Per factor of a scene, how many values it can take, or 1 for a number."""
    return {factor.name: len(factor.values) or 1 for factor in _one().schema}


@cache
def ranges() -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each factor that is a number."""
    schema = _one().schema
    return {factor.name: (factor.low, factor.high) for factor in schema if not factor.values}


def _regressor() -> nn.Module:
    return FactorNet(heads(), width=REGRESSOR_WIDTH)


def outputs() -> tuple[str, ...]:
    """What each output says: `factor=value` for a value's logit, `factor` for a number's place in its range."""
    names: list[str] = []
    for factor in _one().schema:
        names += [f"{factor.name}={value}" for value in factor.values] or [factor.name]
    return tuple(names)


def regressor_batch(seed: int, device: torch.device, step: int) -> tuple[Images, Answers]:
    """Scenes and their factors, numbers as places in their range, 0…1."""
    found = _scenes(seed, step, BATCH, SIZES[step % len(SIZES)], device, labels=False)
    return roughened(found.images, (seed << 32) + step), placed(found.factors)


def placed(factors: Answers) -> Answers:
    """Numbers as places in their range, 0…1; values as they are."""
    limits = ranges()
    return {
        name: ((value - limits[name][0]) / (limits[name][1] - limits[name][0])).float() if name in limits else value
        for name, value in factors.items()
        if name in heads()
    }


def factor_loss(logits: Logits, answers: Answers) -> PerImage:
    """Cross entropy of every factor with values, and twelve times the squared error of every number.

    Twelve times, because 1 is then what the best constant scores: the variance of a uniform draw from 0…1 is 1/12.
    """
    total = logits.new_zeros(len(logits))
    for (name, size), part in zip(heads().items(), logits.split(list(heads().values()), 1), strict=True):
        if size > 1:
            total = total + F.cross_entropy(part, answers[name], reduction="none")
        else:
            total = total + 12 * (part[:, 0] - answers[name]).square()
    return total / len(heads())


def regressor_figures(network: nn.Module, *, n: int = N_HELD_OUT, seed: int = HELD_OUT) -> dict[str, float]:
    """Per factor, accuracy where it has values, R² where it is a number, on held-out scenes at 64 px."""
    device = next(network.parameters()).device
    guesses: list[Tensor] = []
    answers: dict[str, list[Tensor]] = {name: [] for name in heads()}
    for step in range(max(1, n // PART)):
        found = _scenes(seed, step, min(n, PART), SIZES[-1], labels=False)
        with torch.no_grad():
            guesses.append(network(found.images.to(device)).cpu())
        for name, value in placed(found.factors).items():
            answers[name].append(value)
    figures: dict[str, float] = {}
    for (name, size), part in zip(heads().items(), torch.cat(guesses).split(list(heads().values()), 1), strict=True):
        truth = torch.cat(answers[name])
        if size > 1:
            figures[f"accuracy_{name}"] = float((part.argmax(1) == truth).double().mean())
        else:
            error = (part[:, 0].double() - truth.double()).square().mean()
            figures[f"r2_{name}"] = float(1 - error / truth.double().var(correction=0))
    return figures


def _regressor_task(seed: int, device: torch.device) -> Supervised:
    return Supervised(
        _regressor,
        batch=partial(regressor_batch, seed, device),
        loss=factor_loss,
        look=partial(regressor_figures, n=N_GLANCE, seed=GLANCE),
        schedule=Schedule(REGRESSOR_RATE, REGRESSOR_STEPS),
        seed=seed,
        device=device,
    )


def _about(steps: int) -> str:
    return f"{steps * BATCH:,} {PRESET} of the scene world, 32 and 64 px, half of them rough; measured on others."


RECIPES = (
    Recipe(
        name="houses_segmenter",
        about="A tiny U-Net that names the part at every pixel of a scene with houses; inputs are pixels in 0…1.",
        steps=SEGMENTER_STEPS,
        task=_segmenter_task,
        network=_segmenter,
        figures=segmenter_figures,
        preprocess=PREPROCESS,
        class_names=parts,
        data=_about(SEGMENTER_STEPS),
        paper="Ronneberger, Fischer and Brox, U-Net, MICCAI 2015",
    ),
    Recipe(
        name="houses_regressor",
        about="A small residual network that reads every factor of a scene with houses; inputs are pixels in 0…1.",
        steps=REGRESSOR_STEPS,
        task=_regressor_task,
        network=_regressor,
        figures=regressor_figures,
        preprocess=PREPROCESS,
        class_names=outputs,
        data=_about(REGRESSOR_STEPS),
    ),
)
