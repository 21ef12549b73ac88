"""Generators: networks that draw images from latents, behind one small noun that every generative method is written on.

A network says what it is in a `GeneratorSpec`, and how to get from each latent space to the next; `Generator` adds
what is the same for all of them: sampling, edits, reading layers, running a prefix or the rest. Images lie in -1…1.

    generator = Generator.of(network)
    z = generator.sample_z(8, seed=0)
    image = generator.synthesize(z, edits=[LayerEdit("layers.2", units=(3, 40))]).image     # two units switched off
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.activations import attach, find, probe
from glasshouse.core.errors import BadInput, BadModel, NotFound
from glasshouse.core.plan import untouched
from glasshouse.core.result import Noun
from glasshouse.core.suffix import Suffix, cut
from glasshouse.core.types import Images

Space: TypeAlias = Literal["z", "w", "wplus", "style"]
Prior: TypeAlias = Literal["normal", "uniform"]


class SpaceNotAvailable(NotFound):
    """A latent space that this generator does not have, or that cannot be reached from the latent at hand."""


@dataclass(frozen=True)
class LayerInfo:
    """A layer of the synthesis whose units can be read and edited.

    Args:
        name: dotted name of the module.
        units: how many output channels there are, on a grid of `grid` (rows, columns).
        slice_of_w: which slice of `wplus` drives it; None without a w.
    """

    name: str
    units: int
    grid: tuple[int, int]
    slice_of_w: int | None = None


@dataclass(frozen=True)
class StyleAffine:
    """How one slice of w becomes styles: `style[columns] = weight @ w + bias`, the map that SeFa decomposes.

    Args:
        layer: dotted name of the module that the styles scale.
        slice_of_w: the slice of `wplus` that is read.
        columns: first and last (exclusive) column in the style space.
    """

    layer: str
    slice_of_w: int
    columns: tuple[int, int]
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]


@dataclass(frozen=True)
class GeneratorSpec:
    """What a generator is: its latent spaces, in the order in which one leads to the next, and its layers.

    Shapes are `n d` for z and w, `n l d` for wplus, and `n s` for style: the styles of all layers side by side.

    Args:
        resolution: of the images, in pixels; channels likewise.
        prior: how z is drawn; `uniform` means -1…1.
        n_w: slices of wplus; 0 without one.
        noisy: whether the synthesis takes noise beside the latent; it is held constant.
    """

    spaces: tuple[Space, ...]
    z_dim: int
    resolution: int
    layers: tuple[LayerInfo, ...]
    channels: int = 3
    prior: Prior = "normal"
    w_dim: int = 0
    n_w: int = 0
    n_styles: int = 0
    noisy: bool = False

    def shape(self, space: Space) -> tuple[int, ...]:
        """Shape of one latent in `space`."""
        self.require(space)
        return {
            "z": (self.z_dim,),
            "w": (self.w_dim,),
            "wplus": (self.n_w, self.w_dim),
            "style": (self.n_styles,),
        }[space]

    def require(self, space: str) -> None:
        """An error that names the spaces there are, unless `space` is one of them."""
        if space not in self.spaces:
            raise SpaceNotAvailable(
                f"this generator has no space '{space}'.", f"It has: {', '.join(map(repr, self.spaces))}."
            )


@runtime_checkable
class GeneratorNetwork(Protocol):
    """What a network must have to be a generator; it is an `nn.Module` as well.

    `draw` takes latents in the last space of `spec.spaces` to images.
    """

    spec: GeneratorSpec

    def draw(self, data: Tensor) -> Tensor: ...


@runtime_checkable
class SteeredNetwork(GeneratorNetwork, Protocol):
    """A generator with several latent spaces.

    `advance` takes latents from `space` to the next space of `spec.spaces`; `style_affines` says how styles come about.
    A network with a space w keeps the mean of w over z as `w_mean`, for truncation.
    """

    def advance(self, data: Tensor, space: Space) -> Tensor: ...

    def style_affines(self) -> tuple[StyleAffine, ...]: ...


@dataclass(frozen=True, repr=False)
class Latent(Noun):
    """Points in one of a generator's latent spaces, one row per image."""

    space: Space
    data: Float[Tensor, "n ..."]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: slice) -> "Latent":
        return replace(self, data=self.data[rows])

    def __repr__(self) -> str:
        return f"Latent({self.space}, {' × '.join(map(str, self.data.shape))})"


@dataclass(frozen=True)
class LayerEdit:
    """A change of one layer's output: r' = (1 - alpha) r + alpha value (Bau et al., "GAN Dissection", ICLR 2019).

    `LayerEdit("layers.2", units=(3, 40))` switches two units off; a value inserts, alpha < 1 does it in part.

    Args:
        alpha, value: one number; or a tensor with one per unit (1 axis), per position (2: `i j`), per image and
            position (3: `n i j`), or `n k i j` where axes of size 1 stand for all.
        units: channel numbers that are changed, which alpha and value count along; empty for all of them.
    """

    layer: str
    alpha: float | int | Float[Tensor, "..."] = 1.0
    value: float | int | Float[Tensor, "..."] = 0.0
    units: Sequence[int] = ()

    def __call__(self, maps: Float[Tensor, "n k i j"]) -> Float[Tensor, "n k i j"]:
        rows = list(self.units) or list(range(maps.shape[1]))
        if min(rows) < 0 or max(rows) >= maps.shape[1]:
            raise BadInput(
                f"units {min(rows)}…{max(rows)} are not all in layer '{self.layer}'.", f"It has 0…{maps.shape[1] - 1}."
            )
        before = maps[:, rows]
        changed = before.lerp(self._along(before, self.value), self._along(before, self.alpha))
        return changed if not self.units else maps.index_copy(1, torch.tensor(rows, device=maps.device), changed)

    def _along(self, maps: Tensor, values: float | Tensor) -> Tensor:
        values = torch.as_tensor(values, dtype=maps.dtype, device=maps.device)
        shown = tuple(values.shape)
        if values.ndim == 1:
            values = values[:, None, None]
        elif values.ndim == 3:
            values = values[:, None]
        try:
            return values.expand_as(maps)
        except RuntimeError:
            raise BadInput(f"an edit of shape {shown} does not fit {tuple(maps.shape)} at '{self.layer}'.") from None


@dataclass(frozen=True, repr=False)
class Synthesis(Noun):
    """What a generator drew.

    Args:
        image: in -1…1; None if the synthesis was stopped before.
        activations: of the layers asked for, by name.
    """

    image: Images | None
    activations: dict[str, Tensor]

    @property
    def pixels(self) -> Images:
        """The image in 0…1."""
        if self.image is None:
            raise BadInput("the synthesis was stopped before the image.", "Leave stop_at= out.")
        return (self.image / 2 + 0.5).clamp(0, 1)

    def __repr__(self) -> str:
        shown = "no image" if self.image is None else " × ".join(map(str, self.image.shape))
        return f"Synthesis({', '.join([shown, *self.activations])})"


class Drawing(nn.Module):
    """The synthesis of a generator as a module of its own: from the last latent space to images."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, data: Tensor) -> Tensor:
        return cast(GeneratorNetwork, self.network).draw(data)


@dataclass(frozen=True, eq=False, repr=False)
class Generator:
    """A network that draws images, with what every generative method asks of it. It runs in evaluation mode."""

    module: nn.Module
    name: str = "generator"

    @classmethod
    def of(cls, module: nn.Module, *, name: str | None = None) -> "Generator":
        """Wrap a network that has what `GeneratorNetwork` lists, and with several spaces, `SteeredNetwork`."""
        several = len(getattr(getattr(module, "spec", None), "spaces", ())) > 1
        needed = ("spec", "draw", *(("advance", "style_affines") if several else ()))
        missing = [part for part in needed if not hasattr(module, part)]
        if not isinstance(module, nn.Module) or missing:
            raise BadModel(
                f"a {type(module).__name__} is no generator: it has no {', '.join(missing) or 'layers'}.",
                "See GeneratorNetwork for what a network must have.",
            )
        return cls(module, name or type(module).__name__)

    @property
    def network(self) -> GeneratorNetwork:
        return cast(GeneratorNetwork, self.module)

    @property
    def spec(self) -> GeneratorSpec:
        return self.network.spec

    def layers(self) -> tuple[LayerInfo, ...]:
        """Layers of the synthesis, from the latent to the image."""
        return self.spec.layers

    def style_affines(self) -> tuple[StyleAffine, ...]:
        """The maps from w to styles, in the order of the style space."""
        self.spec.require("style")
        return cast(SteeredNetwork, self.module).style_affines()

    def sample_z(self, n: int, seed: int = 0) -> Latent:
        """n latents from the prior. The first k are the same for any n ≥ k, on every device.

        The stream is numpy's `RandomState(seed)`, which never changes, and which the code of GAN Dissection draws
        from: its unit numbers can be compared.
        """
        if n < 1 or not 0 <= seed < 2**32:
            raise BadInput(f"cannot draw {n} latents with seed {seed}.", "At least 1; a seed of 0…2^32-1.")
        stream, shape = np.random.RandomState(seed), (n, self.spec.z_dim)
        drawn = stream.standard_normal(shape) if self.spec.prior == "normal" else stream.uniform(-1, 1, shape)
        return Latent("z", torch.from_numpy(drawn).to(next(self.module.parameters())))

    def map(self, latent: Latent, to: Space, *, truncation: float | int = 1.0, cutoff: int | None = None) -> Latent:
        """The same points in a later space.

        Args:
            truncation: ψ in w' = mean + ψ (w - mean): less varied, more typical images (Karras et al., CVPR 2019).
            cutoff: only this many first slices of wplus are truncated.
        """
        spaces, data = self.spec.spaces, self.checked(latent)
        self.spec.require(to)
        if spaces.index(to) < spaces.index(latent.space):
            raise SpaceNotAvailable(f"'{to}' comes before '{latent.space}'; a latent cannot be mapped back.")
        truncated = "wplus" if cutoff is not None or to in ("wplus", "style") else "w"
        passed = spaces[spaces.index(latent.space) + 1 : spaces.index(to) + 1]
        if (truncation != 1 or cutoff is not None) and truncated not in passed:
            raise SpaceNotAvailable(f"truncation happens on the way into '{truncated}', not from '{latent.space}'.")
        with untouched(self.module):
            for before, after in zip((latent.space, *passed), passed, strict=False):
                data = cast(SteeredNetwork, self.module).advance(data, before)
                if after == truncated and truncation != 1:
                    data = self._truncate(data, float(truncation), cutoff)
        return Latent(to, data)

    def synthesize(
        self,
        latent: Latent,
        *,
        edits: Sequence[LayerEdit] = (),
        retain: Sequence[str] = (),
        stop_at: str | None = None,
        after: bool = False,
    ) -> Synthesis:
        """Draw images; gradients reach the latent and the edits.

        Args:
            edits: changes of layers, made from left to right.
            retain: layers whose activations are kept.
            stop_at: the last layer that is run; its activation is kept, and there is no image.
            after: keep activations as they are after the edits of their layer, rather than before.
        """
        data = self.map(latent, self.spec.spaces[-1]).data
        stops, image = [] if stop_at is None else [stop_at], None
        with untouched(self.module), ExitStack() as stack:
            if after:
                self._edit(stack, edits)
            kept = [stack.enter_context(probe(self.module, *retain))]
            kept += [stack.enter_context(probe(self.module, layer, stop=True)) for layer in stops]
            if not after:
                self._edit(stack, edits)
            image = self.network.draw(data)
        return Synthesis(image, {layer: seen[layer] for seen in kept for layer in seen})

    def start_from(self, latent: Latent, layer: str) -> Suffix:
        """The rest of the synthesis behind `layer`, for these latents: call it with an activation, get images.

        Each call costs the layers behind only; what else they read (styles, the picture so far) is remembered.
        """
        data = self.map(latent, self.spec.spaces[-1]).data
        with untouched(self.module):
            return cut(Drawing(self.module), data, f"network.{layer}")

    def checked(self, latent: Latent) -> Tensor:
        """The latent's values, if they are of a space of this generator and of its shape."""
        wanted, seen = self.spec.shape(latent.space), tuple(latent.data.shape[1:])
        if seen != wanted:
            raise BadInput(f"latents of '{latent.space}' have shape {seen} each; this generator's have {wanted}.")
        return latent.data

    def _edit(self, stack: ExitStack, edits: Sequence[LayerEdit]) -> None:
        for edit in edits:
            stack.callback(attach(find(self.module, edit.layer), edit).remove)

    def _truncate(self, data: Tensor, truncation: float, cutoff: int | None) -> Tensor:
        mean = cast(Tensor, getattr(self.module, "w_mean"))  # noqa: B009
        if cutoff is None:
            return mean.lerp(data, truncation)
        if not 0 <= cutoff <= data.shape[1]:
            raise BadInput(f"cutoff {cutoff} of {data.shape[1]} slices of w.")
        return torch.cat([mean.lerp(data[:, :cutoff], truncation), data[:, cutoff:]], 1)

    def __repr__(self) -> str:
        spaces = ", ".join(self.spec.spaces)
        return f"Generator({self.name}: {spaces} → {self.spec.resolution} px, {len(self.spec.layers)} layers)"
