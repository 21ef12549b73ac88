"""A logit, split among concepts: how much each of them contributed, and where."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Explanation, Maps, Noun, PerImage, resize


@dataclass(frozen=True, eq=False, repr=False)
class ConceptSplit(Noun):
    """What s concepts contributed to the logit of a class for each of n images.

        logit = sum_i contribution_i + residual + bias + rest

    Args:
        target: the class of each image.
        concepts: names for each image, in the order in which its class was decomposed; empty where there are fewer.
        contributions: in logits; `residual` is the part of the class vector that is no concept's.
        bias: of the class.
        rest: what is not linear in the layer; rounding where the decomposition is exact.
        maps: at the layer's resolution, each with its contribution as mean; the last is the residual's. They sum to
            the class activation map.
        image_size: height and width of the inputs in pixels.
    """

    layer: str
    target: tuple[int, ...]
    concepts: tuple[tuple[str, ...], ...]
    contributions: Float[Tensor, "n s"]
    residual: PerImage
    bias: PerImage
    rest: PerImage
    logit: PerImage
    maps: Float[Tensor, "n s1 i j"]
    image_size: tuple[int, int]
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = "; ".join(self.captions(2)[:2]) + ("; …" if len(self) > 2 else "")
        return f"ConceptSplit({self.layer}, {shown})"

    def __len__(self) -> int:
        return len(self.target)

    @property
    def share(self) -> Float[Tensor, "n s"]:
        """Contributions as shares of what the layer says for the class, `logit - bias - rest`; NaN where that is not
        above 0. Shares of the concepts and the residual sum to 1, and single ones may be negative or above 1."""
        whole = self.contributions.sum(1) + self.residual
        return torch.where(whole > 0, self.contributions.T / whole, torch.nan).T

    def captions(self, n_concepts: int = 3) -> list[str]:
        """A line for each image, such as `house: roof 34 %, window 20 %`: the concepts that contributed most."""
        return [self._caption(image, n_concepts) for image in range(len(self))]

    def explanation(self, rank: int = 0) -> Explanation:
        """Where the concept that contributed most was seen (or the one at another rank), as heat maps to draw.

        Args:
            rank: from 0; images differ in which concept it is. `-1` takes the residual.
        """
        n, s = self.contributions.shape
        if not -1 <= rank < s:
            raise BadInput(f"rank {rank} of {s} concepts.", f"Use 0…{s - 1}, or -1 for the residual.")
        order = self.contributions.argsort(dim=1, descending=True)
        chosen = torch.full((n,), s) if rank < 0 else order[:, rank]
        native = self.maps[torch.arange(n), chosen]
        settings = {"rank": rank, "concepts": tuple(self._name(image, int(c)) for image, c in enumerate(chosen))}
        return Explanation(self._heatmap(native), native, "decompose", self.target, self.logit, settings, self.layer)

    def class_map(self) -> Maps:
        """The class activation map, on the pixel grid."""
        return self._heatmap(self.maps.sum(1))

    def _heatmap(self, native: Tensor) -> Maps:
        return resize(native[:, None], self.image_size)[:, 0]

    def _name(self, image: int, concept: int) -> str:
        return "residual" if concept == len(self.concepts[image]) else self.concepts[image][concept]

    def _caption(self, image: int, n_concepts: int) -> str:
        number = self.target[image]
        title = self.class_names[number] if number < len(self.class_names) else f"class {number}"
        shares = self.share[image]
        per_cent = not bool(shares.isnan().any())
        values = shares if per_cent else self.contributions[image]
        best = [c for c in values.argsort(descending=True)[:n_concepts].tolist() if self.concepts[image][c]]
        told = [f"{value:.0%}".replace("%", " %") if per_cent else f"{value:+.2f}" for value in values[best].tolist()]
        return f"{title}: " + ", ".join(f"{self.concepts[image][c]} {text}" for c, text in zip(best, told, strict=True))


def concept_maps(
    maps: Float[Tensor, "n u i j"],
    weights: Float[Tensor, "n u"],
    parts: Float[Tensor, "n s u"],
) -> Float[Tensor, "n s1 i j"]:
    """The class activation map of each image as a sum of one map per part, and one for what they leave of the weights.

    Args:
        parts: of the class vector of length 1.
    """
    length = weights.norm(dim=1)[:, None, None]
    whole = torch.cat([length * parts, (weights - length[:, 0] * parts.sum(1))[:, None]], 1)
    return torch.einsum("nuij,nsu->nsij", maps, whole)
