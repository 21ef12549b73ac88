"""What takes the place of removed pixels."""

import hashlib
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from glasshouse.core import BadInput, Images, Model, blur, generator
from glasshouse.core.mask import cell_sums, cells


def fingerprint(*tensors: Tensor) -> str:
    """A name for tensors: the same for the same values."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Fill:
    """Images to fill in with: one for all, or one for each."""

    images: Images
    name: str


@dataclass(frozen=True, eq=False)
class Donors:
    """Other images, which all take the place of what was removed, one after the other. What counts is the mean answer.

        1/k sum over donors d of   f(x where it stays, d elsewhere)

    The "marginal" way to remove features: what is filled in is real, though it need not go with what stays (Covert,
    Lundberg and Lee, "Explaining by removing", JMLR 2021, sec. 4). Every question but the clean image costs k passes.
    """

    fills: tuple[Fill, ...]
    name: str

    @staticmethod
    def of(images: Tensor) -> "Donors":
        """From images `k c h w` in the model's input space, of the size of those that are explained."""
        if images.ndim != 4 or len(images) == 0:
            raise BadInput(f"donors of shape {tuple(images.shape)} are not images k c h w.", "Use images[None].")
        fills = tuple(fill_of(image[None]) for image in images)
        return Donors(fills, fingerprint(images))

    @property
    def passes(self) -> int:
        """How often each question is asked: once for each different donor."""
        return len({fill.name for fill in self.fills})


Baseline: TypeAlias = float | int | str | Tensor | Fill | Donors
"""What takes the place of removed features, in the model's input space:

- a number, or a tensor `1 c h w` or `n c h w` of images to fill in with, one for all or one for each (renderings);
- `Donors.of(images)`: k other images, all of which every image is filled in with; the answer is the mean over them;
- "mean": 0, the data set's mean where inputs were normalised by it; "image_mean": each channel's own;
- "rgb:V" or "rgb:R,G,B": a colour of 0…1, pushed through the model's own normalisation;
- "blur", "blur:SIGMA" or "blur:SIGMA:TAPS"; plain "blur" has the sigma of Fong and Vedaldi (2017): 10 pixels at 224;
- "patch_mean:SIDE": the mean of the square of SIDE pixels that a pixel lies in;
- "noise" or "noise:SEED": uniform between each channel's least and largest value; the same draw for every image;
- "permute" or "permute:SEED": the image's own pixels in a random order;
- "road" or "road:NOISE": what the remaining pixels around let expect, with a little noise (Rong et al., 2022);
  "road:0" is harmonic inpainting: each hole is the smooth film that hangs on its border.
"""

HELP = (
    "Use a number, a tensor, 'mean', 'image_mean', 'rgb:0.5', 'blur:5:11', 'patch_mean:8', 'noise', 'permute', 'road'."
)


def filling(baseline: Baseline) -> float | int | str | Fill | Donors:
    """The baseline as questions hold it: tensors under a name."""
    if isinstance(baseline, Tensor):
        return fill_of(baseline)
    if isinstance(baseline, float) and not isfinite(baseline):
        raise BadInput(f"baseline {baseline} is not finite.", HELP)
    return baseline


def fill_of(images: Tensor) -> Fill:
    """Images to fill in with, under a name."""
    if images.ndim != 4:
        raise BadInput(f"a baseline of shape {tuple(images.shape)} is not images n c h w.", "Use images[None].")
    if not images.isfinite().all():
        raise BadInput("a baseline holds NaN or infinite values.")
    return Fill(images.detach(), fingerprint(images))


def told(baseline: Baseline, images: Images, model: object) -> Baseline:
    """The baseline without need of a model: a colour as the images it fills in with."""
    if isinstance(baseline, str) and baseline.startswith("rgb:"):
        return substrate(images[:1], baseline, model=model)
    return baseline


def depends_on_mask(baseline: float | int | str | Fill | Donors) -> bool:
    """Whether what is filled in depends on what was taken away."""
    return isinstance(baseline, str) and baseline.partition(":")[0] == "road"


def substrate(
    images: Images, baseline: Baseline, image: Int[Tensor, " m"] | None = None, model: object = None
) -> Images:
    """What replaces removed pixels of some images, for baselines that do not depend on the mask. See `Baseline`.

    Of donors, their mean: what each pixel becomes on average.

    Args:
        image: the number of each image, for baselines that hold one for each.
        model: whose normalisation "rgb:…" goes through.
    """
    baseline = filling(baseline)
    if isinstance(baseline, Donors):
        return torch.stack([substrate(images, fill) for fill in baseline.fills]).mean(0)
    if isinstance(baseline, Fill):
        if baseline.images.shape[1:] != images.shape[1:]:
            seen = tuple(baseline.images.shape)
            raise BadInput(f"baseline images {seen} do not have the shape of the images {tuple(images.shape)}.")
        own = baseline.images.to(images)
        needed = len(images) if image is None else int(image.max()) + 1
        if len(own) != 1 and len(own) < needed:
            raise BadInput(f"{len(own)} baseline images for {needed} or more.", "Give one for all, or one for each.")
        return own.expand_as(images) if len(own) == 1 else own[image if image is not None else slice(None)]
    if not isinstance(baseline, str):
        return torch.full_like(images, float(baseline))
    kind, *words = baseline.split(":")
    try:
        return _named(images, kind, words, model)
    except BadInput:  # a ValueError too, which says what is wrong already
        raise
    except (ValueError, OverflowError) as error:
        raise BadInput(f"baseline '{baseline}' has a number that cannot be read.", "Try 'blur:5:11'.") from error
    except LookupError as error:
        raise BadInput(f"baseline '{baseline}' is unknown.", HELP) from error


def _named(images: Images, kind: str, words: list[str], model: object) -> Images:
    """A baseline by name; an unknown one raises LookupError."""
    match kind, [float(part) for word in words for part in word.split(",")]:
        case "mean", []:
            return torch.zeros_like(images)
        case "image_mean", []:
            return images.mean((2, 3), keepdim=True).expand_as(images)
        case "blur", [] | [_] | [_, _] as numbers:
            sigma = numbers[0] if numbers else 10 / 224 * min(images.shape[-2:])
            return blur(images, sigma, int(numbers[1]) if len(numbers) == 2 else None)
        case "rgb", [_] | [_, _, _] as numbers:
            return _colour(images, numbers, model)
        case "patch_mean", [side]:
            return _patch_means(images, int(side))
        case "noise", [] | [_] as numbers:
            draws = generator(int(sum(numbers)))
            drawn = torch.rand(images.shape[1:], generator=draws, dtype=torch.float32).to(images)
            low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
            return torch.lerp(low, high, drawn.expand_as(images))
        case "permute", [] | [_] as numbers:
            order = torch.randperm(images[0, 0].numel(), generator=generator(int(sum(numbers))))
            return images.flatten(2)[:, :, order.to(images.device)].view_as(images)
        case _:
            raise LookupError(kind)


def _colour(images: Images, numbers: list[float], model: object) -> Images:
    """A colour of 0…1 as the model is given it."""
    if not isinstance(model, Model):
        raise BadInput(
            "a colour needs the model's normalisation, and a bare network has none.",
            "Pass what glasshouse.zoo.load returns, or a number in the model's input space.",
        )
    channels = images.shape[1]
    if len(numbers) not in (1, channels):
        raise BadInput(f"{len(numbers)} numbers for {channels} channels.", "Give one, or one for each channel.")
    if not all(0 <= number <= 1 for number in numbers):
        raise BadInput(
            f"colour {numbers} is not in 0…1.", "Divide by 255, or give a number in the model's input space."
        )
    colour = torch.tensor(numbers * (channels if len(numbers) == 1 else 1)).to(images).view(1, -1, 1, 1)
    return model.preprocess.normalise(colour).expand_as(images)


def _patch_means(images: Images, side: int) -> Images:
    """Each pixel's square of about `side` pixels, averaged."""
    size = (images.shape[-2], images.shape[-1])
    if not 1 <= side <= min(size):
        raise BadInput(f"patches of {side} px do not fit into images of {size}.", "Try 'patch_mean:8'.")
    labels = cells(size, (-(-size[0] // side), -(-size[1] // side))).to(images.device)
    sums = cell_sums(images.flatten(0, 1), labels)
    means = sums / labels.flatten().bincount().to(sums)
    return means[:, labels.flatten()].view_as(images)


def imputed(images: Images, baseline: str, keep: Bool[Tensor, "m h w"]) -> Images:
    """The images with everything that does not stay filled in by "road" or "road:NOISE"."""
    from glasshouse.evaluate.imputation import impute

    _, *words = baseline.split(":")
    try:
        (noise,) = [float(word) for word in words] or [0.01]
    except ValueError as error:
        raise BadInput(f"baseline '{baseline}' is not 'road' and one number.", "Try 'road:0.01'.") from error
    return impute(images, keep, noise=noise)
