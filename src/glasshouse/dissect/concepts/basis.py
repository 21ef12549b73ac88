"""What a class looks for, as a sum of concepts: class vectors taken apart, and with them every logit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, LayerGeometry, Model, NotFound, Noun, borrow, in_chunks, probe, registered
from glasshouse.core.gradient import gradient, keeping_graphs
from glasshouse.core.layers import unit_maps
from glasshouse.core.lift import checked_images
from glasshouse.core.target import Target, logits, resolve
from glasshouse.dissect.concepts.cones import Choice, gram_schmidt, greedy_nnls
from glasshouse.dissect.concepts.directions import ConceptVectors
from glasshouse.dissect.concepts.shares import ConceptSplit, concept_maps

Fitting: TypeAlias = Literal["nnls", "gram_schmidt"]

SAME = 1e-4  # share of the largest value by which numbers that ought to be equal may differ
AT_ONCE = 128  # classes decomposed together


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Noun):
    """The vectors of k classes as sums of s concepts each, and what is left of them.

        w_k / |w_k| = sum_i s_ki q_i + r_k

    Args:
        concepts: names of all concepts that there were.
        classes: numbers of the classes.
        weights, bias: a class's logit is `weights · a + bias` for the means a of the units over positions.
        exact: whether it is. If not, weights are mean gradients, and logits have a rest beside (see `explain`).
        basis: the vectors q of all concepts: centred over the units, of length 1.
        chosen: rows of the concepts of each class, in the order of choice; -1 where nothing was left that helps.
        coefficients: s, of the chosen ones.
        errors: length of what is left after each choice; the class vector itself has length 1.
    """

    layer: str
    units: Int[Tensor, " u"]
    concepts: tuple[str, ...]
    classes: tuple[int, ...]
    weights: Float[Tensor, "k u"]
    bias: Float[Tensor, " k"]
    exact: bool
    basis: Float[Tensor, "c u"]
    chosen: Int[Tensor, "k s"]
    coefficients: Float[Tensor, "k s"]
    errors: Float[Tensor, "k s"]
    class_names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        k, s = self.chosen.shape
        left = f"{float(self.errors[:, -1].square().mean()):.0%} of the squared length left"
        how = "" if self.exact else ", by mean gradients"
        return f"Decomposition({self.layer}, {k} classes into {s} of {len(self.concepts)} concepts, {left}{how})"

    @property
    def residual(self) -> Float[Tensor, "k u"]:
        """What is left of the class vectors of length 1."""
        goal, chosen = F.normalize(self.weights), self.chosen.clamp(min=0)
        return goal - torch.einsum("ks,ksu->ku", self.coefficients, self.basis[chosen])

    def recipe(self, target: int) -> dict[str, float]:
        """Concepts and coefficients of a class, the largest first."""
        row = self.row(target)
        pairs = zip(self.chosen[row].tolist(), self.coefficients[row].tolist(), strict=True)
        return {self.concepts[c]: s for c, s in sorted(pairs, key=lambda pair: -pair[1]) if s}

    def row(self, target: int) -> int:
        """Where a class stands."""
        if target not in self.classes:
            raise NotFound(f"class {target} was not decomposed.", f"These were: {', '.join(map(str, self.classes))}.")
        return self.classes.index(target)

    def explain(self, model: Model | nn.Module, inputs: Images, target: Target = None) -> ConceptSplit:
        """What each concept contributed to the logit of each image, and where.

            contribution_i = |w| s_i q_i · a,   map_i(p) = |w| s_i q_i · A(p),   a = mean_p A(p)

        Contributions, residual, bias and rest sum to the logit; maps sum to the class activation map `w · A(p)`.

        Args:
            target: None takes each image's top class.
        """
        images = checked_images(inputs)
        with borrow(model, images, [self.layer]) as network, torch.no_grad():
            place = unit_maps(network, images, self.layer)
            output, maps = activated(network, images, place)
        wanted = resolve(target, output)
        rows = torch.tensor([self.row(number) for number in wanted.tolist()])
        chosen, logit = self.chosen[rows], output.gather(1, wanted[:, None])[:, 0].cpu().float()
        parts = self.coefficients[rows][:, :, None] * self.basis[chosen.clamp(min=0)]
        found = concept_maps(maps.cpu().float()[:, self.units], self.weights[rows], parts)
        contributions, bias = found.mean((2, 3)), self.bias[rows]
        rest = (logit.double() - bias - contributions.double().sum(1)).float()
        return ConceptSplit(
            self.layer,
            tuple(wanted.tolist()),
            tuple(tuple(self.concepts[c] if c >= 0 else "" for c in row) for row in chosen.tolist()),
            contributions[:, :-1],
            contributions[:, -1],
            bias,
            rest,
            logit,
            found,
            place.image,
            self.class_names,
        )


@registered(
    "dissect",
    paper="Zhou et al., ECCV 2018",
    warning="what is not among the concepts cannot be found, and goes into the residual.",
)
def decompose(
    model: Model | nn.Module,
    inputs: Images,
    vectors: ConceptVectors,
    *,
    classes: Sequence[int] | None = None,
    n_concepts: int = 7,
    solver: Fitting = "nnls",
    batch_size: int = 16,
) -> Decomposition:
    """Each class vector as a sum of few concepts, added one by one so that least is left.

        min_{c, s >= 0} | w_k/|w_k| - [Q_S q_c] s |,   q = (v - mean(v)) / |v - mean(v)|

    Zhou et al., "Interpretable basis decomposition for visual explanation", ECCV 2018, §3.2. The class vector w_k is
    the gradient of a logit with respect to a unit, summed over positions. In a network that ends in average pooling
    and one linear layer that is the row of the linear layer, the same for all images, and logits are split exactly;
    whether it is so is measured on `inputs`. Elsewhere it is the mean over `inputs`, the form of Grad-CAM.

    Differs: the published code does not enforce nonnegative coefficients; `solver="gram_schmidt"` does as it does.

    Args:
        inputs: two images or more; where `exact` comes out false, images of the classes.
        vectors: with one number per unit: `pooling` "positions" or "mean".
        classes: None takes all.
        n_concepts: at most as many in each sum.
    """
    images = checked_images(inputs)
    if vectors.vectors.shape[1] != len(vectors.units):
        raise BadInput(
            "these concept vectors have a number for every position.", "Learn them with pooling='positions'."
        )
    if len(images) < 2:
        raise BadInput("one image cannot show whether a network is linear.", "Give two or more.")
    if n_concepts < 1:
        raise BadInput(f"n_concepts={n_concepts} leaves nothing to decompose into.", "Use 7.")
    weights, bias, exact, numbers = class_vectors(model, images, vectors, classes, batch_size)
    centred = vectors.vectors.double() - vectors.vectors.double().mean(1, keepdim=True)
    basis, goals = F.normalize(centred), F.normalize(weights.double())
    find = greedy_nnls if solver == "nnls" else gram_schmidt
    if solver not in ("nnls", "gram_schmidt"):
        raise BadInput(f"solver '{solver}' is unknown.", "Use 'nnls' or 'gram_schmidt'.")
    n = min(n_concepts, len(basis))
    choice = joined([find(part, basis, n) for part in goals.split(AT_ONCE)])
    return Decomposition(
        vectors.layer,
        vectors.units,
        tuple(label.name for label in vectors.concepts),
        numbers,
        weights,
        bias,
        exact,
        basis.float(),
        choice.chosen,
        choice.coefficients.float(),
        choice.errors.float(),
        class_names=model.class_names if isinstance(model, Model) else (),
        settings={"n_concepts": n_concepts, "solver": solver},
    )


def joined(parts: Sequence[Choice]) -> Choice:
    """Choices for some goals after the other, as one."""
    names = ("chosen", "coefficients", "errors")
    return Choice(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def class_vectors(
    model: Model | nn.Module,
    images: Images,
    vectors: ConceptVectors,
    classes: Sequence[int] | None,
    batch_size: int,
) -> tuple[Float[Tensor, "k u"], Float[Tensor, " k"], bool, tuple[int, ...]]:
    """Weights and biases of the classes at the layer, whether logits are exactly these, and the classes."""
    with borrow(model, images, [vectors.layer]) as network:
        place = unit_maps(network, images, vectors.layer)
        known = logits(network(images[:1])).shape[1]
        wanted = tuple(range(known) if classes is None else classes)
        if not wanted or not all(0 <= number < known for number in wanted):
            raise BadInput(f"classes {wanted[:5]} are not all among the {known} of this model.")

        def look(rows: Int[Tensor, " r"]) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                output, maps = activated(network, images[rows], place)
            return output[:, wanted].double().cpu(), maps.mean((2, 3)).double().cpu()[:, vectors.units]

        def slope(rows: Int[Tensor, " r"]) -> tuple[Tensor, Tensor]:
            return slopes(network, images[rows], place, wanted)

        def whole(run: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            parts = [part for _, part in in_chunks(run, len(images), batch_size, images.device)]
            first, second = zip(*parts, strict=True)
            return torch.cat(first), torch.cat(second)

        output, mean = whole(look)
        weights, unevenness = slope(torch.arange(1, device=images.device))
        weights = weights[0, :, vectors.units]
        rest = output - mean @ weights.T
        close = (rest - rest[:1]).abs().max() <= SAME * output.abs().max()
        exact = bool(close and unevenness.max() <= SAME * weights.abs().max())
        if not exact:
            weights = whole(slope)[0][:, :, vectors.units].mean(0)
            rest = output - mean @ weights.T
    return weights.float(), rest.mean(0).float(), exact, wanted


def activated(network: nn.Module, images: Images, place: LayerGeometry) -> tuple[Tensor, Tensor]:
    """Logits, and maps `n u i j` of the layer."""
    with probe(network, place.name) as seen:
        output = logits(network(images))
    return output, place.maps(seen[place.name])


def slopes(
    network: nn.Module, images: Images, place: LayerGeometry, wanted: Sequence[int]
) -> tuple[Float[Tensor, "n k u"], Float[Tensor, "n k"]]:
    """Gradients of the logits, summed over positions, and how far they are from the same at all of these (times P)."""
    with probe(network, place.name) as seen, keeping_graphs():
        output = logits(network(images.detach().requires_grad_()))
        found, uneven = list[Tensor](), list[Tensor]()
        for number in wanted:
            maps = place.maps(gradient(output[:, number], seen[place.name])).flatten(2).double().cpu()
            found.append(maps.sum(2))
            uneven.append((maps - maps.mean(2, keepdim=True)).abs().amax((1, 2)) * maps.shape[2])
    return torch.stack(found, 1), torch.stack(uneven, 1)
