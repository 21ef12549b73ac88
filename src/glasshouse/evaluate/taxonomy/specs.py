"""The words of the taxonomy, and what is written down of a method or a metric beside what its `Info` says."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from glasshouse.core import Claim
from glasshouse.core.result import Direction

Family: TypeAlias = Literal[
    "processing.linear_proxy",
    "processing.decision_tree",
    "processing.rule_extraction",
    "processing.salience",
    "representation.layer",
    "representation.unit",
    "representation.vector",
    "producing.attention",
    "producing.disentangled",
    "producing.generated",
    "ext.generator_unit",
    "ext.generator_direction",
    "ext.generator_inversion",
    "ext.training_dynamics",
    "ext.circuit",
    "ext.attack",
]
"""What is explained: how an input is processed, what is represented, or an explanation that the network produces by
itself (Gilpin et al., DSAA 2018); `ext` is what came after that paper."""

MEANINGS: dict[str, str] = {
    "processing.linear_proxy": "a linear model that answers like the network",
    "processing.decision_tree": "a tree that answers like the network",
    "processing.rule_extraction": "rules that answer like the network",
    "processing.salience": "what in this input led to this answer",
    "representation.layer": "what a layer holds",
    "representation.unit": "what a unit responds to, and what it is needed for",
    "representation.vector": "what a direction in a layer stands for",
    "producing.attention": "where the network says that it looks",
    "producing.disentangled": "factors that the network keeps apart",
    "producing.generated": "reasons that the network gives",
    "ext.generator_unit": "what a unit of a generator draws",
    "ext.generator_direction": "what a direction of a latent space changes",
    "ext.generator_inversion": "the latent that an image comes from",
    "ext.training_dynamics": "where training leads",
    "ext.circuit": "how units are wired",
    "ext.attack": "what a small change does to an answer, and to its explanation",
}

Asks: TypeAlias = Literal["why_output", "what_encoded", "how_trained"]
Scope: TypeAlias = Literal["instance", "class", "dataset", "model"]
Access: TypeAlias = Literal["forward", "gradient", "activations", "weights", "train"]
Architecture: TypeAlias = Literal["cnn", "vit", "gan", "vae", "any"]
Form: TypeAlias = Literal[
    "heatmap",
    "mask",
    "ranked_units",
    "direction",
    "image",
    "tree",
    "graph",
    "rules",
    "prototype",
    "text",
    "curve",
    "score",
]
Unit: TypeAlias = Literal["pixel", "region", "part", "neuron", "layer", "concept", "factor"]

Kind: TypeAlias = Literal["E1", "E2", "E3", "E4", "size"]
"""Gilpin et al., sec. IV. E1: complete with respect to the model. E2: good at another task whose answer is known.
E3: tells a biased model from one that is not. E4: judged by people. "size" is the other side of their trade-off: how
much there is to take in."""

KINDS: dict[str, str] = {
    "E1": "is it true of the model?",
    "E2": "is it right in a task whose answer is known?",
    "E3": "does it give a biased model away?",
    "E4": "does it help people?",
    "size": "how much is there to take in? (never alone: a dot in the centre wins)",
}

Requirement: TypeAlias = Literal["masks", "labels", "dataset", "truth", "training", "attack", "human"]
Aspect: TypeAlias = Literal[
    "faithfulness", "localisation", "complexity", "sanity", "axioms", "robustness", "inside", "human"
]


class Control(NamedTuple):
    """A metric whose verdict on a method is known beforehand; one that says otherwise is broken."""

    metric: str
    outcome: Literal["passes", "fails"]


@dataclass(frozen=True)
class MethodSpec:
    """Where a method stands. What it costs, claims and cites is in its `Info`; what is None here is told by both.

    Args:
        unit: what an explanation is made of.
        access: what it needs of a model; None takes it from the cost and the arguments.
        models: which networks it is for; None takes it from `Info.needs`.
        effort: what it costs in words, where its `Info` tells no passes of one image.
        evaluations: metrics that apply by name, besides those for its form and family.
        controls: metrics that it must pass, or fail.
        peers: the same in other libraries, `package.module.name`.
        cites: what else should be read about it.
    """

    family: Family
    form: Form
    unit: Unit
    question: Asks | None = None
    scope: Scope | None = None
    access: frozenset[Access] | None = None
    models: frozenset[Architecture] | None = None
    effort: str = ""
    evaluations: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    peers: tuple[str, ...] = ()
    cites: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricSpec:
    """What a metric asks, and of what it can be asked.

    Args:
        question: what it answers, in words.
        low, high: its range; None where there is no bound.
        chance: what an explanation without information scores: a number, in words where it depends on the case,
            None where nobody knows.
        needs: what must be given besides a model, images and their explanation.
        applies_to: forms of explanation.
        families: patterns of families; empty for a metric that methods name themselves.
        claim: what a method must promise for the question to make sense.
        axiomatic: whether it follows from an axiom, and not from an experiment.
        given_by: the method whose result holds the number, and its name there; empty for a metric of `evaluate`.
    """

    question: str
    kind: Kind
    aspect: Aspect
    direction: Direction
    low: float | int | None = None
    high: float | int | None = None
    chance: float | int | str | None = None
    needs: frozenset[Requirement] = frozenset()
    applies_to: frozenset[Form] = frozenset({"heatmap", "mask"})
    families: tuple[str, ...] = ("processing.*", "producing.attention")
    claim: Claim | None = None
    axiomatic: bool = False
    caveats: tuple[str, ...] = ()
    given_by: tuple[str, str] | None = None
