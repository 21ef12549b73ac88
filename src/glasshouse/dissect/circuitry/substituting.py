"""Units of a network replaced by other detectors, on the same scale."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, edit, probe, resize, unit_maps
from glasshouse.core.lift import checked_images, module_of
from glasshouse.core.plan import untouched
from glasshouse.dissect.circuitry.editing import chosen


class Substituted(nn.Module):
    """A network in which `detectors`, run on the same images, answer in place of some units of a layer.

    Args:
        scale, shift: one number per unit; the detector's map is multiplied by the one, then the other is added.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        detectors: nn.Module,
        layer: str,
        units: Sequence[int],
        scale: Float[Tensor, " u"],
        shift: Float[Tensor, " u"],
    ):
        super().__init__()
        self.network, self.detectors, self.layer, self.units = network, detectors, layer, list(units)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.detectors(images)
        spread = self.scale[:, None, None] * maps + self.shift[:, None, None]

        def put(old: Tensor) -> Tensor:
            changed = old.clone()
            changed[:, self.units] = resize(spread, (old.shape[2], old.shape[3]))
            return changed

        with edit(self.network, {self.layer: put}):
            return self.network(images)


@torch.no_grad()
def substitute_units(
    model: Model | nn.Module,
    detectors: nn.Module,
    inputs: Images,
    *,
    layer: str,
    units: Sequence[int],
) -> Substituted:
    """The model with other detectors in place of `units` of `layer`, each on its unit's scale.

        A'_u = std(A_u) (D_u - mean(D_u)) / std(D_u) + mean(A_u)

    with means and standard deviations over all positions of `inputs`. After Cammarata et al., "Curve circuits",
    Distill 2021, who put hand-written curve detectors in place of trained ones.

    Args:
        detectors: from the model's own inputs to maps `n u i j` over the whole image, one for each unit.
        inputs: images to match on.
    """
    network, images = deepcopy(module_of(model)), checked_images(inputs)
    with untouched(network), untouched(detectors), probe(network, layer) as seen:
        new = detectors(images)
        network(images)
        old = unit_maps(network, images, layer).maps(seen[layer])
    rows = chosen(units, old.shape[1], "unit", layer)
    if new.ndim != 4 or new.shape[:2] != (len(images), len(rows)):
        raise BadInput(
            f"detectors give {tuple(new.shape)} for {len(images)} images and {len(rows)} units.",
            "They must give maps n u i j, one for each unit.",
        )
    over = (0, 2, 3)
    spread, still = new.std(over), new.amax(over) == new.amin(over)
    if still.any():
        silent = rows[still].tolist()
        raise BadInput(f"the detectors for units {silent} answer the same everywhere.", "Match on other images.")
    scale = old[:, rows].std(over) / spread
    shift = old[:, rows].mean(over) - scale * new.mean(over)
    return Substituted(network, detectors, layer, rows.tolist(), scale, shift).eval()
