"""Are pictures drawn for units like natural images, to a network that looks at both?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Noun, generator
from glasshouse.evaluate.agreement import mean_ranks, standardised


@dataclass(frozen=True, repr=False)
class Naturalness(Noun):
    """How far the features of m pictures are from those of natural images: lower is more natural.

    Args:
        distance: squared Fréchet distance of the pictures to natural images, the mean over the splits.
        stderr: its standard error by leaving out one picture at a time; NaN with fewer than three.
        from_mean: the part of `distance` that is between the means; the rest is between the covariances.
        real: of each split, the distance of m natural images to the others: what `distance` has to be compared with.
        p_value: how often as many images, drawn from pictures and natural ones alike, are as far from the others as the
            pictures are; not below 1 / (1 + splits).
    """

    distance: float
    stderr: float
    from_mean: float
    real: Float[Tensor, " s"]
    p_value: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return (
            f"Naturalness(distance {self.distance:.3g} ± {self.stderr:.2g}, real images {self.chance:.3g}, "
            f"p = {self.p_value:.2g}, lower is more natural)"
        )

    @property
    def chance(self) -> float:
        """The mean of `real`: what as many natural images score. It is above 0, and more so the fewer there are."""
        return float(self.real.mean())


def picture_naturalness(
    pictures: Float[Tensor, "m d"], natural: Float[Tensor, "n e"], *, n_splits: int = 50, seed: int = 0
) -> Naturalness:
    """How far the features of drawn pictures are, as a cloud, from those of natural images.

        distance = |mean_P - mean_N|² + tr(C_P) + tr(C_N) - 2 tr((C_P C_N)^1/2)
        C = (1 - λ) S + λ tr(S)/d I,   S the covariance, λ as Ledoit and Wolf estimate it

    Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017 (FID), with any features. Of few images
    the estimate is far above 0 even for the same distribution, and a threshold from the literature means nothing.
    Therefore natural images are split again and again into m and the rest: `real` is the distance of the m to the
    rest, `distance` that of the pictures to the same rest. The test exchanges pictures and natural images: it is exact.

    Differs: any layer in place of Inception's; covariances are shrunk (Ledoit and Wolf, 2004), because of few images
    the plain ones are so poor that pictures which are all alike would look natural. d counts the dimensions that the
    images span; time grows with its cube.

    Args:
        pictures: features of the pictures, a vector for each: means over positions of a layer.
        natural: the same of natural images, of which at least twice as many are needed.
    """
    m, n = len(pictures), len(natural)
    if m < 2 or n < 2 * m or pictures.shape[1] != natural.shape[1] or n_splits < 1:
        raise BadInput(
            f"pictures {tuple(pictures.shape)}, natural {tuple(natural.shape)}, n_splits={n_splits}.",
            "Give two pictures or more, and at least twice as many natural images with the same features.",
        )
    drawn, data = (part.detach().cpu().double() for part in (pictures, natural))
    if not (drawn.isfinite().all() and data.isfinite().all()):
        raise BadInput("some features are not finite.")
    pool = spanned(torch.cat([drawn, data]))
    drawn, data = pool[:m], pool[m:]
    source, seen, real, mixed = generator(seed), list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(n_splits):
        order, every = torch.randperm(n, generator=source), torch.randperm(n + m, generator=source)
        rest = data[order[m:]]
        seen.append(frechet(drawn, rest))
        real.append(frechet(data[order[:m]], rest).sum())
        mixed.append(frechet(pool[every[:m]], pool[every[m:]]).sum())
    left = torch.stack([frechet(torch.cat([drawn[:i], drawn[i + 1 :]]), data).sum() for i in range(m)])
    error = float(((m - 1) / m * (left - left.mean()).square().sum()).sqrt()) if m > 2 else nan
    parts, own = torch.stack(seen).mean(0), frechet(drawn, data).sum()
    as_far = int((torch.stack(mixed) >= own * (1 - 1e-9)).sum())
    settings = {"n_pictures": m, "n_natural": n, "n_splits": n_splits, "seed": seed}
    p_value = (1 + as_far) / (1 + n_splits)
    return Naturalness(float(parts.sum()), error, float(parts[0]), torch.stack(real), p_value, settings)


def spanned(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n r"]:
    """The rows in as many dimensions as they span around their mean: no distance changes."""
    u, sizes, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return (u * sizes)[:, : max(1, int((sizes > 1e-9 * sizes[0]).sum()))]


def frechet(first: Float[Tensor, "a d"], second: Float[Tensor, "b d"]) -> Float[Tensor, "2"]:
    """Squared distance of the means, and of the covariances.

    Of C = FᵀF and D = GᵀG, tr((C D)^1/2) is the sum of the singular values of F Gᵀ: no matrix root is taken.
    """
    one, two = factor(first), factor(second)
    spread = one.square().sum() + two.square().sum() - 2 * torch.linalg.svdvals(one @ two.T).sum()
    return torch.stack([(first.mean(0) - second.mean(0)).square().sum(), spread.clamp(min=0)])


def factor(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """F with FᵀF = (1 - λ) S + λ μ I, the covariance of the rows shrunk to its mean variance μ.

        λ = min(1, b² / d²),   d² = |S - μ I|²,   b² = (sum_i |x_i|⁴ / n - |S|²) / n

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
    """
    (n, d), centred = rows.shape, rows - rows.mean(0)
    covariance = centred.T @ centred / n
    size, mean = covariance.square().sum(), covariance.trace() / d
    away = size - d * mean * mean
    chance = (centred.square().sum(1).square().mean() - size) / n
    share = (chance / away).clamp(0, 1) if away > 1e-12 * size else torch.zeros_like(mean)
    identity = torch.eye(d, dtype=rows.dtype)
    stacked = torch.cat([((1 - share) / n).sqrt() * centred, (share * mean).sqrt() * identity])
    return torch.linalg.qr(stacked, mode="r").R


@dataclass(frozen=True, repr=False)
class ProcessingPath(Noun):
    """Whether l layers treat each of m pictures as they treat natural images that excite the same unit.

    Args:
        per_picture: 1 for what such natural images have among each other, 0 for what they have with images of another
            kind; NaN at layers that treat both kinds alike, and for pictures that leave a layer flat.
        same, other: these two correlations.
    """

    per_picture: Float[Tensor, "l m"]
    same: Float[Tensor, " l"]
    other: Float[Tensor, " l"]

    def __repr__(self) -> str:
        steps = ", ".join(f"{value:.2f}" for value in self.value.tolist())
        return f"ProcessingPath({steps} over {len(self.value)} layers, natural images 1, other ones 0)"

    @property
    def value(self) -> Float[Tensor, " l"]:
        """Of each layer, the mean over pictures."""
        return self.per_picture.nanmean(1)

    @property
    def stderr(self) -> Float[Tensor, " l"]:
        """Standard error of `value` over pictures; NaN with a single one."""
        count = self.per_picture.isfinite().sum(1)
        variance = (self.per_picture - self.value[:, None]).square().nansum(1) / (count - 1) / count
        return torch.where(count > 1, variance.sqrt(), nan)


def processing_path(
    pictures: Sequence[Float[Tensor, "m ..."]],
    same: Sequence[Float[Tensor, "n ..."]],
    other: Sequence[Float[Tensor, "q ..."]],
) -> ProcessingPath:
    """Whether pictures take the way through the network that natural images of the same kind take, layer by layer.

        path_l = (s(picture, same) - s(same, other)) / (s(same, same') - s(same, other))

    s is the rank correlation of a layer's activations, averaged over pairs of images, of `same` ones over pairs of
    different images. After Geirhos et al., "Don't trust your eyes", ICML 2024: a picture that is like no natural image
    in the middle of the network says nothing of how that network treats natural images, however much it excites a
    unit at the end.

    Args:
        pictures: activations of each layer by pictures of one unit or class.
        same: by natural images that excite it, two or more; other: by natural images that do not.
    """
    if not pictures or not len(pictures) == len(same) == len(other):
        raise BadInput(f"{len(pictures)}, {len(same)} and {len(other)} layers.", "Give the same layers of all three.")
    columns = list[tuple[Tensor, Tensor, Tensor]]()
    for layer in zip(pictures, same, other, strict=True):
        drawn, kind, rest = (part.detach().cpu().flatten(1).double() for part in layer)
        n = len(kind)
        if n < 2 or not len(rest) or not drawn.shape[1] == kind.shape[1] == rest.shape[1]:
            raise BadInput(f"{len(drawn)} pictures, {n} images of the kind and {len(rest)} others, or unlike layers.")
        if not all(bool(part.isfinite().all()) for part in (drawn, kind, rest)):
            raise BadInput("some activations are not finite.")
        pictured, natural, strange = (standardised(mean_ranks(part)) for part in (drawn, kind, rest))
        centre = natural.mean(0) / natural.shape[1]  # a mean over pairs is a product with the mean
        among = (natural @ centre).sum() / (n - 1) - natural.square().mean(1).sum() / (n * (n - 1))
        dead = ~pictured.any(1)
        columns.append(((pictured @ centre).masked_fill(dead, nan), among, (strange @ centre).mean()))
    drawn, among, apart = (torch.stack(parts) for parts in zip(*columns, strict=True))
    room = among - apart
    table = (drawn - apart[:, None]) / room.masked_fill(room <= 0, nan)[:, None]
    return ProcessingPath(table, among, apart)
