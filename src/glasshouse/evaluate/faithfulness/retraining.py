"""Remove and retrain: does a network that is trained without the marked pixels do worse than one without random ones?

Retraining answers the objection that a perturbed image is like nothing the model has seen: here the model has. In
exchange the answer is about a data set and an architecture, not about one model or one image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Maps, Noun, generator, steps
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.mask import blend
from glasshouse.core.result import Direction
from glasshouse.core.target import logits

Labels: TypeAlias = Int[Tensor, " n"]
Fit: TypeAlias = Callable[[Images, Labels, int], nn.Module]
"""Trains a fresh network on images and labels; the seed decides its first weights and the order of images."""
Protocol: TypeAlias = Literal["roar", "kar"]

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
ROWS = 512
"""Images that are ranked, or run through a trained network, at a time."""


@dataclass(frozen=True, repr=False)
class Retraining(Noun):
    """Test accuracies of networks that were trained, and tested, without some of the pixels.

    Args:
        protocol: "roar", where the top `fractions` of a ranking were removed, or "kar", where only they were kept.
        accuracy: pixels ranked by the maps; rows are fractions, columns seeds.
        random: pixels of each image ranked at random; the same seeds.
        clean: trained and tested on the images as they are.
        majority: share of the commonest class in the test set, which a network without any information reaches.
        error: standard error of `mean`, over seeds and test images.
    """

    protocol: Protocol
    fractions: tuple[float, ...]
    accuracy: Float[Tensor, "f s"]
    random: Float[Tensor, "f s"]
    clean: Float[Tensor, " s"]
    majority: float
    error: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        better = "lower is better" if self.direction == "down" else "higher is better"
        trained = f"{len(self.fractions)} fractions × {len(self.clean)} seeds"
        return f"Retraining({self.protocol} {self.mean:+.3f} ± {self.error:.3f}, chance 0, {trained}, {better})"

    @property
    def difference(self) -> Float[Tensor, "f s"]:
        """Accuracy under the maps' ranking less accuracy under a random one."""
        return self.accuracy - self.random

    @property
    def mean(self) -> float:
        """Mean of `difference` over fractions and seeds: 0 is what maps without information score."""
        return float(self.difference.double().mean())

    @property
    def direction(self) -> Direction:
        """Without what good maps mark accuracy is low ("down"); with it alone, high ("up")."""
        return "down" if self.protocol == "roar" else "up"


def train_small_cnn(
    images: Images, labels: Labels, seed: int, *, n_steps: int = 300, batch: int = 64, width: int = 16
) -> nn.Module:
    """A convolutional network of three layers, trained from nothing by Adam. The same seed gives the same network."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(images.shape[1], width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, int(labels.max()) + 1),
        ).to(images)
        optimiser, draws = torch.optim.Adam(net.parameters(), 0.005), generator(seed)
        for _ in range(n_steps):
            rows = torch.randint(len(images), (min(batch, len(images)),), generator=draws).to(images.device)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[rows].detach()), labels[rows].long()).backward()
            optimiser.step()
    return net.eval()


def roar(
    train_images: Images,
    train_labels: Labels,
    test_images: Float[Tensor, "m c h w"],
    test_labels: Int[Tensor, " m"],
    train_maps: Maps,
    test_maps: Float[Tensor, "m h w"],
    *,
    fit: Fit = train_small_cnn,
    fractions: Sequence[float] = FRACTIONS,
    n_seeds: int = 3,
    seed: int = 0,
) -> Retraining:
    """How much worse a network does when trained without the marked pixels than without as many random ones.

        mean over fractions t of  accuracy(top t of the map removed) - accuracy(random t removed)

    Hooker et al., "A benchmark for interpretability methods in deep neural networks", NeurIPS 2019 (remove and
    retrain). Removed pixels become the mean colour of the training set, in training and test images alike, and a fresh
    network is trained for every fraction and ranking, and on the whole images: `n_seeds` * (2 * fractions + 1)
    trainings. Below 0 the maps mark what the task needs. Criticism: the shape of what was removed is still to be seen,
    and may itself tell the class (Rong et al., ICML 2022); and where information is redundant no map lowers accuracy.

    Differs: 3 seeds instead of 5. Equal values are ordered at random, for each image and seed.

    Args:
        train_maps: one map per image, made by the explained model for the image's class; pixels are ranked by value, so
            take the absolute value first if the sign is not to matter. Likewise `test_maps`.
        fit: trains a network: `fit(images, labels, seed)`. It has to be the same for the same arguments.
        fractions: of the pixels that are removed, between 0 and 1.
        n_seeds: trainings per point, with the seeds `seed`, `seed + 1`, …
    """
    sets = checked(train_images, train_labels, test_images, test_labels, train_maps, test_maps)
    return retrained("roar", sets, fit, tuple(fractions), n_seeds, seed)


def kar(
    train_images: Images,
    train_labels: Labels,
    test_images: Float[Tensor, "m c h w"],
    test_labels: Int[Tensor, " m"],
    train_maps: Maps,
    test_maps: Float[Tensor, "m h w"],
    *,
    fit: Fit = train_small_cnn,
    fractions: Sequence[float] = FRACTIONS,
    n_seeds: int = 3,
    seed: int = 0,
) -> Retraining:
    """How much better a network does when trained on the marked pixels alone than on as many random ones.

        mean over fractions t of  accuracy(only the top t of the map kept) - accuracy(random t kept)

    Hooker et al., NeurIPS 2019 (keep and retrain). Above 0 the maps mark what is enough for the task.
    Arguments and criticism as in `roar`; `fractions` are of the pixels kept.
    """
    sets = checked(train_images, train_labels, test_images, test_labels, train_maps, test_maps)
    return retrained("kar", sets, fit, tuple(fractions), n_seeds, seed)


class Labelled(NamedTuple):
    """Images with their classes, and the maps to rank their pixels by."""

    images: Images
    labels: Labels
    maps: Maps


def checked(
    train_images: Images,
    train_labels: Labels,
    test_images: Float[Tensor, "m c h w"],
    test_labels: Int[Tensor, " m"],
    train_maps: Maps,
    test_maps: Float[Tensor, "m h w"],
) -> tuple[Labelled, Labelled]:
    """The two sets, once it is clear that they belong together."""
    train = Labelled(checked_images(train_images), train_labels, train_maps)
    test = Labelled(checked_images(test_images), test_labels, test_maps)
    if train.images.shape[1:] != test.images.shape[1:]:
        seen = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise BadInput(f"training and test images have the shapes {seen}.", "Bring them to one size.")
    for name, (images, labels, maps) in (("train", train), ("test", test)):
        n, _, h, w = images.shape
        if labels.shape != (n,) or maps.shape != (n, h, w):
            raise BadInput(
                f"{n} {name} images of {h}×{w} came with labels {tuple(labels.shape)} and maps {tuple(maps.shape)}.",
                "Pass one label and one map `h w` per image.",
            )
        if bad := int((~maps.isfinite()).flatten(1).any(1).sum()):
            raise BadInput(f"{bad} of {n} {name}_maps are not finite.", "Leave these images out.")
    return train, test


def retrained(
    protocol: Protocol, sets: tuple[Labelled, Labelled], fit: Fit, fractions: tuple[float, ...], n_seeds: int, seed: int
) -> Retraining:
    """Train and test on every version of the two sets."""
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise BadInput(f"fractions {fractions} are not between 0 and 1.", "Try (0.1, 0.5, 0.9).")
    if n_seeds < 1:
        raise BadInput(f"n_seeds {n_seeds} is not at least 1.")
    train, test = sets
    hits = list[Bool[Tensor, " m"]]()
    total = n_seeds * (2 * len(fractions) + 1)
    trials = versions(protocol, sets, fractions, n_seeds, seed)
    with torch.inference_mode(False), torch.enable_grad():
        for _, (trial, seen, shown) in zip(steps(total), trials, strict=True):
            network = module_of(fit(seen, train.labels, seed + trial))
            hits.append(predictions(network, shown).cpu() == test.labels.cpu())
    right = torch.stack(hits).double().view(n_seeds, 2 * len(fractions) + 1, -1)
    clean, (ours, luck) = right[:, 0], right[:, 1:].unflatten(1, (2, -1)).unbind(1)
    settings = {"n_seeds": n_seeds, "seed": seed, "n_train": len(train.labels), "n_test": len(test.labels)}
    return Retraining(
        protocol,
        fractions,
        ours.mean(2).T.float(),
        luck.mean(2).T.float(),
        clean.mean(1).float(),
        float(test.labels.unique(return_counts=True)[1].max() / len(test.labels)),
        error_of((ours - luck).mean(1)),
        settings,
    )


def versions(
    protocol: Protocol, sets: tuple[Labelled, Labelled], fractions: tuple[float, ...], n_seeds: int, seed: int
) -> Iterator[tuple[int, Images, Float[Tensor, "m c h w"]]]:
    """Training and test images, for each seed: as they are, by the maps at each fraction, at random at each."""
    train, test = sets
    fill = train.images.mean((0, 2, 3)).view(1, -1, 1, 1)
    for trial in range(n_seeds):
        yield trial, train.images, test.images
        draws = generator(seed + trial)
        for by_map in (True, False):
            places = [ranked(part.maps if by_map else torch.zeros_like(part.maps), draws) for part in sets]
            for fraction in fractions:
                seen, shown = (
                    blend(part.images, keeps(protocol, place, fraction).to(fill.device), fill)
                    for part, place in zip(sets, places, strict=True)
                )
                yield trial, seen, shown


def ranked(maps: Maps, draws: torch.Generator) -> Int[Tensor, "n h w"]:
    """Place of each pixel in its map, 0 for the largest; equal values in an order drawn for each image by itself."""
    places = torch.empty(maps.shape, dtype=torch.int32)
    for values, into in zip(maps.detach().cpu().flatten(1).split(ROWS), places.flatten(1).split(ROWS), strict=True):
        order = torch.rand(values.shape, generator=draws).argsort(1)
        order = order.gather(1, values.gather(1, order).argsort(dim=1, descending=True, stable=True))
        into.scatter_(1, order, torch.arange(values.shape[1], dtype=torch.int32).expand_as(order))
    return places


def keeps(protocol: Protocol, places: Int[Tensor, "n h w"], fraction: float) -> Bool[Tensor, "n h w"]:
    """Which pixels stay; at least one is removed, and at least one stays."""
    d = places[0].numel()
    top = places < min(max(1, round(fraction * d)), max(1, d - 1))
    return ~top if protocol == "roar" else top


def predictions(network: nn.Module, images: Float[Tensor, "m c h w"]) -> Int[Tensor, " m"]:
    network.eval()
    with torch.no_grad():
        return torch.cat([logits(network(part)).argmax(1) for part in images.split(ROWS)])


def error_of(gain: Float[Tensor, "s m"]) -> float:
    """Standard error of the mean over seeds and images, which are both drawn from many: their variances add.

    What belongs to both is counted twice, so it is rather too large. A single seed leaves the images only.
    """
    parts = [means.var().item() / len(means) for means in (gain.mean(0), gain.mean(1)) if len(means) > 1]
    return math.sqrt(sum(parts)) if parts else math.nan
