"""The filters of a first layer as pictures: there, and only there, weights lie on the pixels themselves."""

from dataclasses import dataclass, field, replace
from math import ceil, sqrt
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, Model, Noun, Preprocess, registered
from glasshouse.core.activations import find
from glasshouse.core.lift import module_of

DEAD = 1e-3  # of the median norm
ALIKE = 0.95  # cosine beyond which two filters are duplicates

Scaling: TypeAlias = Literal["symmetric", "minmax"]
Acting: TypeAlias = Literal["inputs", "pixels"]


@dataclass(frozen=True, repr=False)
class Filters(Noun):
    """Filters of one layer, and what is odd about them.

    Args:
        weights: colour channels in the order of a photograph, red first.
        units: the number of each filter's unit in the layer; of principal components, their rank.
        acting_on: what the weights are multiplied with.
        share: of the filters' variance, for principal components; empty for filters.
    """

    layer: str
    weights: Float[Tensor, "u c h w"]
    units: Int[Tensor, " u"]
    acting_on: Acting = "inputs"
    share: Float[Tensor, " _"] = field(default_factory=lambda: torch.empty(0))
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        u, c, h, w = self.weights.shape
        if len(self.share):
            return f"Filters({self.layer}, {u} principal components, {float(self.share.sum()):.0%} of the variance)"
        counts = {"dead": self.dead.sum(), "as rough as noise": self.noisy.sum(), "pairs alike": len(self.duplicates)}
        found = "".join(f", {int(count)} {name}" for name, count in counts.items() if count)
        return f"Filters({self.layer}, {u} × {c}×{h}×{w}{found})"

    @property
    def norm(self) -> Float[Tensor, " u"]:
        """L2 norm of each filter."""
        return self.weights.flatten(1).norm(dim=1)

    @property
    def dead(self) -> Bool[Tensor, " u"]:
        """Filters whose norm is less than a thousandth of the median."""
        return (self.norm < DEAD * self.norm.median()) | (self.norm == 0)

    @property
    def roughness(self) -> Float[Tensor, " u"]:
        """Share of high frequencies in a filter's energy: 0 for a flat one, 1 for white noise, 2 for a checkerboard.

            r = mean_pq (w_p - w_q)² / (2 mean_p w_p²),   p, q next to each other in a row or a column

        von Neumann's ratio (Annals of Mathematical Statistics 1941), halved, in two dimensions. NaN for one pixel.
        """
        steps = [self.weights.diff(dim=axis).square().flatten(1) for axis in (2, 3)]
        return torch.cat(steps, 1).mean(1) / (2 * self.weights.square().flatten(1).mean(1))

    @property
    def noisy(self) -> Bool[Tensor, " u"]:
        """Filters that are no smoother than white noise, as far as their number of weights can tell (two σ)."""
        n = self.weights[0].numel()
        return (self.roughness > 1 - 2 / sqrt(2 * n)) & ~self.dead

    @property
    def colour(self) -> Float[Tensor, " u"]:
        """Share of a filter's energy that is lost when it is made grey: 0 for grey, 1 for pure contrast of hues."""
        colourful = (self.weights - self.weights.mean(1, keepdim=True)).square().flatten(1).sum(1)
        return colourful / self.norm.square().clamp(min=torch.finfo(self.weights.dtype).tiny)

    @property
    def duplicates(self) -> Int[Tensor, "p 2"]:
        """Pairs of live filters that point along one line, |cos| > 0.95; by number of unit, the lower first."""
        along = F.normalize(self.weights.flatten(1), dim=1)
        live = (~self.dead).to(along)
        same = (along @ along.T).abs() * live * live[:, None] > ALIKE
        return self.units[same.triu(1).nonzero()]

    def pictures(self, scaling: Scaling = "symmetric") -> Float[Tensor, "u c h w"]:
        """Each filter in 0…1.

            symmetric   0.5 + w / (2 max |w|)           no weight is mid-grey
            minmax      (w - min w) / (max w - min w)   all of the range, zero anywhere

        A constant filter is mid-grey under "minmax", a filter of zeros under both.
        """
        flat = self.weights.flatten(1)
        if scaling == "symmetric":
            low, span = -flat.abs().amax(1), 2 * flat.abs().amax(1)
        elif scaling == "minmax":
            low, span = flat.amin(1), flat.amax(1) - flat.amin(1)
        else:
            raise BadInput(f"no scaling '{scaling}'.", "There are 'symmetric' and 'minmax'.")
        low, span = (part[:, None, None, None] for part in (low, span))
        return torch.where(span > 0, (self.weights - low) / span, 0.5)

    def sheet(
        self, *, scaling: Scaling = "symmetric", columns: int | None = None, zoom: int = 8, gap: int = 1
    ) -> Float[Tensor, "c h w"]:
        """All filters as one picture, row by row; with other than 1 or 3 channels, their planes side by side.

        Args:
            columns: filters in a row; None makes the sheet about square.
            zoom: pixels per weight, and per unit of `gap` between filters, which is white.
        """
        tiles = self.pictures(scaling)
        if tiles.shape[1] not in (1, 3):
            tiles = rearrange(tiles, "u c h w -> u 1 h (c w)")
        columns = columns or ceil(sqrt(len(tiles) * tiles.shape[2] / tiles.shape[3]))
        if min(columns, zoom) < 1 or gap < 0:
            raise BadInput(f"columns={columns}, zoom={zoom} and gap={gap} make no sheet.")
        missing = -len(tiles) % columns
        tiles = F.pad(F.pad(tiles, (0, gap, 0, gap), value=1.0), (0, 0, 0, 0, 0, 0, 0, missing), value=1.0)
        grid = rearrange(tiles, "(r q) c h w -> c (r h) (q w)", q=columns)
        grid = grid[:, : grid.shape[1] - gap, : grid.shape[2] - gap]
        return grid.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)

    def components(self, n: int = 28) -> "Filters":
        """The first principal components of the filters, each of length 1: what a patch embedding spans.

        28 are shown by Dosovitskiy et al., ICLR 2021, fig. 7 (left).
        """
        flat = self.weights.flatten(1)
        most = min(len(flat) - 1, flat.shape[1])
        if n < 1:
            raise BadInput(f"{n} principal components are none.", "Ask for 1 or more.")
        _, sizes, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        kept, variance = slice(0, min(n, most)), sizes.square()
        return replace(
            self,
            weights=(axes * sign)[kept].unflatten(1, self.weights.shape[1:]),
            units=torch.arange(len(axes[kept])),
            share=(variance / variance.sum().clamp(min=torch.finfo(flat.dtype).tiny))[kept],
        )

    def by_size(self) -> Float[Tensor, "u h w"]:
        """Mean size of the weights over input channels: all there is to see of a layer whose inputs are no colours."""
        return reduce(self.weights.abs(), "u c h w -> u h w", "mean")


@registered(
    "visualize",
    paper="Krizhevsky et al., NIPS 2012",
    warning="a filter is a linear map; what its unit does with it depends on the bias and on all layers behind.",
)
def first_layer_filters(
    model: Model | nn.Module,
    *,
    layer: str | None = None,
    acting_on: Acting = "inputs",
    preprocess: Preprocess | None = None,
) -> Filters:
    """The weights of the first convolution or patch embedding, one small picture per unit.

        W_k,cij   (acting on inputs),   W_k,cij / std_c   (acting on pixels)

    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
    fig. 3. Networks are fed (pixels - mean) / std, so what a filter does to a photograph is W / std: channels that
    vary less count more.

    Args:
        layer: None takes the first 2-D convolution, or where there is none the first linear layer, in the order of
            definition. A later convolution shows its weights on the units before it, which are no colours.
        acting_on: inputs as the network gets them, or the pixels (0…1) they are made of.
        preprocess: knows std, the order of colours, and the shape of images for a linear layer; None takes the
            model's own.
    """
    known = model if isinstance(model, Model) else Model.of(module_of(model))
    preprocess = preprocess or known.preprocessing
    name = layer or first_layer(known.module)
    weights = weights_of(find(known.module, name).module, name, preprocess)
    if acting_on not in ("inputs", "pixels"):
        raise BadInput(f"filters act on 'inputs' or 'pixels', not on '{acting_on}'.")
    if acting_on == "pixels":
        weights = weights / spread(weights, preprocess)
    if preprocess is not None and preprocess.channel_order == "bgr" and weights.shape[1] == 3:
        weights = weights.flip(1)
    settings = {"layer": name, "preprocess": None if preprocess is None else repr(preprocess)}
    return Filters(name, weights, torch.arange(len(weights)), acting_on, settings=settings)


def first_layer(network: nn.Module) -> str:
    """The first layer that has weights on pixels."""
    for kind in (nn.Conv2d, nn.Linear):
        for name, module in network.named_modules():
            if isinstance(module, kind) and name:
                return name
    raise BadModel("this model has neither a 2-D convolution nor a linear layer.", "Name the layer with layer=….")


def weights_of(module: nn.Module, name: str, preprocess: Preprocess | None) -> Float[Tensor, "u c h w"]:
    """Weights of a layer on their pixels; those of a linear layer lie as the images that were flattened."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
        raise BadModel(
            f"layer '{name}' ({type(module).__name__}) has no weights of two or four axes.",
            "Choose a 2-D convolution, or a linear layer on pixels.",
        )
    weight = weight.detach().cpu().clone()
    weight = weight.float() if weight.dtype.itemsize < 4 else weight
    if weight.ndim == 4:
        return weight
    shape = (len(preprocess.mean), *preprocess.size) if preprocess else None
    if shape is None or weight.shape[1] != shape[0] * shape[1] * shape[2]:
        raise BadModel(
            f"layer '{name}' has {weight.shape[1]} inputs in a row, and how they lie on an image is unknown.",
            "Pass preprocess= with the size and channels of the images that are flattened for it.",
        )
    return weight.unflatten(1, shape)


def spread(weights: Float[Tensor, "u c h w"], preprocess: Preprocess | None) -> Float[Tensor, "c 1 1"]:
    """The standard deviation that each channel is divided by."""
    if preprocess is None or len(preprocess.std) != weights.shape[1]:
        seen = "unknown" if preprocess is None else f"for {len(preprocess.std)} channels"
        raise BadInput(
            f"filters on {weights.shape[1]} channels act on pixels through a preprocessing that is {seen}.",
            "Pass preprocess=Preprocess(size=(h, w), mean=(…), std=(…)), or leave acting_on='inputs'.",
        )
    return weights.new_tensor(preprocess.std)[:, None, None]
