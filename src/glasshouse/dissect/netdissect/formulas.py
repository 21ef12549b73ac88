"""Names of more than one word: what a unit marks, as a formula of concepts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glasshouse.core import BadInput, NotFound, Noun, Progress, registered, steps, watching
from glasshouse.core.labelled import Label, find_labels
from glasshouse.dissect.masking import thresholds
from glasshouse.dissect.netdissect.pixel_kinds import OPERATORS, PixelKinds, evaluate, pixel_kinds
from glasshouse.dissect.stored import Activations

Formula: TypeAlias = tuple[tuple[int, int], ...]
"""(operator, concept) pairs, read from left to right."""


@dataclass(frozen=True, repr=False)
class CompositionalLabels(Noun):
    """For each of u units the best formula of at most 1, 2, … l concepts.

    Args:
        labels: the concepts.
        thresholds: activation above which each unit marks a pixel.
        iou: of what the unit marks with what its formula says, in the images that it was chosen in.
        terms: operator (0 OR, 1 AND, 2 AND NOT) and concept of each term, read from left to right; -1 beyond the last.
    """

    layer: str
    units: Int[Tensor, " u"]
    labels: tuple[Label, ...]
    thresholds: Float[Tensor, " u"]
    iou: Float[Tensor, "u l"]
    terms: Int[Tensor, "u l l 2"]
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        n_terms = self.iou.shape[1]
        means = f"mean IoU {self.iou[:, 0].mean():.3f} of one concept, {self.iou[:, -1].mean():.3f} of up to {n_terms}"
        return f"CompositionalLabels({self.layer}, {len(self.units)} units, {means})"

    def formula(self, unit: int, length: int | None = None) -> str:
        """In words, with brackets from left to right; empty for a unit that never meets a concept.

        Args:
            length: the most concepts; None allows as many as were tried.
        """
        words, operators = "", list(OPERATORS)
        for place, (operator, concept) in enumerate(self._terms(unit, length)):
            before = f"({words})" if place > 1 else words
            name = self.labels[concept].name
            words = f"{before} {operators[operator]} {name}" if place else name
        return words

    @property
    def formulas(self) -> tuple[str, ...]:
        """Of all units, in their order."""
        return tuple(self.formula(unit) for unit in self.units.tolist())

    def masks(
        self, activations: Activations, unit: int, rows: Int[Tensor, " r"], *, length: int | None = None
    ) -> Bool[Tensor, "r a b"]:
        """The pixels for which a unit's formula is true."""
        numbers = [label.number for label in self.labels]
        return evaluate(self._terms(unit, length), activations.concepts(numbers, rows).transpose(0, 1))

    def iou_on(self, activations: Activations) -> Float[Tensor, "u l"]:
        """The same formulas and thresholds on other images, which they were not chosen in."""
        if not torch.equal(activations.units, self.units) or activations.layer != self.layer:
            raise BadInput(f"these are activations of other units than those of '{self.layer}' that were named.")
        numbers = [label.number for label in self.labels]
        return _overlaps(pixel_kinds(activations, self.thresholds, numbers), self.terms)

    def _terms(self, unit: int, length: int | None) -> Formula:
        found = (self.units == unit).nonzero()
        longest = self.iou.shape[1]
        if not len(found):
            raise NotFound(f"unit {unit} is not among the {len(self.units)} units of this result.")
        if length is not None and not 1 <= length <= longest:
            raise BadInput(f"no formulas of {length} concepts were tried.", f"There are 1 to {longest}.")
        return _formula(self.terms[int(found[0]), (length or longest) - 1])


@registered(
    "dissect",
    paper="Mu and Andreas, NeurIPS 2020",
    warning="the best of many formulas overlaps by chance as well; look at `iou_on` other images.",
    example={"length": 2},
)
def compositional_labels(
    activations: Activations,
    concepts: Sequence[str | int] | None = None,
    *,
    length: int = 3,
    beam: int = 10,
    level: float = 0.995,
    penalty: float = 1.0,
    progress: Progress | None = None,
) -> CompositionalLabels:
    """The formula of concepts, such as `(tree OR lamp) AND NOT red`, that is most nearly what a unit marks.

        L_u = argmax_L  penalty^(|L| - 1) IoU(M_u, L),    M_u = up(A_u) > T_u

    Mu and Andreas, "Compositional explanations of neurons", NeurIPS 2020, sec. 2. Formulas grow by AND, OR and AND
    NOT with one more concept; the best `beam` grow on. T_u lies above the share `level` of the unit's activations, maps
    are enlarged bilinearly to the label maps, and pixels of all images count together. With `beam` no smaller than the
    number of concepts, formulas of two are the best there are.

    Pixels that carry the same labels are counted once, with their number: the counts are exact, and a search costs the
    same for any number of images.

    Differs: of formulas that are true of the same pixels, only the first (shortest) one grows on.

    Args:
        concepts: by name or number; None takes all that are marked in these images.
        length: of the longest formulas, in concepts.
        penalty: factor for each concept after the first; the paper's is 1.
    """
    if length < 1 or beam < 1 or not 0 < penalty <= 1:
        raise BadInput(f"length={length} and beam={beam} must be 1 or more, penalty={penalty} above 0 and at most 1.")
    labels, above = find_labels(activations.labels, concepts), thresholds(activations, level)
    kinds = pixel_kinds(activations, above, [label.number for label in labels])
    used = kinds.marked.any(0) | (concepts is not None)
    if not used.any():
        raise BadInput("nothing is marked in these images.", "Read activations of data.with_labels(…).")
    labels = tuple(label for label, keep in zip(labels, used.tolist(), strict=True) if keep)
    kinds = PixelKinds(kinds.marked[:, used], kinds.count, kinds.hits)
    terms = torch.full((len(above), length, length, 2), -1)
    with watching(progress):
        for unit in steps(len(above)):
            for row, formula in enumerate(search(kinds, unit, length, beam, penalty)):
                terms[unit, row, : len(formula)] = torch.tensor(formula, dtype=torch.long).reshape(-1, 2)
    return CompositionalLabels(
        layer=activations.layer,
        units=activations.units,
        labels=labels,
        thresholds=above,
        iou=_overlaps(kinds, terms),
        terms=terms,
        settings={"length": length, "beam": beam, "level": level, "penalty": penalty},
    )


@dataclass(frozen=True, eq=False, repr=False)
class Front:
    """The formulas that grow on, the best first, and the kinds of pixels for which each is true."""

    formulas: tuple[Formula, ...]
    true: Bool[Tensor, "b s"]
    score: Float[Tensor, " b"]


def search(kinds: PixelKinds, unit: int, length: int, beam: int, penalty: float) -> list[Formula]:
    """The best formula of at most 1, 2, … `length` concepts for a unit, beginning with the one that is never true."""
    weight = torch.stack([kinds.count, kinds.hits[unit]]).double()
    concept = kinds.sums(weight, torch.ones(1, len(kinds.count), dtype=torch.bool))
    front = Front(((),), torch.zeros(1, len(kinds.count), dtype=torch.bool), weight.new_zeros(1))
    best: list[Formula] = []
    for n_terms in range(1, length + 1):
        both, own = kinds.sums(weight, front.true), (weight @ front.true.T.double())[:, :, None]
        area, shared = torch.stack([own + concept - both, both, own - both], 1)  # of OR, AND, AND NOT
        score = penalty ** (n_terms - 1) * shared / (weight[1].sum() + area - shared).clamp(min=1)
        front = _best(front, score, kinds, beam)
        best.append(front.formulas[0])
    return best


def _best(front: Front, score: Float[Tensor, "o b c"], kinds: PixelKinds, beam: int) -> Front:
    """Of all formulas so far and those that grew from them, the best that are not true of the same pixels."""
    operators, n_before = list(OPERATORS.values()), len(front.formulas)
    every = torch.cat([front.score, score.flatten()])
    kept: dict[bytes, tuple[Formula, Tensor, int]] = {}
    for place in every.argsort(descending=True, stable=True).tolist():
        if place < n_before:
            formula, true = front.formulas[place], front.true[place]
        else:
            rest, concept = divmod(place - n_before, score.shape[2])
            operator, parent = divmod(rest, n_before)
            formula = (*front.formulas[parent], (operator, concept))
            true = operators[operator](front.true[parent], kinds.marked[:, concept])
        kept.setdefault(true.numpy().tobytes(), (formula, true, place))
        if len(kept) == beam:
            break
    formulas, true, places = zip(*kept.values(), strict=True)
    return Front(formulas, torch.stack(true), every[list(places)])


def _formula(terms: Int[Tensor, "l 2"]) -> Formula:
    return tuple((operator, concept) for operator, concept in terms.tolist() if operator >= 0)


def _overlaps(kinds: PixelKinds, terms: Int[Tensor, "u l l 2"]) -> Float[Tensor, "u l"]:
    return torch.tensor([[kinds.iou(unit, _formula(row)) for row in rows] for unit, rows in enumerate(terms)])
