"""What the functions of `evaluate` ask that judge units, concepts, surrogates, prototypes and readers, not maps."""

from dataclasses import replace

from glasshouse.evaluate.taxonomy.reading import DATA, INSIDE, LABEL_MAPS, LABELS, OF_A_UNIT, TRUTH
from glasshouse.evaluate.taxonomy.specs import Form, MetricSpec, Requirement

HUMAN: frozenset[Requirement] = frozenset({"human"})
LANDMARKS: frozenset[Requirement] = frozenset({"dataset", "truth"})
VECTOR: frozenset[Form] = frozenset({"direction"})
STAND_IN: frozenset[Form] = frozenset({"tree", "rules", "graph", "direction"})
PARTS: frozenset[Form] = frozenset({"ranked_units"})
LIKENESS: frozenset[Form] = frozenset({"prototype"})
SHOWN: frozenset[Form] = frozenset({"heatmap", "mask"})

OF_UNITS = replace(INSIDE, applies_to=OF_A_UNIT, families=("representation.unit",), needs=LABEL_MAPS)
OF_VECTORS = replace(INSIDE, applies_to=VECTOR, families=("representation.vector",))
OF_PARTS = replace(
    INSIDE,
    kind="E2",
    applies_to=PARTS,
    families=("representation.unit", "producing.disentangled"),
    needs=LANDMARKS,
    chance="the same with the landmarks of other images",
)
OF_PROTOTYPES = replace(
    OF_PARTS, applies_to=LIKENESS, families=("producing.generated",), low=0, high=1, chance="that of random places"
)
RETRAINED = MetricSpec(
    "",
    "E1",
    "faithfulness",
    "up",
    -1,
    1,
    0.0,
    frozenset({"dataset", "labels", "training"}),
    caveats=("it is about what can be learnt, and the shape of what was removed may tell the class",),
)
READERS = MetricSpec(
    "",
    "E4",
    "human",
    "up",
    applies_to=SHOWN,
    caveats=("people trust maps that look right; ask for the answer, not for the impression",),
)

JUDGEMENTS: dict[str, MetricSpec] = {
    "surrogate_fidelity": replace(
        INSIDE,
        question="on how many images does the surrogate say what the model says?",
        low=0,
        high=1,
        chance="the share of the commonest answer",
        needs=DATA,
        applies_to=STAND_IN,
        families=("processing.linear_proxy", "processing.decision_tree", "processing.rule_extraction"),
    ),
    "activation_percentile": replace(
        INSIDE, question="does the picture excite the unit more than almost any image?", low=0, high=1, needs=DATA
    ),
    "forced_choice": replace(
        INSIDE,
        question="do pictures of the unit tell which of two images excites it?",
        kind="E2",
        low=0,
        high=1,
        chance=0.5,
        needs=DATA,
        applies_to=frozenset({"image"}),
        families=("representation.unit",),
    ),
    "detection_accuracy": replace(
        OF_UNITS,
        question="does the unit detect its concept in held-out images?",
        kind="E2",
        low=0,
        high=1,
        chance=0.5,
    ),
    "iou_null": replace(
        OF_UNITS,
        question="would labels of other images overlap as much?",
        kind="E2",
        direction="down",
        low=0,
        high=1,
    ),
    "ablation_specificity": replace(
        OF_UNITS,
        question="does a class lose most without the units that prefer it?",
        low=-1,
        high=1,
        chance=0.0,
        needs=LABELS,
    ),
    "concept_completeness": replace(
        OF_VECTORS,
        question="how much accuracy is left if concepts are all that is known?",
        high=1,
        chance="that of random directions",
        needs=LABELS,
    ),
    "direction_cosine": replace(
        OF_VECTORS,
        question="does the vector point where the concept lies?",
        kind="E2",
        low=-1,
        high=1,
        chance=0.0,
        needs=TRUTH,
    ),
    "location_instability": replace(
        OF_PARTS, question="does the filter keep its place on the object?", direction="down"
    ),
    "part_interpretability": replace(OF_PARTS, question="does the filter mark one part?", low=0, high=1),
    "part_localisation": replace(
        OF_PARTS,
        question="how far from the part is it looked for?",
        direction="down",
        low=0,
        applies_to=frozenset({"graph", "rules"}),
        families=("processing.rule_extraction",),
    ),
    "prototype_purity": replace(OF_PROTOTYPES, question="do its best patches show one part?"),
    "prototype_consistency": replace(OF_PROTOTYPES, question="does it lie on the same part in every image?"),
    "prototype_stability": replace(OF_PROTOTYPES, question="does it stay there under noise?"),
    "roar": replace(
        RETRAINED,
        question="does a network learn worse without the marked pixels than without random ones?",
        direction="down",
    ),
    "kar": replace(RETRAINED, question="does it learn better from the marked pixels alone?"),
    "bias_detection": MetricSpec(
        "do maps tell models that go by a shortcut from those that do not?",
        "E3",
        "sanity",
        "up",
        0,
        1,
        0.5,
        frozenset({"truth", "training"}),
        caveats=("it knows the shortcuts that were planted",),
    ),
    "simulatability": replace(
        READERS,
        question="does a student who sees the maps predict the model better?",
        low=-1,
        high=1,
        chance=0.0,
        needs=DATA,
    ),
    "score_study": replace(
        READERS,
        question="are people right more often than by guessing?",
        low=0,
        high=1,
        chance="1/4 or 1/2, by the kind of question",
        needs=HUMAN,
    ),
}
