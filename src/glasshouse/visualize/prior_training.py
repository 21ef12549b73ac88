"""Training of the autoencoders that serve as image priors."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Preprocess, Progress, generator, resize
from glasshouse.core.checkpoints import resume_training, save_training
from glasshouse.core.shards import Data

Kind: TypeAlias = Literal["vae", "denoising"]
Fetch: TypeAlias = Callable[[list[int]], Images]
"""From numbers of images to their pixels."""

SLOPE = 0.2  # of leaky ReLU below 0
SAVE_EVERY = 250  # steps
MOST_MEASURED = 1024  # images
COOL_DOWN = 0.3  # share of the steps in which the learning rate falls to 0


class Autoencoder(nn.Module):
    """Convolutions that halve the grid, down to a few numbers; then grids doubled and convolved back to pixels.

    The encoder gives two numbers per code: its value, and the log of its variance, which only a VAE uses. Grids are
    doubled by repeating values, without the checkerboards of transposed convolutions (Odena et al., Distill 2016).
    """

    def __init__(self, shape: tuple[int, int, int], n_codes: int, units: Sequence[int]):
        super().__init__()
        channels, height, width = shape
        self.size, last = (height, width), units[-1]
        self.grid = (-(-height // 2 ** len(units)), -(-width // 2 ** len(units)))
        down = [part for k, m in pairwise((channels, *units)) for part in (halving(k, m), nn.LeakyReLU(SLOPE))]
        flat = last * self.grid[0] * self.grid[1]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, 2 * n_codes))
        up = [doubling(k, m) for k, m in pairwise((*reversed(units), units[0]))]
        first = OrderedDict[str, nn.Module](
            linear=nn.Linear(n_codes, flat), grid=nn.Unflatten(1, (last, *self.grid)), act=nn.LeakyReLU(SLOPE)
        )
        self.decoder = nn.Sequential(nn.Sequential(first), *up, nn.Conv2d(units[0], channels, 3, padding=1))

    def encode(self, pixels: Images) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Values of the codes, and log variances."""
        value, log_variance = self.encoder(2 * pixels - 1).chunk(2, 1)
        return value, log_variance

    def code(self, pixels: Images) -> Float[Tensor, "n d"]:
        """Values of the codes."""
        return self.encode(pixels)[0]

    def draw(self, codes: Float[Tensor, "n d"]) -> Images:
        """Pixels in 0…1."""
        return resize(self.decoder(codes), self.size).sigmoid()


def halving(n_in: int, n_out: int) -> nn.Module:
    return nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)


def doubling(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(n_in, n_out, 3, padding=1), nn.LeakyReLU(SLOPE))


def blank(shape: tuple[int, int, int], n_codes: int, units: Sequence[int]) -> Autoencoder:
    """An autoencoder whose weights are still to be set; no random number is drawn."""
    with torch.device("meta"):
        net = Autoencoder(shape, n_codes, units)
    return net.to_empty(device="cpu")


@torch.no_grad()
def start(net: nn.Module, seed: int) -> None:
    """Weights that keep the variance of activations (He et al., ICCV 2015); offsets of 0."""
    draws = generator(seed)
    for weight in net.parameters():
        if weight.ndim == 1:
            weight.zero_()
        else:
            gain = (2 / (1 + SLOPE**2) / weight[0].numel()) ** 0.5
            weight.copy_(gain * torch.randn(weight.shape, generator=draws))


def train(
    net: Autoencoder,
    kind: Kind,
    fetch: Fetch,
    n_images: int,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    noise_std: float,
    seed: int,
    saved: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Float[Tensor, " t"]:
    """Train in place; gives the loss of every step. What a step draws depends on the seed and its number alone.

    Args:
        saved: file that the training is kept in now and then; it goes on from there, to the same bits.
        key: whatever the training depends on; a file serves one key.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=learning_rate)
    losses = resume_training(saved, key, net, optimiser) if saved is not None and saved.exists() else []
    for step in range(len(losses), n_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (n_steps - step) / (COOL_DOWN * n_steps))
        draws = generator((seed * 1_000_003 + step) % 2**63)
        rows = torch.randint(n_images, (batch_size,), generator=draws).tolist()
        value = loss(net, kind, fetch(rows), noise_std, draws)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
        if saved is not None and ((step + 1) % SAVE_EVERY == 0 or step + 1 == n_steps):
            save_training(saved, key, net, optimiser, losses)
        if progress is not None:
            progress(step + 1, n_steps)
    return torch.tensor(losses)


def loss(net: Autoencoder, kind: Kind, pixels: Images, noise_std: float, draws: torch.Generator) -> Float[Tensor, ""]:
    """What the training minimises, per pixel value."""
    if kind == "denoising":
        noisy = pixels + noise_std * torch.randn(pixels.shape, generator=draws)
        return F.mse_loss(net.draw(net.code(noisy)), pixels)
    value, log_variance = net.encode(pixels)
    codes = value + (log_variance / 2).exp() * torch.randn(value.shape, generator=draws)
    error = F.mse_loss(net.draw(codes), pixels)
    divergence = (value.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return error.clamp(min=1e-12).log() / 2 + divergence / pixels[0].numel()


@torch.no_grad()
def measured(net: Autoencoder, fetch: Fetch, n_images: int, batch_size: int) -> tuple[Tensor, Tensor, float]:
    """Mean and spread of the codes, and the share of the variance of pixels that is lost, over evenly spaced images."""
    count = min(n_images, MOST_MEASURED)
    rows = [row * n_images // count for row in range(count)]
    codes, pictures = list[Tensor](), list[Tensor]()
    lost = 0.0
    for first in range(0, count, batch_size):
        pixels = fetch(rows[first : first + batch_size])
        codes.append(net.code(pixels))
        pictures.append(pixels)
        lost += float((net.draw(codes[-1]) - pixels).double().square().sum())
    whole, all_codes = torch.cat(pictures).double(), torch.cat(codes)
    spread = float((whole - whole.mean(0)).square().sum())
    return all_codes.mean(0), all_codes.std(0, correction=0), lost / max(spread, 1e-12)


def pixels_of(data: Data, rows: Sequence[int], preprocess: Preprocess | None) -> Images:
    """Images of a data set as pixels in 0…1."""
    images = torch.stack([image_in(data[row]) for row in rows]).float()
    pixels = images if preprocess is None else preprocess.pixels(images)
    if pixels.ndim != 4 or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise BadInput(
            f"images of shape {tuple(pixels.shape)} with values {pixels.min():.3g}…{pixels.max():.3g} are not pixels "
            "`n c h w` in 0…1.",
            "Pass preprocess=model.preprocess if they are a model's inputs.",
        )
    return pixels


def image_in(item: Any) -> Tensor:
    """The image in an item of a data set: the item itself, its first part, or its `image`."""
    image = item[0] if isinstance(item, tuple | list) and item else item
    image = image.get("image") if isinstance(image, dict) else image
    if not isinstance(image, Tensor):
        raise BadInput(
            f"an item of the data set holds a {type(image).__name__} where an image tensor is due.",
            "Give tensors `c h w`, tuples that start with one, or dictionaries with one under 'image'.",
        )
    return image
