"""How much of a class does a sum of concepts hold? What is left over, and what the model says without it."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, Noun
from glasshouse.evaluate.inside.surrogates import Fidelity, surrogate_fidelity


@dataclass(frozen=True, eq=False, repr=False)
class BasisFidelity(Noun):
    """How much of k classes their concepts hold.

    Args:
        residual: length of what is left of each class vector, as a share of its length: 0 is a full explanation.
        without: how far the model decides alike without these residuals, on held-out images.
    """

    residual: Float[Tensor, " k"]
    without: Fidelity

    def __repr__(self) -> str:
        rate = self.without.agreement
        low, high = rate.interval
        return (
            f"BasisFidelity(residual {float(self.residual.mean()):.3f} of the length, top class kept "
            f"{rate.share:.3f}, {low:.3f}…{high:.3f}, chance {self.without.chance:.3f}, on {rate.total} images)"
        )


def basis_fidelity(
    weights: Float[Tensor, "k u"],
    residual: Float[Tensor, "r v"],
    features: Float[Tensor, "n w"],
    logits: Float[Tensor, "m c"],
    labels: Int[Tensor, " n"] | None = None,
    *,
    slices: dict[str, Bool[Tensor, " n"]] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> BasisFidelity:
    """How much of a class is outside its concepts, and how often the model still says the same without that part.

        residual_k = |r_k|,   w_k / |w_k| = sum_i s_ki q_i + r_k
        kept = 1/n sum_x [argmax_k logit_k(x) = argmax_k (logit_k(x) - |w_k| r_k · a(x))]

    Zhou et al., "Interpretable basis decomposition for visual explanation", ECCV 2018, show the residual beside the
    concepts. Concepts that have nothing to do with the class leave less of it the more they are: decompose into random
    vectors too, and compare. `without.chance` is what a model gets that always names the commonest class.

    Args:
        weights: vectors of all classes that are compared, as `Decomposition.weights`.
        residual: what is left of them at length 1, as `Decomposition.residual`.
        features: means over positions of the layer's units (`Decomposition.units`), in held-out images.
        logits: of the model, for these classes and images.
        labels, slices, level, seed: as for `surrogate_fidelity`.
    """
    shapes = [tuple(part.shape) for part in (weights, residual, features, logits)]
    (k, u), n = shapes[0], shapes[2][0]
    if shapes != [(k, u), (k, u), (n, u), (n, k)]:
        raise BadInput(f"weights, residual, features and logits have shapes {shapes}: not k u, k u, n u, n k.")
    vectors, left, seen = (part.detach().cpu().double() for part in (weights, residual, features))
    if not (vectors.isfinite().all() and left.isfinite().all() and seen.isfinite().all()):
        raise BadInput("some weights, residuals or features are not finite.")
    dropped = seen @ (vectors.norm(dim=1, keepdim=True) * left).T
    whole = logits.detach().cpu().double()
    without = surrogate_fidelity(whole, whole - dropped, labels, slices=slices, level=level, seed=seed)
    return BasisFidelity(left.norm(dim=1), without)
