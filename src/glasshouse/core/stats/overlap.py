"""How far the pixels a unit marks are the pixels of a concept."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.stats.protocol import Counted

_EXACT = 2**24
"""float32 counts whole numbers exactly up to here."""


def _whole(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@dataclass(eq=False, repr=False)
class Overlap(Counted):
    """Pixels shared by each unit and each concept, summed over the dataset.

        IoU(u, c) = |M_u ∩ L_c| / (|M_u| + |L_c| - |M_u ∩ L_c|)

    Sums come first: this is not the mean of per-image ratios. Bau et al., "Network Dissection", CVPR 2017.
    """

    shared: Int[Tensor, "k c"] = field(init=False, default_factory=lambda: _whole(0, 0))
    unit_area: Int[Tensor, " k"] = field(init=False, default_factory=lambda: _whole(0))
    concept_area: Int[Tensor, " c"] = field(init=False, default_factory=lambda: _whole(0))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.shared.shape)

    def update(
        self,
        unit_masks: Bool[Tensor, "n k p"] | Integer[Tensor, "n k p"],
        concept_masks: Bool[Tensor, "n c p"] | Integer[Tensor, "n c p"],
    ) -> None:
        """Masks of the same `p` pixels; whatever is not zero is in."""
        if unit_masks.shape[::2] != concept_masks.shape[::2]:
            units, concepts = tuple(unit_masks.shape), tuple(concept_masks.shape)
            raise BadInput(
                f"unit masks {units} and concept masks {concepts} do not fit each other.",
                "Give n k p and n c p: the same images and the same pixels.",
            )
        units, concepts = unit_masks != 0, concept_masks != 0
        part = self.fresh()
        part.unit_area, part.concept_area = units.sum((0, 2)), concepts.sum((0, 2))
        part.shared = torch.zeros(units.shape[1], concepts.shape[1], dtype=torch.int64, device=units.device)
        for unit, concept in zip(units, concepts, strict=True):
            for u, c in zip(torch.split(unit, _EXACT, 1), torch.split(concept, _EXACT, 1), strict=True):
                part.shared += (u.float() @ c.float().T).long()
        self.merge(part)

    def _join(self, other: "Overlap") -> None:
        self.shared = self.shared + other.shared
        self.unit_area = self.unit_area + other.unit_area
        self.concept_area = self.concept_area + other.concept_area

    @property
    def iou(self) -> Float[Tensor, "k c"]:
        """Shared pixels over pixels in either, 0…1; 0 where neither marked a pixel."""
        union = self.unit_area[:, None] + self.concept_area - self.shared
        return self.shared.double() / union.clamp(min=1)
