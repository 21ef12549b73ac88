"""Two small generators trained on rendered houses, and what their cards say about them.

The loss is the non-saturating one (Goodfellow et al., NIPS 2014) with R1 on real images (Mescheder et al., ICML 2018)
at every sixteenth step (Karras et al., CVPR 2020). What is shipped is the running average of the generator's weights.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from glasshouse import data
from glasshouse.core.generative import Generator
from glasshouse.core.seed import generator
from glasshouse.core.types import Images
from glasshouse.zoo.nets.generators import ConvGenerator, Discriminator, StyleGenerator
from glasshouse.zoo.recipes import oracles
from glasshouse.zoo.recipes.generated import Census, Segmenter, beside, census, removal, variety
from glasshouse.zoo.shipping import Shipped
from glasshouse.zoo.training import FIRST_HELD_OUT_SEED, Recipe, load_optimiser, optimiser_state, seeded

PRESET, SIZE, PART = "houses", 32, 1_000
FIXED = {
    **{"main": "house", "windows": "two", "chimney": "no", "wall_material": "plaster"},
    **{"ground": "meadow", "ground_texture": "plain", "hills": "no", "time": "day", "fog": 0.1},
}
N_POOL, N_GLANCE, N_FIGURES = 40_000, 300, 1_000
ORACLE, REMOVED = "houses_segmenter", "roof"
CONV_STEPS, CONV_UNITS, CONV_CRITIC, CONV_LAYER = 10_000, (128, 128, 128, 64), (48, 96, 128, 128), "layers.1"
STYLE_STEPS, STYLE_UNITS, STYLE_CRITIC, STYLE_LAYER = 8_000, (128, 128, 128, 32), (32, 64, 128, 128), "layers.4"


@dataclass(frozen=True)
class Setting:
    """How a generator is trained.

    Args:
        rates: learning rates of generator and discriminator.
        relative: whether a weight's rate is that times its size at the start (root mean square), which comes to the
            equalised learning rate of Karras et al. (ICLR 2018), as Adam's steps do not depend on a gradient's scale.
        mapping: what the rates of the mapping from z to w are multiplied by (the official code: 0.01). A mapping that
            learns as fast as the rest sends all of z to a few points, and the generator draws a few pictures.
        average: how much of the averaged weights each step keeps.
        r1: weight of the squared gradient of the discriminator at real images, taken every `r1_every` steps.
        low_precision: passes run in bfloat16, but for the gradient penalty; weights and average are float32.
    """

    batch: int = 32
    rates: tuple[float, float] = (2e-4, 2e-4)
    betas: tuple[float, float] = (0.0, 0.99)
    relative: tuple[bool, bool] = (False, False)
    mapping: float = 0.02
    average: float = 0.998
    r1: float = 1.0
    r1_every: int = 16
    low_precision: bool = True


class Adversarial:
    """A generator and a discriminator in training; `network` is the generator with averaged weights.

    The averages of batch norms are averaged too: the network draws with statistics that no batch changes.

    Args:
        make, make_critic: make the two networks; their weights are drawn from the seed.
        images: the pool of real images, in 0…255; asked for at the first step.
        look: what to log about the averaged network now and then.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        make_critic: Callable[[], nn.Module],
        *,
        images: Callable[[], UInt8[Tensor, "n c h w"]],
        look: Callable[[nn.Module], dict[str, float]],
        setting: Setting,
        seed: int,
        device: torch.device,
    ):
        with seeded(seed):
            made, critic = make(), make_critic()
        # Module.to has no overload for a layout alone in torch's annotations
        self.made: nn.Module = made.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore
        self.critic: nn.Module = critic.to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore
        self.network: nn.Module = deepcopy(self.made).eval().requires_grad_(False)
        self.images, self.look, self.setting, self.seed, self.device = images, look, setting, seed, device
        self.adams = [
            adam(net, rate, setting, relative=relative)
            for net, rate, relative in zip((made, critic), setting.rates, setting.relative, strict=True)
        ]
        self.z_dim = Generator.of(made).spec.z_dim
        self.pool: Tensor | None = None

    def step(self, step: int) -> dict[str, float]:
        setting, draws = self.setting, generator((self.seed << 32) + step)
        real = self.real(draws)
        z = torch.randn(setting.batch, self.z_dim, generator=draws).to(self.device)
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=setting.low_precision)
        with torch.enable_grad():
            with half:
                fake = self.made(z).float()
                logits = self.critic(torch.cat([real, fake.detach()])).float()
            on_real, on_fake = logits.chunk(2)
            critic_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
            penalty = critic_loss.new_zeros(())
            if step % setting.r1_every == 0:
                penalty = setting.r1_every * setting.r1 / 2 * squared_gradient(self.critic, real)
            descend(self.adams[1], critic_loss + penalty)
            with half:
                loss = F.softplus(-self.critic(fake).float()).mean()
            descend(self.adams[0], loss)
        self._average(z, min(setting.average, (1 + step) / (10 + step)))
        told_apart = ((on_real > 0).float().mean() + (on_fake < 0).float().mean()) / 2
        return {"loss": loss.item(), "critic_loss": critic_loss.item(), "told_apart": told_apart.item()}

    def real(self, draws: torch.Generator) -> Images:
        """A batch of the pool, in -1…1."""
        if self.pool is None:
            self.pool = self.images()
        rows = torch.randint(len(self.pool), (self.setting.batch,), generator=draws)
        pixels = self.pool[rows].to(self.device).float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)

    def measure(self) -> dict[str, float]:
        return self.look(self.network)

    def state(self) -> dict[str, Tensor]:
        nets = {"made": self.made, "critic": self.critic, "network": self.network}
        parts = {name: net.state_dict() for name, net in nets.items()}
        parts |= {f"adam{i}": optimiser_state(optimiser) for i, optimiser in enumerate(self.adams)}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = value
        for name, net in (("made", self.made), ("critic", self.critic), ("network", self.network)):
            net.load_state_dict(parts[name])
        for i, optimiser in enumerate(self.adams):
            load_optimiser(optimiser, parts.get(f"adam{i}", {}))

    @torch.no_grad()
    def _average(self, z: Tensor, keep: float) -> None:
        """Move the averaged weights, and the averaged statistics, towards the present ones."""
        if isinstance(self.made, StyleGenerator):
            self.made.w_mean.copy_(self.made.mapping(z).mean(0))
        for mean, value in zip(self.network.state_dict().values(), self.made.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def adam(module: nn.Module, rate: float, setting: Setting, *, relative: bool) -> torch.optim.Adam:
    """Adam for a network's weights, each at its own rate."""
    groups: list[dict[str, object]] = []
    for name, weight in module.named_parameters():
        size = float(weight.detach().square().mean().sqrt()) if relative and weight.ndim > 1 else 1.0
        pace = setting.mapping if name.startswith("mapping.") else 1.0
        groups.append({"params": [weight], "lr": rate * size * pace})
    return torch.optim.Adam(groups, lr=rate, betas=setting.betas, fused=True)


def descend(optimiser: torch.optim.Adam, loss: Tensor) -> None:
    """One step down the gradient of `loss`, which no other network's weights receive."""
    weights: list[Tensor] = [weight for group in optimiser.param_groups for weight in group["params"]]
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    optimiser.step()


def squared_gradient(critic: nn.Module, real: Images) -> Float[Tensor, ""]:
    """Mean squared length of the critic's gradient at real images (Mescheder et al., ICML 2018, eq. 9)."""
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


# What they are trained on, and measured against


def rendered(seed: int, n: int, start: int = 0) -> Images:
    """Houses in 0…1."""
    return data.scenes(PRESET, n, size=SIZE, seed=seed, start=start, fixed=FIXED, labels=False).images


def pool(seed: int, n: int = N_POOL) -> UInt8[Tensor, "n c h w"]:
    """The images that a generator learns from, in 0…255."""
    starts = range(0, n, PART)
    return torch.cat([(rendered(seed, min(PART, n - start), start) * 255).round().byte() for start in starts])


@cache
def oracle() -> nn.Module:
    """The network that names the part at every pixel."""
    (recipe,) = (recipe for recipe in oracles.RECIPES if recipe.name == ORACLE)
    return Shipped(ORACLE).fit(recipe.network())


@cache
def held_out(n: int) -> Census:
    """What the oracle sees in rendered houses that no generator learnt from."""
    return census(oracle(), rendered(FIRST_HELD_OUT_SEED, n))


def drawn(network: nn.Module, n: int, seed: int = 0) -> Images:
    """Images that a network draws, in 0…1."""
    made = Generator.of(network)
    latents = made.sample_z(n, seed)
    with torch.no_grad():
        return torch.cat([made.synthesize(latents[i : i + 100]).pixels for i in range(0, n, 100)]).cpu()


def glance(network: nn.Module) -> dict[str, float]:
    """How varied the images are, and the area of each part, generated beside data; without an oracle, edges instead."""
    images, truth = drawn(network, N_GLANCE), rendered(FIRST_HELD_OUT_SEED, N_GLANCE)
    found = {"variety": variety(images, truth), "edges": edges(images) / edges(truth)}
    if Shipped(ORACLE).exists:
        found |= beside(census(oracle(), images), held_out(N_GLANCE), oracles.parts())
    return found


def edges(pixels: Images) -> float:
    """Mean difference between neighbouring pixels."""
    return float(pixels.diff(dim=2).abs().mean() + pixels.diff(dim=3).abs().mean())


def figures(
    layer: str,
    network: nn.Module,
    *,
    segmenter: Segmenter | None = None,
    names: tuple[str, ...] | None = None,
    n: int = N_FIGURES,
) -> dict[str, float]:
    """What the card says: parts generated beside data, and what switching off units of `layer` does to roofs."""
    asked, names = segmenter or oracle(), names or oracles.parts()
    images, real = drawn(network, n, seed=2), rendered(FIRST_HELD_OUT_SEED, n)
    found = {"variety": variety(images[:N_GLANCE], real[:N_GLANCE])}
    found |= beside(census(asked, images), census(asked, real), names)
    gone = removal(Generator.of(network), asked, names.index(REMOVED), layer)
    return found | {f"{REMOVED}_{name}": value for name, value in gone.items()}


# The recipes


def conv_network() -> nn.Module:
    return ConvGenerator(z_dim=32, units=CONV_UNITS)


def style_network() -> nn.Module:
    return StyleGenerator(z_dim=64, w_dim=128, units=STYLE_UNITS)


def _recipe(
    name: str,
    about: str,
    steps: int,
    network: Callable[[], nn.Module],
    critic: tuple[int, ...],
    setting: Setting,
    layer: str,
    paper: str,
) -> Recipe:
    def task(seed: int, device: torch.device) -> Adversarial:
        make_critic, images = partial(Discriminator, critic), partial(pool, seed)
        return Adversarial(network, make_critic, images=images, look=glance, setting=setting, seed=seed, device=device)

    return Recipe(
        name=name,
        about=about,
        steps=steps,
        task=task,
        network=network,
        figures=partial(figures, layer),
        data=f"{N_POOL:,} {PRESET} of the scene world, {SIZE} px; measured against others.",
        paper=paper,
    )


RECIPES = (
    _recipe(
        "houses_gan",
        "Draws houses, 32 px: five plain layers, of which those on 8 × 8 and 16 × 16 have 128 units.",
        CONV_STEPS,
        conv_network,
        CONV_CRITIC,
        Setting(rates=(2e-4, 2e-4), betas=(0.5, 0.99)),
        CONV_LAYER,
        "Radford, Metz and Chintala, DCGAN, ICLR 2016",
    ),
    _recipe(
        "houses_stylegan",
        "Draws houses, 32 px, steered by eight slices of w; the layers up to 16 × 16 have 128 units.",
        STYLE_STEPS,
        style_network,
        STYLE_CRITIC,
        Setting(rates=(4e-3, 2e-4), relative=(True, False)),
        STYLE_LAYER,
        "Karras et al., Analyzing and improving the image quality of StyleGAN, CVPR 2020",
    ),
)
