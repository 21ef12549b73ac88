"""Numbers that results of other folders carry, which say how far each can be believed."""

from dataclasses import replace

from glasshouse.evaluate.taxonomy.specs import Form, MetricSpec, Requirement

DATA: frozenset[Requirement] = frozenset({"dataset"})
LABELS: frozenset[Requirement] = frozenset({"dataset", "labels"})
LABEL_MAPS: frozenset[Requirement] = frozenset({"dataset", "masks"})
TRUTH: frozenset[Requirement] = frozenset({"truth"})
OF_A_UNIT: frozenset[Form] = frozenset({"ranked_units", "image", "curve", "mask", "rules"})
SCORE: frozenset[Form] = frozenset({"score"})
IMAGE: frozenset[Form] = frozenset({"image"})
NAMED = ()

INSIDE = MetricSpec("", "E1", "inside", "up", applies_to=IMAGE, families=NAMED)
HELD_OUT = replace(INSIDE, kind="E2", needs=LABELS, applies_to=frozenset({"direction", "score"}))

READINGS: dict[str, MetricSpec] = {
    "excess_activation": replace(
        INSIDE,
        question="does the picture excite the network more than any real image?",
        chance=0.0,
        needs=DATA,
        caveats=("a picture that excites a unit need not look like what excites it in images",),
        given_by=("visualize.render", "excess"),
    ),
    "reconstruction_error": replace(
        INSIDE,
        question="how far is the rebuilt image from the image, in units of that to another?",
        kind="E2",
        direction="down",
        low=0,
        chance=1.0,
        given_by=("visualize.invert", "error"),
    ),
    "prior_error": replace(
        INSIDE,
        question="how much of the images' variance is lost?",
        kind="E2",
        direction="down",
        low=0,
        chance=1.0,
        needs=DATA,
        given_by=("visualize.train_prior", "error"),
    ),
    "ablation_damage": replace(
        INSIDE,
        question="which classes are lost without the unit?",
        low=-1,
        high=1,
        chance="the damage of a random unit",
        needs=LABELS,
        applies_to=OF_A_UNIT,
        families=("representation.unit",),
        given_by=("dissect.ablate_units", "damage"),
    ),
    "concept_iou": replace(
        INSIDE,
        question="does the unit mark the pixels of its concept?",
        kind="E2",
        low=0,
        high=1,
        chance="the IoU with the labels of other images",
        needs=LABEL_MAPS,
        applies_to=OF_A_UNIT,
        families=("representation.unit",),
        caveats=("it knows the concepts of the data set only",),
        given_by=("dissect.units", "iou"),
    ),
    "label_chance": replace(
        INSIDE,
        question="how many units would be labelled by position alone?",
        kind="E2",
        direction="down",
        low=0,
        high=1,
        needs=LABEL_MAPS,
        applies_to=OF_A_UNIT,
        given_by=("dissect.units", "false_positive_rate"),
    ),
    "axis_alignment": replace(
        INSIDE,
        question="are units special among directions?",
        kind="E2",
        high=1,
        chance=0.0,
        needs=LABEL_MAPS,
        applies_to=frozenset({"ranked_units", "rules"}),
        families=("representation.unit",),
        given_by=("dissect.rotation_test", "fall"),
    ),
    "readout_accuracy": replace(
        HELD_OUT,
        question="is the concept told on images that were held out?",
        low=0,
        high=1,
        chance=0.5,
        families=("representation.vector",),
        given_by=("dissect.concept_vectors", "accuracy"),
    ),
    "random_concepts": replace(
        HELD_OUT,
        question="is the concept told better than random images are?",
        kind="E1",
        chance="as for random images",
        given_by=("dissect.tcav", "told"),
    ),
    "rebuilding_loss": replace(
        HELD_OUT,
        question="how much of the activation do the groups miss?",
        kind="E1",
        direction="down",
        low=0,
        needs=DATA,
        given_by=("dissect.neuron_groups", "error"),
    ),
    "explained_variance": replace(
        HELD_OUT,
        question="how much of the activation do the atoms explain?",
        kind="E1",
        high=1,
        chance=0.0,
        needs=DATA,
        given_by=("dissect.sparse_dictionary", "r2"),
    ),
    "residual_length": replace(
        HELD_OUT,
        question="how much of the class vector is no concept's?",
        kind="E1",
        direction="down",
        low=0,
        high=1,
        given_by=("dissect.decompose", "errors"),
    ),
    "edges_rewritten": replace(
        INSIDE,
        question="does the network behave as told when a wire is cut?",
        direction="diagnostic",
        applies_to=frozenset({"graph"}),
        families=("ext.circuit",),
        given_by=("dissect.edit_circuit", "module"),
    ),
    "tuning_peak": replace(
        INSIDE,
        question="does the unit answer most where its weights say?",
        kind="E2",
        direction="diagnostic",
        needs=TRUTH,
        applies_to=frozenset({"graph", "curve"}),
        families=("representation.unit", "ext.circuit"),
        given_by=("dissect.tuning_curves", "preferred"),
    ),
    "relevance_gap": replace(
        INSIDE,
        question="is all relevance accounted for?",
        direction="diagnostic",
        applies_to=SCORE,
        families=("processing.salience",),
        axiomatic=True,
        given_by=("attribute.conservation", "gap"),
    ),
    "attack_success": replace(
        INSIDE, question="did the answer change?", low=0, high=1, needs=TRUTH, given_by=("diagnose.fgsm", "success")
    ),
    "attack_detection": replace(
        INSIDE,
        question="do maps give attacked images away?",
        kind="E2",
        low=0,
        high=1,
        chance=0.5,
        needs=DATA,
        applies_to=SCORE,
        given_by=("diagnose.detect_adversarial", "accuracy"),
    ),
    "answers_recovered": replace(
        INSIDE,
        question="is the old answer back without what explains the wrong one?",
        kind="E2",
        low=0,
        high=1,
        chance="the same with masks of other images",
        needs=DATA,
        applies_to=SCORE,
        given_by=("diagnose.recover_labels", "top"),
    ),
}
