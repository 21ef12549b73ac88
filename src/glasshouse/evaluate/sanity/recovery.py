"""Sanity: does the map draw the image instead of explaining the decision?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Model, Score, blur, registered
from glasshouse.core.mask import cells
from glasshouse.evaluate.agreement import correlation
from glasshouse.evaluate.metric import Result, belongs, flaws, score_of
from glasshouse.evaluate.questions import grid_of
from glasshouse.evaluate.sanity.likeness import pearson

PATCH = 7  # px: the filters of Nie et al.


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Nie et al., ICML 2018", example={"sigma": 1.0})
def image_recovery(
    model: Model | nn.Module, inputs: Images, explanation: Explanation, *, sigma: float = 4.0, seed: int = 0
) -> Score:
    """Whether the map draws the image: its correlation with the image's fine structure. 1 is the structure itself.

        Pearson correlation of a and x - blur(x, sigma), over pixels and channels

    Nie, Zhang and Patel, "A theoretical explanation for perplexing behaviors of backpropagation-based
    visualizations", ICML 2018: guided backprop recovers the image even from a random network, as does DeconvNet
    behind max-pooling. Values with their sign and channels (`native`) where the method has them at every pixel,
    else the heat map and the mean over channels. `extras` hold the correlation with the image itself (`image`) and
    with the image put together from 7 × 7 patches of equal norm (`patches`), what their theorem 1 predicts. The
    error is a bootstrap over cells of the map. By itself a high value proves nothing: the model may look at edges.

    Args:
        sigma: of the blur, in pixels.
    """
    belongs(explanation, inputs)
    if sigma <= 0:
        raise BadInput(f"sigma {sigma} is not above 0.", "Try sigma=4, in pixels.")
    whole = explanation.native.shape == inputs.shape
    values = (explanation.native if whole else explanation.heatmap[:, None]).to(inputs.device)
    images = inputs if whole else inputs.mean(1, keepdim=True)
    size = (inputs.shape[-2], inputs.shape[-1])
    labels = cells(size, grid_of(size)).flatten().repeat(images.shape[1])
    flat, fine = values.flatten(1), (images - blur(images, sigma)).flatten(1)
    value, stderr = correlation(flat, fine, seed, labels)
    reason = tuple(
        fault or ("" if known else "no_variation")
        for fault, known in zip(flaws(values.flatten(2)), value.isfinite().tolist(), strict=True)
    )
    extras = {"image": pearson(flat, images.flatten(1)), "patches": pearson(flat, equal_patches(images).flatten(1))}
    settings = {"sigma": sigma, "seed": seed}
    return score_of("image_recovery", Result(value, stderr, reason, extras), None, "diagnostic", settings)


def equal_patches(images: Images) -> Tensor:
    """Each image as the sum of its patches, every one divided by its norm."""
    patches = F.unfold(images, PATCH, padding=PATCH // 2)
    norms = patches.norm(dim=1, keepdim=True)
    return F.fold(
        patches / torch.where(norms > 0, norms, 1.0), (images.shape[-2], images.shape[-1]), PATCH, padding=PATCH // 2
    )
