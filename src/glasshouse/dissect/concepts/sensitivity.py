"""Whether a class score rises when a layer moves along a concept, and whether random images would do the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Images, Model, Noun, borrow, generator, in_chunks, probe, registered, select
from glasshouse.core.gradient import gradient
from glasshouse.core.layers import unit_maps
from glasshouse.core.lift import checked_images
from glasshouse.dissect.concepts.classifiers import Solver, apply, balanced_accuracy, coordinates, fit
from glasshouse.dissect.concepts.directions import FEWEST, blocks, listed, marked, pooled
from glasshouse.dissect.concepts.significance import p_values, welch
from glasshouse.dissect.stored import Activations

Test: TypeAlias = Literal["images", "runs"]

AT_ONCE = 64  # classifiers fitted together


@dataclass(frozen=True, eq=False, repr=False)
class Runs(Noun):
    """What r runs gave for c concepts and k classes, or for random images in place of each concept's.

    Runs 2p and 2p + 1 learn from the two halves of the concept's images, against the same random ones.

    Args:
        scores: share of a class's images for which the derivative along the vector is above 0.
        slopes: mean of that derivative.
        accuracy: of the classifier on held-out images; 0.5 is chance.
    """

    scores: Float[Tensor, "c k r"]
    slopes: Float[Tensor, "c k r"]
    accuracy: Float[Tensor, "c r"]

    def __repr__(self) -> str:
        c, k, r = self.scores.shape
        return f"Runs({c} concepts × {k} classes, {r} runs)"


@dataclass(frozen=True, eq=False, repr=False)
class Tcav(Noun):
    """How k classes answer to c concepts at a layer, in runs against different random images.

    Args:
        concepts, classes: names of the concepts, numbers of the classes.
        random: with as many random images in place of each concept's, drawn anew in each run.
        n_images: of each concept in a run, and of the random ones it was told from.
        vectors: mean over the runs, of length 1.
        dropped: concepts with too few images.
    """

    layer: str
    concepts: tuple[str, ...]
    classes: tuple[int, ...]
    runs: Runs
    random: Runs
    n_images: Int[Tensor, " c"]
    vectors: Float[Tensor, "c d"]
    dropped: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        c, k, r = self.runs.scores.shape
        chance = int((~self.told).sum())
        left_out = f", {chance} of the concepts at chance" if chance else ""
        found = f"{int(self.significant().sum())} significant{left_out}"
        return f"Tcav({self.layer}, {c} concepts × {k} classes, {r} runs, {found})"

    @property
    def score(self) -> Float[Tensor, "c k"]:
        """The TCAV score: mean over the runs; 0.5 is chance."""
        return self.runs.scores.mean(2)

    @property
    def slope(self) -> Float[Tensor, "c k"]:
        """Mean derivative over the runs: change of the class score per unit of length along the concept."""
        return self.runs.slopes.mean(2)

    @property
    def told(self) -> Bool[Tensor, " c"]:
        """Concepts whose classifier is better, on average, than 95 % of those that tell random images apart."""
        return self.runs.accuracy.mean(1) > self.random.accuracy.quantile(0.95, dim=1)

    @property
    def error(self) -> Float[Tensor, "c k"]:
        """Standard error of `slope`: how much it would vary with other images of the concept, and with other runs.

            error² = mean_p d_p² / 4 + var_p(m_p) / n_pairs

        for the difference d_p and the mean m_p of the two runs of a pair, that is of the two halves of the concept's
        images. In the difference, the random images that both were told from cancel.
        """
        first, second = self.runs.slopes.double().unflatten(2, (-1, 2)).unbind(3)
        images = (first - second).square().mean(2) / 4
        return (images + ((first + second) / 2).var(2) / first.shape[2]).sqrt()

    @property
    def freedom(self) -> Float[Tensor, " c"]:
        """Degrees of freedom of `error`, which varies with the images of the concept and with how pairs halve them.

        1 / df = 1 / (n_images - 1) + 1 / n_pairs
        """
        return 1 / (1 / (self.n_images - 1.0) + 2 / self.runs.scores.shape[2])

    def p_values(self, test: Test = "images") -> Float[Tensor, "c k"]:
        """Two-sided p-values; NaN for concepts whose classifier is at chance, which say nothing.

        - "images": is `slope` 0? A t-test with `error` and `freedom`.
        - "runs": the published test: have the scores of the runs and those of random images the same mean? Welch's
          t-test. All runs share the concept's images, so that they are not independent, and with enough of them any
          images drawn at random are "significant".
        """
        if test == "runs":
            found = welch(self.runs.scores, self.random.scores)
        else:
            found = p_values(self.slope, self.error, self.freedom[:, None].expand(self.slope.shape))
        return torch.where(self.told[:, None], found, torch.nan)

    def significant(self, level: float = 0.05, test: Test = "images") -> Bool[Tensor, "c k"]:
        """Which p-values are below `level` divided by the number of hypotheses (Bonferroni)."""
        p = self.p_values(test)
        return p < level / max(1, int((~p.isnan()).sum()))


@dataclass(frozen=True)
class Directions:
    """What r classifiers learnt from some of s samples.

    Args:
        of_samples: each direction, of length 1, as a weighted sum of all samples.
    """

    of_samples: Float[Tensor, "r s"]
    accuracy: Float[Tensor, " r"]


@registered(
    "dissect",
    paper="Kim et al., ICML 2018",
    warning="a concept that occurs with the class in the data is found, whether or not it is what the network uses.",
)
def tcav(
    model: Model | nn.Module,
    inputs: Images,
    target: int | Sequence[int] | Int[Tensor, " n"],
    activations: Activations,
    concepts: Sequence[str | int] | None = None,
    *,
    positives: Mapping[str, Sequence[int]] | None = None,
    negatives: Sequence[int] | None = None,
    pooling: Literal["flat", "mean"] = "flat",
    solver: Solver = "logistic",
    l2: float | int = 0.01,
    n_runs: int = 50,
    n_images: int = 100,
    batch_size: int = 16,
    seed: int = 0,
) -> Tcav:
    """How often a class score rises along a concept: for each class, the share of its images.

        S_c,k(x) = ∂ logit_k / ∂ A(x) · v_c,   TCAV_c,k = |{x of class k : S_c,k(x) > 0}| / |{x of class k}|

    Kim et al., "Interpretability beyond feature attribution: quantitative testing with concept activation vectors
    (TCAV)", ICML 2018, eqs. 1-2 and §3.4. A vector v_c is the normal of a classifier of the concept's images against
    random ones, and is learnt anew in each run, against others.

    Derivatives are of the logit, which rises where a class gains; the first published code took them of the loss and
    counted where it falls. The gradients are computed once; all vectors of all runs are one matrix product with them.

    Differs: each run learns from one half of the concept's images and is tested on the other, which gives the error
    that the default test needs (see `Tcav.p_values`, which has the published test too); 50 runs rather than 500.

    Args:
        inputs: images of the classes, `target` the class of each (or one for all).
        activations: of the layer that is tested, for images with the concepts and for random ones.
        concepts: names or numbers of labels: an image shows the concept if one position of the layer has it.
        positives: concepts as lists of images (row numbers of `activations`) instead.
        negatives: rows of the random images; None takes all. A concept's own images are never among its random ones.
        pooling: "flat" tells where; "mean" averages over positions, and then moves all of them together.
        n_runs: an even number: two for each set of random images.
        n_images: images of a concept for a pair of runs, and as many random ones; fewer, where it has fewer.
        seed: of all draws of images.
    """
    labels, rows = listed(activations, concepts, positives)
    n = len(activations)
    has = torch.cat([marked(activations, labels, rows, 1, block) for block in blocks(n)], 1)
    pool = torch.zeros(n, dtype=torch.bool)
    pool[torch.arange(n) if negatives is None else torch.tensor(list(negatives)).long()] = True
    sizes = torch.minimum(has.sum(1), (pool & ~has).sum(1)).clamp(max=min(n_images, int(pool.sum()) // 2))
    sizes -= sizes % 2
    kept = (sizes >= FEWEST).nonzero()[:, 0].tolist()
    if not kept:
        raise BadInput(f"none of {len(labels)} concepts has {FEWEST} images with it and as many random ones.")
    if n_runs < 4 or n_runs % 2:
        raise BadInput(f"n_runs={n_runs}: runs come in pairs, and it takes two to see how much they vary.", "Use 50.")
    random = generator(seed)
    draws = [draw(has[c], pool, int(sizes[c]), n_runs // 2, random) for c in kept]
    shown = torch.cat([drawn.flatten() for drawn in draws]).unique()
    x = torch.cat([pooled(activations.rows(shown[block]), pooling) for block in blocks(len(shown))]).double()
    classes = torch.as_tensor(target).expand(len(inputs)) if isinstance(target, int) else torch.as_tensor(target)
    if classes.shape != (len(inputs),):
        raise BadInput(f"{classes.numel()} classes for {len(inputs)} images.", "Give one each, or one for all.")
    slopes = pooled_gradients(model, inputs, classes, activations, pooling, batch_size)
    learn = partial(learnt, x @ x.T, solver=solver, l2=l2)
    found = [[learn(torch.searchsorted(shown, side)) for side in drawn] for drawn in draws]
    each = classes.unique()
    count = partial(counted, x @ slopes.T, classes == each[:, None])
    return Tcav(
        activations.layer,
        tuple(labels[c].name for c in kept),
        tuple(each.tolist()),
        count([concept for concept, _ in found]),
        count([chance for _, chance in found]),
        n_images=sizes[kept],
        vectors=F.normalize(torch.stack([concept.of_samples.mean(0) for concept, _ in found]) @ x).float(),
        dropped=tuple(label.name for c, label in enumerate(labels) if c not in kept),
        settings={"pooling": pooling, "solver": solver, "l2": l2, "n_runs": n_runs, "seed": seed},
    )


def draw(
    has: Bool[Tensor, " n"], pool: Bool[Tensor, " n"], size: int, n_pairs: int, random: torch.Generator
) -> Int[Tensor, "two r m"]:
    """Images of each run: for the concept and for a random set, `size` with it and then `size` without.

    A run learns from the first half of either; the next run from the other half of those with the concept.
    """

    def some(rows: Tensor, count: int) -> Tensor:
        return torch.stack([rows[torch.randperm(len(rows), generator=random)[:count]] for _ in range(n_pairs)])

    mine, others, all_ = (mask.nonzero()[:, 0] for mask in (has, pool & ~has, pool))
    drawn = torch.stack([torch.cat([some(mine, size), some(others, size)], 1), some(all_, 2 * size)])
    first, second, rest = drawn.split([size // 2, size // 2, size], 2)
    return torch.stack([drawn, torch.cat([second, first, rest], 2)], 2).flatten(1, 2)


def pooled_gradients(
    model: Model | nn.Module,
    inputs: Images,
    classes: Int[Tensor, " n"],
    activations: Activations,
    pooling: Literal["flat", "mean"],
    batch_size: int,
) -> Float[Tensor, "n d"]:
    """Gradients of each image's logit of its class with respect to the layer, in the form of its samples.

    Where samples are means over positions, it is the change as all positions move alike: the sum of their gradients.
    """
    images, layer = checked_images(inputs), activations.layer
    with borrow(model, images, [layer]) as network:
        place = unit_maps(network, images, layer)
        if place.grid != tuple(activations.maps.shape[2:]):
            raise BadInput(
                f"these images give layer '{layer}' a grid of {place.grid}, those of the concepts "
                f"{tuple(activations.maps.shape[2:])}.",
                "Bring all of them to one size.",
            )

        def run(rows: Int[Tensor, " r"]) -> Float[Tensor, "r d"]:
            with probe(network, layer) as seen:
                output = network(images[rows].detach().requires_grad_())
            score = select(output, classes.to(rows.device)[rows])
            slope = place.maps(gradient(score, seen[layer])).detach().cpu()[:, activations.units]
            return slope.flatten(1) if pooling == "flat" else slope.sum((2, 3))

        parts = [part for _, part in in_chunks(run, len(images), batch_size, images.device)]
    return torch.cat(parts).double()


def learnt(gram: Float[Tensor, "s s"], index: Int[Tensor, "r m"], solver: Solver, l2: float | int) -> Directions:
    """Tell the first half of each run's samples from the second; the second half of either is held out."""
    at, size = torch.arange(index.shape[1]), index.shape[1] // 2
    positive, held = at < size, at % size >= size // 2
    parts = [learnt_together(gram, rows, positive, held, solver, l2) for rows in index.split(AT_ONCE)]
    whole = torch.zeros(len(index), len(gram), dtype=gram.dtype)
    whole.scatter_(1, index, torch.cat([weights for weights, _ in parts]))
    return Directions(whole, torch.cat([accuracy for _, accuracy in parts]))


def learnt_together(
    gram: Float[Tensor, "s s"],
    index: Int[Tensor, "r m"],
    positive: Bool[Tensor, " m"],
    held: Bool[Tensor, " m"],
    solver: Solver,
    l2: float | int,
) -> tuple[Float[Tensor, "r m"], Float[Tensor, " r"]]:
    """Directions as weighted sums of each run's own samples, and accuracies: in as many dimensions as samples."""
    z, back = coordinates(gram[index[:, :, None], index[:, None]])
    positive, held = positive.expand(len(index), -1), held.expand(len(index), -1)
    w, bias = fit(z, positive, ~held, solver, l2)
    length = w.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        raise BadInput("the layer gives the same for all images of a run: nothing tells them apart.")
    weights = (back @ (w / length)[:, :, None])[:, :, 0]
    return weights, balanced_accuracy(apply(z, w) + bias[:, None], positive, held)


def counted(derivatives: Float[Tensor, "s n"], of_class: Bool[Tensor, "k n"], found: Sequence[Directions]) -> Runs:
    """Scores of all runs at once, from the derivatives along single samples."""
    weights = torch.stack([directions.of_samples for directions in found])
    along, share = weights @ derivatives, of_class.double().T / of_class.sum(1)
    scores, slopes = ((x @ share).transpose(1, 2).float() for x in ((along > 0).double(), along))
    return Runs(scores, slopes, torch.stack([directions.accuracy for directions in found]).float())
