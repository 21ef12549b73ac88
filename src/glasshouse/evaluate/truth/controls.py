"""Maps that know everything about a model, and maps that know nothing of it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glasshouse.core import Images, Maps, blur, generator
from glasshouse.evaluate.complexity import edges

KNOWING, IGNORANT = ("oracle",), ("centre", "edges", "constant", "random")
CONTROLS = (*KNOWING, *IGNORANT)


def oracle(values: Float[Tensor, "n p"], masks: Bool[Tensor, "n p h w"]) -> Maps:
    """What each part is worth, spread evenly over its pixels; 0 elsewhere."""
    share = values.nan_to_num() / masks.flatten(2).sum(2).clamp(min=1)
    return (share[:, :, None, None] * masks).sum(1)


def ignorant(images: Images, seed: int) -> dict[str, Maps]:
    """A Gaussian in the centre, the image's edges, the same everywhere, and noise."""
    n, (h, w) = len(images), images.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return {
        "centre": torch.exp(-(x.square() + y.square()) / 0.5).expand(n, h, w).to(images),
        "edges": edges(blur(images, 1.0)),
        "constant": torch.ones(n, h, w).to(images),
        "random": torch.rand(n, h, w, generator=generator(seed)).to(images),
    }


def blurred_oracle(truth: Maps, share: float, seed: int) -> Maps:
    """The oracle with noise: `1 - share` of it, and `share` of normal noise with its own standard deviation."""
    noise = torch.randn(truth.shape, generator=generator(seed)).to(truth)
    spread = truth.flatten(1).std(1).clamp(min=1e-12)[:, None, None]
    return (1 - share) * truth + share * spread * noise
