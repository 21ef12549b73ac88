"""What a model itself says of images, beside its explanations."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import Images, Model, borrow, in_chunks, probe
from glasshouse.core.target import logits
from glasshouse.evaluate.sanity.replaying import at_once


def outputs(model: Model | nn.Module, images: Images) -> Float[Tensor, "n k"]:
    """The class scores of images, in chunks. One forward pass each."""
    return read(model, images, None)[0]


def read(
    model: Model | nn.Module, images: Images, layer: str | None
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n d"]]:
    """The class scores, and what a layer gives as one long vector; for no layer the scores once more."""
    layers = [layer] if layer else []
    with borrow(model, images, layers) as network, torch.no_grad(), probe(network, *layers) as seen:

        def run(rows: Tensor) -> tuple[Tensor, Tensor]:
            for runs in seen.runs.values():
                runs.clear()
            scores = logits(network(images[rows])).flatten(1)
            return scores, (seen[layer] if layer else scores).flatten(1)

        parts = [part for _, part in in_chunks(run, len(images), at_once(images), images.device)]
    scores, features = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(features)
