"""Learned image priors: pictures that a network trained on images can draw, so that ascent stays among them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, Preprocess, Progress, generator, registered, resize
from glasshouse.core.generative import Generator, Latent
from glasshouse.core.result import Noun
from glasshouse.core.shards import Data
from glasshouse.visualize.images import Canvas, Shape, noise
from glasshouse.visualize.prior_training import Autoencoder, Kind, blank, measured, pixels_of, start, train

KINDS = ("vae", "denoising")


@dataclass(frozen=True, repr=False)
class LearnedPrior(Noun):
    """An autoencoder whose decoder draws pictures like those it was trained on.

    Args:
        shape: channels, height and width of the images.
        weights: of the autoencoder, by name.
        mean, std: of each code number over the images.
        loss: of every step of the training.
        error: share of the images' variance that encoding and decoding loses.
    """

    kind: Kind
    shape: tuple[int, int, int]
    weights: dict[str, Tensor]
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    loss: Float[Tensor, " t"]
    error: float
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"LearnedPrior({self.kind}, {size}, {len(self.mean)} codes, {self.error:.0%} of the variance lost)"

    def network(self) -> Autoencoder:
        """The autoencoder, with its weights frozen."""
        net = blank(self.shape, len(self.mean), self.settings["units"])
        net.load_state_dict(self.weights)
        return net.requires_grad_(False).eval()

    def encode(self, pixels: Images) -> Float[Tensor, "n d"]:
        """The code of images in 0…1; of a VAE, its mean."""
        return self.network().code(pixels)

    def decode(self, codes: Float[Tensor, "n d"]) -> Images:
        """Pixels in 0…1."""
        return self.network().draw(codes)

    def sample(self, n: int, seed: int = 0) -> Images:
        """Pictures of codes drawn from a normal distribution with the mean and spread of the images' codes."""
        codes = torch.randn(n, len(self.mean), generator=generator(seed))
        return self.decode(self.mean + self.std * codes)


@registered(
    "visualize",
    paper="Kingma and Welling, ICLR 2014; Vincent et al., JMLR 2010",
    warning="pictures drawn through a prior show what it can draw; what the unit wants beyond that is missing.",
    example={"n_steps": 4, "batch_size": 4, "n_codes": 4, "units": (4, 4)},
)
def train_prior(
    data: Data,
    *,
    kind: Kind = "vae",
    n_codes: int = 32,
    units: Sequence[int] = (16, 32, 64),
    n_steps: int = 2000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    noise_std: float = 0.25,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    into: Path | None = None,
    progress: Progress | None = None,
) -> LearnedPrior:
    """Learn to draw images like those of a data set, from a few numbers each; in minutes, on a CPU.

    - "vae" minimises `d/2 log MSE + KL(q(z|x) || N(0, 1))` per image of d values (Kingma and Welling, "Auto-encoding
      variational Bayes", ICLR 2014), with the best noise level of the decoder in closed form (Rybkin, Daniilidis and
      Levine, "Simple and effective VAE training with calibrated decoders", ICML 2021).
    - "denoising" minimises `|x - D(E(x + noise))|²` (Vincent et al., "Stacked denoising autoencoders", JMLR 2010).

    Pass the result to `prior_image`.

    Args:
        units: of each layer of the encoder, which halves the grid; of the decoder in reverse.
        noise_std: of the noise on the inputs of "denoising", for pixels in 0…1.
        seed: of the first weights, of the batches and of all noise.
        preprocess: what made inputs of pixels; None if the data are pixels in 0…1.
        into: folder that the training is kept in; a killed one goes on from there, to the same bits.
    """
    if kind not in KINDS:
        raise BadInput(f"a prior of kind '{kind}'.", f"Use one of {', '.join(KINDS)}.")
    if not len(data) or not units or min(n_codes, n_steps, batch_size, *units) < 1 or not learning_rate > 0:
        raise BadInput(
            f"{len(data)} images, n_codes={n_codes}, units={tuple(units)}, n_steps={n_steps}, "
            f"batch_size={batch_size} and learning_rate={learning_rate} train nothing.",
            "All must be above 0.",
        )
    first = pixels_of(data, [0], preprocess)
    shape = (first.shape[1], first.shape[2], first.shape[3])
    settings = {"n_codes": n_codes, "units": tuple(units), "n_steps": n_steps, "batch_size": batch_size}
    settings |= {"learning_rate": learning_rate, "noise_std": noise_std, "seed": seed}
    net = blank(shape, n_codes, units)
    start(net, seed)
    loss = train(
        net,
        kind,
        lambda rows: pixels_of(data, rows, preprocess),
        len(data),
        n_steps=n_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        noise_std=noise_std,
        seed=seed,
        saved=into / "training.safetensors" if into else None,
        key=f"{kind} {settings} {len(data)} x {shape} {sha256(first.numpy().tobytes()).hexdigest()[:16]}",
        progress=progress,
    )
    mean, std, error = measured(net, lambda rows: pixels_of(data, rows, preprocess), len(data), batch_size)
    weights = {name: value.detach() for name, value in net.state_dict().items()}
    return LearnedPrior(kind, shape, weights, mean, std, loss, error, settings)


def prior_image(prior: LearnedPrior, *, radius: float | int = 1.0) -> Canvas:
    """Free numbers are codes of a trained autoencoder, and the picture is what its decoder makes of them.

        pixels = D(mean + std b(θ)),   b(θ) = θ min(1, radius √d / |θ|),   θ ~ N(0, 1)

    After DGN-AM (Nguyen et al., "Synthesizing the preferred inputs for neurons in neural networks via deep generator
    networks", NIPS 2016). Differs: there the codes are features of a classifier, each clipped to 0…3 std, and their
    decoder is trained against a discriminator. PPGN (Nguyen et al., CVPR 2017) draws samples, by steps towards
    `D(E(code))` with noise; here there is one optimum per start.

    Args:
        radius: of the ball that codes stay in, in lengths of a typical code; smaller ones are nearer to the mean image.
    """
    net = prior.network()

    def draw(standard: Tensor) -> Images:
        return net.to(standard).draw(prior.mean.to(standard) + prior.std.to(standard) * standard)

    return drawn(f"prior_image({prior.kind}, radius={radius:g})", len(prior.mean), prior.shape[0], draw, radius)


def generator_image(generator: Generator, *, radius: float | int = 1.0) -> Canvas:
    """Free numbers are latents of a generator such as a GAN's, and the picture is what it draws.

        pixels = G(b(θ)) / 2 + 1/2,   b(θ) = θ min(1, radius √d / |θ|)   for normal latents,
                                      b(θ) = clip(θ, -radius, radius)    for uniform ones

    θ starts as a latent of the generator's own prior. After DGN-AM (Nguyen et al., NIPS 2016). Differs: latents of any
    generator in place of a classifier's features, and a ball in place of an L2 penalty.

    Args:
        radius: as a share of a typical latent's length √d, or of the uniform range.
    """
    spec, place = generator.spec, next(generator.module.parameters())

    def draw(latents: Tensor) -> Images:
        return generator.synthesize(Latent("z", latents.to(place))).pixels

    name = f"generator_image({generator.name}, radius={radius:g})"
    return drawn(name, spec.z_dim, spec.channels, draw, radius, uniform=spec.prior == "uniform")


def drawn(
    name: str,
    d: int,
    channels: int,
    draw: Callable[[Float[Tensor, "n d"]], Images],
    radius: float | int,
    uniform: bool = False,
) -> Canvas:
    """A canvas of d free numbers, kept where a generator knows its way, resized from its own size to the picture's."""
    if not radius > 0:
        raise BadInput(f"radius {radius} is not above 0.", "1 is the length of a typical latent.")

    def start(shape: Shape, generators: Sequence[torch.Generator]) -> Tensor:
        if shape[0] != channels:
            raise BadInput(f"{name} draws {channels} channels, and the picture has {shape[0]}.")
        if uniform:
            return torch.stack([torch.rand(d, generator=one) for one in generators]) * 2 - 1
        return noise((d,), generators)

    def pixels(theta: Tensor, shape: Shape) -> Images:
        bounded = theta.clamp(-radius, radius) if uniform else in_ball(theta, float(radius) * math.sqrt(d))
        return resize(draw(bounded).to(theta), shape[1:])

    return Canvas(name, start, pixels)


def in_ball(rows: Float[Tensor, "n d"], radius: float) -> Float[Tensor, "n d"]:
    """Rows that are longer than the radius, shortened to it."""
    length = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return rows * (radius / length).clamp(max=1)
