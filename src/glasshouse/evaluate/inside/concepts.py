"""Do concepts hold what the model decides by, and do concept vectors point where the concept is?"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import exp, lgamma, pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Noun, generator
from glasshouse.core.plan import untouched
from glasshouse.core.stats.student import two_sided
from glasshouse.evaluate.inside.rates import Rate, bootstrap

N_FOR_ERROR = 200


@dataclass(frozen=True, repr=False)
class Completeness(Noun):
    """How much of a model's accuracy its concepts recover, on held-out images.

    Args:
        eta: 0 for no more than the commonest class, 1 for all; NaN where the model has nothing to recover.
        stderr: by bootstrap over the held-out images.
        concepts, model: accuracy from the concept scores alone, and of the whole model.
        constant: accuracy of always naming the commonest class.
        random: eta of as many random directions, several times over.
    """

    eta: float
    stderr: float
    concepts: Rate
    model: Rate
    constant: Rate
    random: Float[Tensor, " r"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        return (
            f"Completeness({self.eta:.3f} ± {self.stderr:.3f}, random directions {self.chance:.3f}, accuracy "
            f"{self.concepts.share:.3f} of {self.model.share:.3f}, constant {self.constant.share:.3f})"
        )

    @property
    def chance(self) -> float:
        """Mean of `random`."""
        return float(self.random.mean())


def concept_completeness(
    features: Float[Tensor, "n d"],
    directions: Float[Tensor, "c e"],
    head: Callable[[Tensor], Tensor],
    labels: Int[Tensor, " n"] | None = None,
    *,
    held_out: Bool[Tensor, " n"],
    n_steps: int = 30,
    n_random: int = 3,
    seed: int = 0,
) -> Completeness:
    """How much of the model's accuracy is left if it may know of an image nothing but its concept scores.

        eta = (acc(head(g(C φ))) - acc_constant) / (acc(head(φ)) - acc_constant)

    Yeh et al., "On completeness-aware concept-based explanations in deep neural networks", NeurIPS 2020, def. 3.1. g
    brings the scores back into the layer; it is learnt on the other images: least squares, then `n_steps` of L-BFGS on
    the cross-entropy, and the better of both there. Many directions recover much whatever they are, so read eta beside
    that of random ones.

    Differs: g is affine and scores are not cut off at a threshold, so that eta is a lower bound; theirs has a hidden
    layer of 500 units. Their lowest accuracy is that of random answers, here it is that of the commonest class, which
    is what an empty set of concepts gets.

    Args:
        features: of the layer, one vector per image: means over positions, or all positions flattened.
        directions: of the concepts, as `ConceptVectors.vectors`.
        head: from features to logits: what follows the layer. A module is run as it answers, not as it learns.
        labels: None takes what the model says.
        held_out: images that eta is measured on.
    """
    test = held_out.detach().cpu()
    if not 0 < int(test.sum()) < len(features) - 1 or features.shape[1] != directions.shape[1]:
        raise BadInput(
            f"{int(test.sum())} of {len(features)} images held out, directions {tuple(directions.shape)}.",
            "Hold out some images, all but two at most, and give directions in the space of the features.",
        )
    if not (features.isfinite().all() and directions.isfinite().all()):
        raise BadInput("some features or directions are not finite.")
    if labels is not None and bool((labels < 0).any()):
        raise BadInput("some labels are not known.", "Leave out these images, or give labels=None.")
    rested = untouched(head) if isinstance(head, nn.Module) else nullcontext()
    with rested, torch.inference_mode(False), torch.enable_grad():
        known = features.detach().clone()
        said = head(known).detach()
        right = said.argmax(1) if labels is None else labels.detach().to(known.device).clone()
        fit, rows = ~test.to(known.device), test.to(known.device)
        whole = (said.argmax(1) == right)[rows].cpu()
        truth = right[rows].cpu()

        def hits(vectors: Tensor) -> Tensor:
            scores = known @ F.normalize(vectors.detach().to(known)).T
            return (recovered(scores, known, right, fit, head, n_steps).argmax(1) == right)[rows].cpu()

        mine, draw = hits(directions), generator(seed)
        drawn = [hits(torch.randn(directions.shape, generator=draw)) for _ in range(n_random)]

    def eta(found: Tensor, at: Tensor) -> float:
        constant = float(truth[at].bincount().max()) / len(at)
        room = float(whole[at].double().mean()) - constant
        return (float(found[at].double().mean()) - constant) / room if room > 0 else torch.nan

    every, n = torch.arange(len(truth)), len(truth)
    spread = bootstrap(lambda at: eta(mine, at), n, seed, N_FOR_ERROR)
    finite = spread[spread.isfinite()]
    ours, full, constant = (Rate(int(count), n) for count in (mine.sum(), whole.sum(), truth.bincount().max()))
    random = torch.tensor([eta(found, every) for found in drawn], dtype=torch.float64)
    settings = {"n_steps": n_steps, "n_random": n_random, "seed": seed}
    error = float(finite.std()) if len(finite) > 1 else torch.nan
    return Completeness(eta(mine, every), error, ours, full, constant, random, settings)


def recovered(
    scores: Float[Tensor, "n c"],
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    fit: Bool[Tensor, " n"],
    head: Callable[[Tensor], Tensor],
    n_steps: int,
) -> Float[Tensor, "n k"]:
    """Logits from concept scores, brought back into the layer by the better of two affine maps."""
    wide = F.pad((scores - scores[fit].mean(0)) / scores[fit].std(0).clamp(min=1e-12), (0, 1), value=1.0)
    start = torch.linalg.lstsq(wide[fit].double().cpu(), features[fit].double().cpu(), driver="gelsd").solution
    back = start.to(features).clone(memory_format=torch.contiguous_format).requires_grad_()
    steps = torch.optim.LBFGS([back], max_iter=max(n_steps, 1), line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        value = F.cross_entropy(head(wide[fit] @ back), labels[fit])
        back.grad = torch.autograd.grad(value, back)[0].contiguous()
        return value.detach()

    if n_steps:
        steps.step(loss)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        both = [head(wide @ weights) for weights in (start.to(features), back.detach())]
        right = [int((logits[fit].argmax(1) == labels[fit]).sum()) for logits in both]
    return both[int(right[1] > right[0])]


@dataclass(frozen=True, repr=False)
class Alignment(Noun):
    """How nearly c directions point where they should, in a space of d dimensions.

    Args:
        cosine: with the planted direction, averaged over runs.
        stderr: over runs; 0 with one.
        p_value: of as large a cosine, of either sign, for a direction drawn evenly from all; of several runs, the
            mean direction is tried.
        n_dims: d.
    """

    cosine: Float[Tensor, " c"]
    stderr: Float[Tensor, " c"]
    p_value: Float[Tensor, " c"]
    n_dims: int
    chance: float = 0.0

    def __repr__(self) -> str:
        return (
            f"Alignment(cosine {float(self.cosine.mean()):.3f} over {len(self.cosine)} directions, chance 0, "
            f"size of random ones {self.chance_size:.3f})"
        )

    @property
    def chance_size(self) -> float:
        """Mean absolute cosine of a random direction: Γ(d/2) / (√π Γ((d+1)/2))."""
        return exp(lgamma(self.n_dims / 2) - lgamma((self.n_dims + 1) / 2)) / sqrt(pi)


def direction_cosine(
    directions: Float[Tensor, "c d"] | Float[Tensor, "r c d"], planted: Float[Tensor, "m d"]
) -> Alignment:
    """How nearly a concept vector points where the concept is known to lie.

        cos = v · q / (|v| |q|);   p from t = cos sqrt((d - 1) / (1 - cos²)), Student with d - 1 degrees of freedom

    The test is exact for a direction drawn evenly from all. Kim et al., "TCAV", ICML 2018, plant captions;
    `data.glass.planted_concept` plants the direction itself.

    Args:
        directions: one per concept, or those of r runs, whose spread is the error.
        planted: the true direction of each; its sign counts.
    """
    runs = (directions[None] if directions.ndim == 2 else directions).detach().cpu().double()
    goal = planted.detach().cpu().double()
    if runs.shape[1:] != goal.shape or not len(runs):
        raise BadInput(f"directions {tuple(directions.shape)} for planted ones {tuple(planted.shape)}.")
    lengths = torch.cat([runs.norm(dim=2), goal.norm(dim=1)[None]])
    if not bool(((lengths > 0) & lengths.isfinite()).all()):
        raise BadInput("a direction is zero or not finite.")
    unit, d = F.normalize(runs, dim=2), goal.shape[1]
    each = (unit * F.normalize(goal)).sum(2).clamp(-1, 1)
    error = each.std(0) / len(runs) ** 0.5 if len(runs) > 1 else torch.zeros(len(goal), dtype=torch.float64)
    mean = F.cosine_similarity(unit.mean(0), goal).clamp(-1, 1)
    chances = [tail(value, d) for value in mean.tolist()]
    return Alignment(each.mean(0), error, torch.tensor(chances, dtype=torch.float64), d)


def tail(cosine: float, d: int) -> float:
    """P(|cos| >= |cosine|) for a random direction of d dimensions."""
    if d == 1:
        return 1.0
    rest = 1 - cosine * cosine
    return two_sided(cosine * sqrt((d - 1) / rest), d - 1) if rest > 0 else 0.0
