"""Do prototypes mean something? Whether each of them lies on one part, and stays there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Images, Noun, Units, generator
from glasshouse.evaluate.inside.peaks import (
    IMAGE_PX,
    Place,
    Size,
    anywhere,
    checked_size,
    contains,
    enlarged_peaks,
    half_of,
    own_images,
    share_of,
    strongest,
)
from glasshouse.evaluate.inside.peaks import peaks as peaks_of

PURITY_PX = 32  # of an image of 224


@dataclass(frozen=True, repr=False)
class PrototypeScore(Noun):
    """A score of each of p prototypes.

    Args:
        metric: "purity", "consistency" or "stability".
        value: of each prototype; NaN for one that is flat or has no image.
        part: the part (or group of parts) it lies on most often; -1 where there is none, or none was asked for.
        n_images: that each value comes from.
        chance: what prototypes with a peak anywhere in these images would score, on average: a share of 1.
        empty: share of the images in which the prototype lies on no part at all; NaN like `value`.
        scale: what the papers multiply by: 1 for purity, 100 for the others.
    """

    metric: str
    value: Float[Tensor, " p"]
    part: Int[Tensor, " p"]
    n_images: Int[Tensor, " p"]
    chance: float
    empty: Float[Tensor, " p"]
    scale: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        n = int(self.value.isfinite().sum())
        return (
            f"PrototypeScore({self.metric} {self.mean:.3g} ± {self.std:.2g} over {n} prototypes, "
            f"chance {self.scale * self.chance:.3g}, higher is better)"
        )

    @property
    def mean(self) -> float:
        """Over prototypes, on the papers' scale."""
        return self.scale * float(self.value.nanmean())

    @property
    def std(self) -> float:
        """Standard deviation over prototypes, which the papers report."""
        known = self.value[self.value.isfinite()]
        return self.scale * float(known.std()) if len(known) > 1 else 0.0


def prototype_purity(
    maps: Units,
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    place: Place = None,
    top: int = 10,
    box_px: float | int | None = None,
    groups: Sequence[int] | None = None,
    n_chance: int = 20,
    seed: int = 0,
) -> PrototypeScore:
    """How pure a prototype is: share of its best patches that contain the same part.

        purity_p = max_k 1/10 sum over the 10 images with the highest peaks of [part k lies in the patch]

    Nauta et al., "PIP-Net", CVPR 2023, sec. 5. A patch is a box of 32 pixels (of 224) around the pixel that the peak
    looks at: larger boxes contain a part more easily. In an image that does not show the part, the patch counts as
    without it.

    Args:
        maps: activations of the prototypes in the training images.
        parts: row, column and visibility of each part, as `Scenes.parts`.
        box_px: side of the patches; None is 32 for an image of 224, and in proportion.
        groups: the same number for parts that count as one, such as left and right eye.
    """
    found = peaks_of(maps, place, size, seed)
    check(maps, parts, n_chance)
    half = (PURITY_PX / IMAGE_PX * min(size) if box_px is None else box_px) / 2
    merged, (chosen, valid) = grouped(parts, groups), strongest(found.height, found.there, top, seed)
    count, shown = valid.sum(0), parts.detach().cpu().double()[chosen]  # only the best patches are looked at

    def shares(at: Tensor) -> Tensor:
        near = by_group(contains(at, shown, half), merged)
        return share_of(near, valid[..., None])

    at = found.at.gather(0, chosen[..., None].expand(-1, -1, 2))
    share = shares(at)
    chance = mean_of([shares(drawn).amax(1)[count > 0] for drawn in anywhere(at, size, n_chance, seed)])
    empty = share_of(~contains(at, shown, half).any(2), valid)
    settings = {"top": top, "box_px": 2 * half, "n_chance": n_chance, "seed": seed}
    return PrototypeScore("purity", share.amax(1), commonest(share), count, chance, empty, 1.0, settings)


def prototype_consistency(
    maps: Units,
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    categories: Int[Tensor, " m"] | None = None,
    of_prototypes: Int[Tensor, " u"] | None = None,
    half_px: float | int | None = None,
    threshold: float = 0.8,
    n_chance: int = 20,
    seed: int = 0,
) -> PrototypeScore:
    """Share of the prototypes that lie on one and the same part in the images of their class.

        consistent_p = [max_k share of the images showing part k in which it lies in p's box >= 0.8]

    Huang et al., "Evaluation and improvement of interpretability for self-explainable part-prototype networks", ICCV
    2023. The box reaches 36 pixels (of 224) to each side of the peak of the map, enlarged by bicubic interpolation.

    Args:
        maps: activations of the prototypes in test images.
        categories: of the images; a prototype is judged on those of its class. Without them all count.
        of_prototypes: the class of each; None takes the one whose images excite it most.
        half_px: half the box's side; None is 36 for an image of 224, and in proportion.
    """
    check(maps, parts, n_chance)
    half, shown = half_of(half_px, size), parts.detach().cpu().double()[:, None]
    own = own_images(maps.detach().cpu().flatten(2).amax(2), categories, of_prototypes)
    at, _, usable = enlarged_peaks(maps, own, checked_size(size), seed)
    asked = usable[:, :, None] & (shown[..., 2] > 0)

    def best(at: Tensor) -> Tensor:
        return share_of(contains(at, shown, half), asked).nan_to_num(-1).amax(1)

    share, known = share_of(contains(at, shown, half), asked), asked.any(2).any(0)
    value = torch.where(known, (best(at) >= threshold).double(), torch.nan)
    chance = mean_of([(best(drawn) >= threshold).double()[known] for drawn in anywhere(at, size, n_chance, seed)])
    empty = share_of(~contains(at, shown, half).any(2), usable)
    settings = {"half_px": half, "threshold": threshold, "n_chance": n_chance, "seed": seed}
    return PrototypeScore("consistency", value, commonest(share), usable.sum(0), chance, empty, 100.0, settings)


def prototype_stability(
    maps: Units,
    noisy_maps: Float[Tensor, "r p a b"],
    parts: Float[Tensor, "m q 3"],
    *,
    size: Size,
    categories: Int[Tensor, " m"] | None = None,
    of_prototypes: Int[Tensor, " u"] | None = None,
    half_px: float | int | None = None,
    n_chance: int = 20,
    seed: int = 0,
) -> PrototypeScore:
    """Whether a prototype stays on its parts when the image is disturbed a little.

        stability_p = share of its class's images in which the box covers exactly the same parts with and without noise

    Huang et al., ICCV 2023; the noise is that of `with_noise`. A prototype that lies on no part before and after
    counts as stable: read `empty`, and `chance`, in which that is so as well.

    Args:
        maps, noisy_maps: activations of the prototypes in the images, and in the images with noise.
    """
    check(maps, parts, n_chance)
    if maps.shape != noisy_maps.shape:
        raise BadInput(f"maps {tuple(maps.shape)} and noisy maps {tuple(noisy_maps.shape)} are not of the same images.")
    half, shown = half_of(half_px, size), parts.detach().cpu().double()[:, None]
    own = own_images(maps.detach().cpu().flatten(2).amax(2), categories, of_prototypes)
    before, after = (enlarged_peaks(those, own, checked_size(size), seed) for those in (maps, noisy_maps))
    usable = before.there & after.there

    def shares(first: Tensor, second: Tensor) -> Tensor:
        same = contains(first, shown, half) == contains(second, shown, half)
        return share_of(same.all(2), usable)

    random = anywhere(before.at, size, 2 * n_chance, seed)
    chance = mean_of([shares(first, second)[usable.any(0)] for first, second in zip(random, random, strict=True)])
    empty, none = share_of(~contains(before.at, shown, half).any(2), usable), torch.full((maps.shape[1],), -1)
    settings = {"half_px": half, "n_chance": n_chance, "seed": seed}
    return PrototypeScore("stability", shares(before.at, after.at), none, usable.sum(0), chance, empty, 100.0, settings)


def with_noise(inputs: Images, *, sigma: float | int = 0.2, most: float | int = 0.25, seed: int = 0) -> Images:
    """Normalised images with Gaussian noise that is clipped, as `prototype_stability` wants it."""
    noise = torch.randn(inputs.shape, generator=generator(seed)).mul_(sigma).clamp_(-most, most)
    return inputs + noise.to(inputs)


def check(maps: Units, parts: Float[Tensor, "m q 3"], n_chance: int) -> None:
    """Raise unless there are as many images of both, and any."""
    if len(maps) != len(parts) or not len(maps) or not parts.shape[1] or n_chance < 1:
        raise BadInput(
            f"{len(maps)} images of maps, {len(parts)} of parts ({parts.shape[1]} of them), n_chance={n_chance}."
        )


def grouped(parts: Float[Tensor, "n k 3"], groups: Sequence[int] | None) -> Int[Tensor, " k"]:
    """The group of each part, numbered from 0."""
    k = parts.shape[1]
    if groups is None:
        return torch.arange(k)
    if len(groups) != k or min(groups, default=0) < 0:
        raise BadInput(f"groups={list(groups)} for {k} parts.", "Give a number from 0 for each part.")
    return torch.tensor(list(groups))


def by_group(near: Bool[Tensor, "n p k"], groups: Int[Tensor, " k"]) -> Bool[Tensor, "n p g"]:
    """Whether any part of a group is near."""
    sets = torch.nn.functional.one_hot(groups).float()
    return near.float() @ sets > 0


def commonest(share: Float[Tensor, "p k"]) -> Int[Tensor, " p"]:
    """The part with the largest share; -1 where all are 0 or unknown."""
    known = share.nan_to_num(0)
    return torch.where(known.amax(1) > 0, known.argmax(1), -1)


def mean_of(draws: list[Tensor]) -> float:
    """Mean over draws and prototypes."""
    return float(torch.stack(draws).mean())
