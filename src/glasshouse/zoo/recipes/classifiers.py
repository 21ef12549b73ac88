"""Classifiers: clothes, creatures, houses, and creatures with a shortcut planted beside them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from glasshouse import data
from glasshouse.core.model import Preprocess
from glasshouse.core.seed import generator
from glasshouse.core.types import Images, Logits, PerImage
from glasshouse.data.world.presets import PresetName
from glasshouse.data.world.shortcuts import Split
from glasshouse.zoo.nets.residual import ResidualNet
from glasshouse.zoo.nets.vit import VisionTransformer
from glasshouse.zoo.recipes.supervised import Answers, Schedule, Supervised
from glasshouse.zoo.training import FIRST_HELD_OUT_SEED, Recipe

BATCH = 64
PART = 250  # images per pass when measuring
SIZE = 64
PREPROCESS = Preprocess(size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)

FASHION_STEPS, FASHION_BATCH, FASHION_RATE = 9_000, 128, 3e-3
FASHION = Preprocess(size=(28, 28), mean=(0.286,), std=(0.353,))
FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SHIFT = 2

CREATURES_STEPS, HOUSES_STEPS, SCENE_RATE = 2_500, 1_000, 3e-3
VIT_STEPS, VIT_RESTART, VIT_RATE = 9_000, 6_000, 1e-3
BIASED_STEPS, BIASED_WIDTH = 1_500, 0.5
SHORTCUT = "watermark"
POOL = 20_000
STRENGTHS = {  # how often the shortcut tells the category; else it shows any
    "creatures_biased": 0.95,
    "creatures_biased_0": 0.0,
    "creatures_biased_75": 0.75,
    "creatures_biased_90": 0.9,
    "creatures_biased_100": 1.0,
}

HELD_OUT, N_HELD_OUT = FIRST_HELD_OUT_SEED, 4_000
GLANCE, N_GLANCE = FIRST_HELD_OUT_SEED + 1, 512


def cross_entropy(logits: Logits, answers: Answers) -> PerImage:
    """Minus the log of the probability that the right category gets."""
    return F.cross_entropy(logits, answers["category"], reduction="none")


def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Share of images put in the right category: over all of them, and for the category where it is lowest.

    Args:
        batches: images with their categories.
    """
    right, seen = Counter[int](), Counter[int]()
    for images, categories in batches:
        with torch.no_grad():
            hits = network(images.to(next(network.parameters()).device)).argmax(1).cpu() == categories.cpu()
        seen.update(categories.tolist())
        right.update(categories[hits].tolist())
    return {
        "accuracy": sum(right.values()) / sum(seen.values()),
        "worst_class": min(right[category] / n for category, n in seen.items()),
    }


# Fashion-MNIST


@cache
def _fashion(split: Literal["train", "test"]) -> tuple[UInt8[Tensor, "n 1 28 28"], Int[Tensor, " n"]]:
    found = data.fashion_mnist(split=split)
    return found.images, found.targets.long()


def jittered(images: Images, seed: int) -> Images:
    """Each image shifted by up to two pixels, with zeros moving in, and every other one mirrored."""
    n, _, h, w = images.shape
    draws = generator(seed)
    top, left = torch.randint(2 * SHIFT + 1, (2, n), generator=draws)
    mirrored = torch.rand(n, generator=draws) < 0.5
    rows = (top[:, None] + torch.arange(h))[:, None, :, None]
    cols = left[:, None] + torch.arange(w)
    cols = torch.where(mirrored[:, None], cols.flip(1), cols)[:, None, None, :]
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    return F.pad(images, (SHIFT,) * 4)[image, channel, rows, cols]


def fashion_batch(seed: int, step: int) -> tuple[Images, Answers]:
    """The images of a step: every image once per pass through the data, in an order of its own each time."""
    images, targets = _fashion("train")
    per_pass = len(images) // FASHION_BATCH
    turn, place = divmod(step, per_pass)
    order = _order(len(images), (seed << 32) + turn)
    chosen = order[place * FASHION_BATCH : (place + 1) * FASHION_BATCH]
    pixels = jittered(images[chosen].float() / 255, (seed << 32) + (1 << 31) + step)
    return FASHION.normalise(pixels), {"category": targets[chosen]}


@lru_cache(maxsize=2)
def _order(n: int, seed: int) -> Int[Tensor, " n"]:
    return torch.randperm(n, generator=generator(seed))


def fashion_accuracy(network: nn.Module, limit: int | None = None) -> dict[str, float]:
    """Accuracy on the test images."""
    images, targets = _fashion("test")
    pairs = zip(images[:limit].split(500), targets[:limit].split(500), strict=True)
    return accuracy(network, ((FASHION.normalise(part.float() / 255), answers) for part, answers in pairs))


def _fashion_net() -> nn.Module:
    return ResidualNet(len(FASHION_NAMES), n_channels=1)


def _fashion_task(seed: int, device: torch.device) -> Supervised:
    return Supervised(
        _fashion_net,
        batch=partial(fashion_batch, seed),
        loss=cross_entropy,
        look=partial(fashion_accuracy, limit=2_000),
        schedule=Schedule(FASHION_RATE, FASHION_STEPS),
        seed=seed,
        device=device,
        weight_decay=0.05,
    )


FASHION_CNN = Recipe(
    name="fashion_cnn",
    about="A small residual network for the ten kinds of clothes of Fashion-MNIST.",
    steps=FASHION_STEPS,
    task=_fashion_task,
    network=_fashion_net,
    figures=fashion_accuracy,
    preprocess=FASHION,
    class_names=lambda: FASHION_NAMES,
    data="The 60,000 training images of Fashion-MNIST, shifted and mirrored; measured on its 10,000 test images.",
    paper="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
)


# Scenes


@cache
def class_names(preset: PresetName) -> tuple[str, ...]:
    """The categories of a preset's scenes."""
    return data.scenes(preset, 1, size=16, labels=False).class_names


def scene_batch(
    preset: PresetName,
    seed: int,
    step: int,
    *,
    n: int = BATCH,
    shortcut: data.Shortcut | None = None,
    split: Split = "train",
    device: torch.device | str = "cpu",
) -> tuple[Images, Answers]:
    """The scenes of a step, which no other step sees."""
    found = data.scenes(
        preset, n, size=SIZE, seed=seed, start=step * n, shortcut=shortcut, split=split, labels=False, device=device
    )
    return PREPROCESS.normalise(found.images), {"category": found.categories}


def pool_batch(
    preset: PresetName, seed: int, step: int, *, shortcut: data.Shortcut | None, device: torch.device | str = "cpu"
) -> tuple[Images, Answers]:
    """The scenes of a step out of a pool that is rendered once, for networks faster than the renderer."""
    pixels, categories = _pool(preset, seed, shortcut)
    turn, place = divmod(step, len(pixels) // BATCH)
    chosen = _order(len(pixels), (seed << 32) + turn)[place * BATCH : (place + 1) * BATCH]
    images = pixels[chosen].to(device).float() / 255
    return PREPROCESS.normalise(images), {"category": categories[chosen]}


@lru_cache(maxsize=1)
def _pool(
    preset: PresetName, seed: int, shortcut: data.Shortcut | None
) -> tuple[UInt8[Tensor, "n 3 h w"], Int[Tensor, " n"]]:
    pixels, categories = torch.empty(POOL, 3, SIZE, SIZE, dtype=torch.uint8), torch.empty(POOL, dtype=torch.long)
    for start in range(0, POOL, PART):
        n = min(PART, POOL - start)
        found = data.scenes(preset, n, size=SIZE, seed=seed, start=start, shortcut=shortcut, labels=False)
        pixels[start : start + n] = (found.images * 255).round().to(torch.uint8)
        categories[start : start + n] = found.categories
    return pixels, categories


def scene_accuracy(
    preset: PresetName,
    network: nn.Module,
    *,
    n: int = N_HELD_OUT,
    seed: int = HELD_OUT,
    shortcut: data.Shortcut | None = None,
    split: Split = "absent",
) -> dict[str, float]:
    """Accuracy on scenes of a seed that training never uses."""
    size = min(n, PART)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(n // size):
            images, answers = scene_batch(preset, seed, step, n=size, shortcut=shortcut, split=split)
            yield images, answers["category"]

    return accuracy(network, batches())


def reliance(preset: PresetName, network: nn.Module, *, n: int = N_HELD_OUT, seed: int = HELD_OUT) -> dict[str, float]:
    """How far a classifier goes by the shortcut: accuracy where it shows the category, less where it shows another."""
    shortcut = data.Shortcut(SHORTCUT)
    splits: tuple[Split, ...] = ("aligned", "conflicting", "absent")
    aligned, conflicting, absent = (
        scene_accuracy(preset, network, n=n, seed=seed, shortcut=shortcut, split=split)["accuracy"] for split in splits
    )
    return {
        "accuracy_aligned": aligned,
        "accuracy_conflicting": conflicting,
        "accuracy_absent": absent,
        "reliance": aligned - conflicting,
    }


def scene_recipe(
    name: str,
    about: str,
    preset: PresetName,
    make: Callable[[int], nn.Module],
    schedule: Schedule,
    *,
    weight_decay: float = 0.02,
    strength: float | None = None,
    paper: str = "",
) -> Recipe:
    """A classifier of scenes that are rendered on the way; with a shortcut of some strength, from a pool."""
    shortcut = None if strength is None else data.Shortcut(SHORTCUT, strength)
    rendered = scene_batch if shortcut is None else pool_batch
    n_scenes = schedule.steps * BATCH if shortcut is None else POOL

    def network() -> nn.Module:
        return make(len(class_names(preset)))

    def task(seed: int, device: torch.device) -> Supervised:
        return Supervised(
            network,
            batch=partial(rendered, preset, seed, shortcut=shortcut, device=device),
            loss=cross_entropy,
            look=partial(scene_accuracy if shortcut is None else reliance, preset, n=N_GLANCE, seed=GLANCE),
            schedule=schedule,
            seed=seed,
            device=device,
            weight_decay=weight_decay,
        )

    return Recipe(
        name=name,
        about=about,
        steps=schedule.steps,
        task=task,
        network=network,
        figures=partial(scene_accuracy if shortcut is None else reliance, preset),
        preprocess=PREPROCESS,
        class_names=partial(class_names, preset),
        data=f"{n_scenes:,} {preset} of the scene world, {SIZE} px; measured on {N_HELD_OUT:,} others.",
        paper=paper,
    )


RECIPES = (
    FASHION_CNN,
    scene_recipe(
        "creatures_cnn",
        "A small residual network for the categories of creatures; 128 units on 16 × 16 in `stages.1`.",
        "creatures",
        ResidualNet,
        Schedule(SCENE_RATE, CREATURES_STEPS),
    ),
    scene_recipe(
        "houses_cnn",
        "A small residual network for the categories of houses; 128 units on 16 × 16 in `stages.1`.",
        "houses",
        ResidualNet,
        Schedule(SCENE_RATE, HOUSES_STEPS),
    ),
    scene_recipe(
        "creatures_vit",
        "A small Vision Transformer for the categories of creatures: 8 × 8 patches, 6 blocks of 4 heads.",
        "creatures",
        VisionTransformer,
        Schedule(VIT_RATE, VIT_STEPS, warmup=500, restarts=(VIT_RESTART,)),
        weight_decay=0.05,
        paper="Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021",
    ),
    *(
        scene_recipe(
            name,
            f"A narrow residual network for creatures; in {100 * strength:.0f} % a {SHORTCUT} told the category.",
            "creatures",
            partial(ResidualNet, width=BIASED_WIDTH),
            Schedule(SCENE_RATE, BIASED_STEPS),
            strength=strength,
        )
        for name, strength in STRENGTHS.items()
    ),
)
