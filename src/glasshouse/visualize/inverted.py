"""What inversion gives: images with the features of others, and how near they come."""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from glasshouse.core import BadInput, Images, Noun, draw
from glasshouse.core.errors import not_found
from glasshouse.visualize.picture import png_url


@dataclass(frozen=True, repr=False)
class Inversion(Noun):
    """Images with nearly the features of n others, for each of l layers.

    Args:
        pixels: 0…1; distances are measured on them as they are here.
        originals: pixels of the images whose features were asked for, before any change to these.
        distance: |Φ(x) - Φ0|, how far the features are from those asked for.
        norm: |Φ0|.
        spread: mean |Φ(a) - Φ(b)| over pairs of reference images; NaN where there were fewer than two.
        history: the objective at each step, which falls.
    """

    layers: tuple[str, ...]
    pixels: Float[Tensor, "l n c h w"]
    originals: Images
    distance: Float[Tensor, "l n"]
    norm: Float[Tensor, "l n"]
    spread: Float[Tensor, " l"]
    history: Float[Tensor, "l n s"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        _, n, _, h, w = self.pixels.shape
        missed = [
            f"{layer} {miss:.3g}" for layer, miss in zip(self.layers, self.residual.mean(1).tolist(), strict=True)
        ]
        return f"Inversion({n} × {h}×{w}, |Φ(x) - Φ0| / |Φ0|: {', '.join(missed)})"

    def __getitem__(self, layer: str) -> Images:
        """The pixels of one layer."""
        if layer not in self.layers:
            raise not_found("layer", layer, self.layers)
        return self.pixels[self.layers.index(layer)]

    @property
    def residual(self) -> Float[Tensor, "l n"]:
        """|Φ(x) - Φ0| / |Φ0|: 0 for the very features, 1 for features of 0."""
        return self.distance / self.norm

    @property
    def error(self) -> Float[Tensor, "l n"]:
        """|Φ(x) - Φ0| over the mean distance of two reference images: about 1 for an image chosen at random.

        The normalised reconstruction error of Mahendran and Vedaldi, CVPR 2015, sec. 5.
        """
        if not (self.spread > 0).all():
            raise BadInput(
                "the distance between images is unknown: there were not two different ones.",
                "Call invert(…, reference=images), or invert several images at once; residual needs none.",
            )
        return self.distance / self.spread[:, None]


def sheet(rows: Float[Tensor, "r n c h w"]) -> Image.Image:
    """All pictures in one, row by row; other than 1 or 3 channels are averaged to grey."""
    values = rows if rows.shape[2] in (1, 3) else rows.mean(2, keepdim=True)
    whole = rearrange(values.expand(-1, -1, 3, -1, -1), "r n c h w -> (r h) (n w) c")
    return Image.fromarray((whole.detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy())


@draw.register
def draw_inversion(noun: Inversion) -> str:
    """The originals, and below them what each layer has kept."""
    picture = sheet(torch.cat([noun.originals[None].to(noun.pixels), noun.pixels]))
    missed = zip(noun.layers, noun.residual.mean(1).tolist(), strict=True)
    below = "<br>".join(f"{escape(layer)}: |Φ(x) - Φ0| is {miss:.3g} |Φ0|" for layer, miss in missed)
    alt = f"originals, and inversions of {escape(', '.join(noun.layers))}"
    return f'<figure><img alt="{alt}" src="{png_url(picture)}"><figcaption>originals<br>{below}</figcaption></figure>'
