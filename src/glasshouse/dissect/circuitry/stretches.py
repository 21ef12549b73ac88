"""The part of a network between two layers, run from what the first gives, if asked without activation functions."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from glasshouse.core import BadInput, BadModel, Images, LayerGeometry, Units, generator, probe, unit_maps
from glasshouse.core.activations import attach, find
from glasshouse.core.backward import GATES, KINDS, kind_of
from glasshouse.core.gradient import gradient, keeping_graphs
from glasshouse.core.trace import plain_attention

STRAIGHT = frozenset(KINDS.values()) - GATES - {"glu", "logsigmoid"}  # activation functions of one value each


@dataclass(frozen=True)
class Stretch:
    """The part of a network that lies between two layers.

    Args:
        linear: without its activation functions, and with average in the place of max pooling.
    """

    network: nn.Module
    source: LayerGeometry
    layer: LayerGeometry
    linear: bool

    @classmethod
    def of(cls, network: nn.Module, images: Images, source: str, layer: str, linear: bool) -> "Stretch":
        first, last = (replace(unit_maps(network, images, name), name=name) for name in (source, layer))
        for place in (first, last):
            if place.calls != 1:
                raise BadInput(
                    f"layer '{place.name}' runs {place.calls} times, and each run would have weights of its own.",
                    "Choose layers that run once.",
                )
        return cls(network, first, last, linear)

    @property
    def centre(self) -> tuple[int, int]:
        """The position in the middle of the later layer's grid."""
        return self.layer.grid[0] // 2, self.layer.grid[1] // 2

    def run(self, images: Images, given: Tensor | None = None) -> tuple[Tensor, Units]:
        """What `source` gives, as a leaf of autograd, and the maps of `layer` that follow from it.

        Args:
            given: what `source` is to give instead.
        """
        met: list[Tensor] = []

        def enter(value: Tensor) -> Tensor:
            met.append((value if given is None else given).detach().clone().requires_grad_())
            return met[0].clone()

        handle = attach(find(self.network, self.source.name), enter)
        try:
            with plain_attention(), Straight() if self.linear else nullcontext():
                with probe(self.network, self.layer.name, stop=True) as seen:
                    self.network(images)
        finally:
            handle.remove()
        if not met or not seen[self.layer.name].requires_grad:
            raise BadInput(
                f"layer '{self.layer.name}' does not read '{self.source.name}'.", "Name the earlier one as the source."
            )
        return met[0], self.layer.maps(seen[self.layer.name])

    def jacobian(self, images: Images, units: Int[Tensor, " u"]) -> Float[Tensor, "u v i j"]:
        """Derivatives of units at the centre with respect to all of `source`, summed over images."""
        leaf, maps = self.run(images)
        row, column = self.centre
        with keeping_graphs():
            pulls = [gradient(maps[:, unit, row, column], leaf) for unit in units.tolist()]
            return torch.stack([self.source.maps(pull).sum(0) for pull in pulls])

    def check(self, image: Images, units: Int[Tensor, " u"], weights: Float[Tensor, "u v i j"]) -> None:
        """The weights must foretell, to rounding, what any change of `source` does: else nothing linear is there."""
        leaf, before = self.run(image)
        drawn = torch.randn(leaf.shape, generator=generator(0), dtype=torch.float64).to(leaf)
        there = self.source.maps(leaf.detach())
        given = there + (1 + there.abs().mean()) * self.source.maps(drawn)
        _, after = self.run(image, self.source.unmaps(given, leaf.detach()))
        row, column = self.centre
        seen = (after - before)[0, units.to(leaf.device), row, column]
        foretold = einsum(weights, (given - there)[0], "u v i j, v i j -> u")
        scale = einsum(weights.abs(), (given - there)[0].abs(), "u v i j, v i j -> u") + before.abs().max()
        if ((seen - foretold).abs() > torch.finfo(leaf.dtype).eps ** 0.5 * scale).any():
            raise BadModel(
                f"between '{self.source.name}' and '{self.layer.name}' lies more than linear maps and activation "
                "functions: attention, a layer norm, a gate, or a pooling that is no average.",
                "Choose layers without these between them, or pass images and how='gradient'.",
            )


class Straight(TorchFunctionMode):
    """Runs a network without its activation functions, and with average pooling in the place of max pooling."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if kind_of(func.__name__, args, kwargs) in STRAIGHT:
            return args[0] if func.__name__.endswith("_") else args[0].clone()
        if func.__name__ == "max_pool2d":
            return average_pool(func, *args, **kwargs)
        if func.__name__ == "adaptive_max_pool2d":
            return F.adaptive_avg_pool2d(*args[:2])
        return func(*args, **kwargs)


def average_pool(
    func: Any,
    value: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The average over the windows of a max pooling; one that is dilated, or asked where its maxima are, stays."""
    if return_indices or dilation not in (1, (1, 1), [1, 1]):
        return func(value, kernel_size, stride, padding, dilation, ceil_mode)
    return F.avg_pool2d(value, kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad=False)
