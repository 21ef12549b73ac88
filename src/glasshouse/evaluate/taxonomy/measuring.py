"""What the metrics of maps ask. The names are those of `evaluate`; a spec may be there before its metric."""

from dataclasses import replace

from glasshouse.evaluate.taxonomy.specs import MetricSpec, Requirement

MASKS: frozenset[Requirement] = frozenset({"masks"})
SHARE = "the mask's share of the image"
IOU = "that of a random map"
OFF = "removed pixels make images unlike any that the model was trained on; try two baselines"
HUMAN = "agreement with a mask drawn by people is not faithfulness"
DOT = "a dot in the centre of the image is concentrated too"
ALIKE = "the share with the same answer"
SET = "it is about a set of images: the score of one depends on the others"
NOISE = "a map that never changes is perfectly stable"

FAITHFUL = MetricSpec("", "E1", "faithfulness", "up", caveats=(OFF,))
SHARED = MetricSpec("", "E2", "localisation", "up", 0, 1, SHARE, MASKS, caveats=(HUMAN,))
SHAPE = MetricSpec("", "size", "complexity", "diagnostic", 0, caveats=(DOT,))
SANE = MetricSpec("", "E1", "sanity", "down", -1, 1, 1.0)
STABLE = MetricSpec("", "E1", "robustness", "down", 0, caveats=(NOISE,))


def correlation(question: str) -> MetricSpec:
    return replace(FAITHFUL, question=question, low=-1, high=1, chance=0.0)


def located(question: str, low: float | int = 0, chance: float | str | None = SHARE) -> MetricSpec:
    return replace(SHARED, question=question, low=low, chance=chance)


def unstable(question: str) -> MetricSpec:
    return replace(STABLE, question=question)


FAITHFULNESS: dict[str, MetricSpec] = {
    "deletion": replace(
        FAITHFUL, question="does the score fall when marked pixels go?", direction="down", low=0, high=1
    ),
    "insertion": replace(FAITHFUL, question="does it rise when marked pixels come back?", low=0, high=1),
    "srg": replace(FAITHFUL, question="faster when they go first than when last?", low=-1, high=1, chance=0.0),
    "region_perturbation": replace(FAITHFUL, question="does it fall when marked regions become noise?"),
    "selectivity": replace(FAITHFUL, question="does it fall when marked patches go?", direction="down"),
    "irof": replace(FAITHFUL, question="does it fall when marked segments go?"),
    "road": replace(
        FAITHFUL,
        question="faster, with removed pixels filled in from around?",
        low=-1,
        high=1,
        chance=0.0,
        caveats=("a smooth map leaves a blur that shows its shape",),
    ),
    "faithfulness_correlation": correlation("does the map's sum over pixels tell the drop?"),
    "mu_fidelity": correlation("the same, on cells and ranks?"),
    "sensitivity_n": correlation("the same, for sets of every size?"),
    "faithfulness_estimate": correlation("does each value tell the drop without its pixel?"),
    "monotonicity": replace(FAITHFUL, question="does the score never fall as more is shown?", low=0, high=1),
    "monotonicity_correlation": correlation("does a larger value mean more uncertainty without it?"),
    "infidelity": replace(
        FAITHFUL,
        question="how far is the predicted change from the true one?",
        direction="down",
        low=0,
        caveats=("it grows with the square of the map's scale",),
    ),
    "average_drop": replace(
        FAITHFUL, question="how much is lost if only what is marked is shown?", direction="down", low=0, high=1
    ),
    "increase_in_confidence": replace(FAITHFUL, question="is the model surer when shown only that?", low=0, high=1),
    "average_gain": replace(FAITHFUL, question="how much is gained when shown only that?", low=0, high=1),
    "adcc": replace(
        FAITHFUL, question="is the map sufficient, coherent and small at once?", low=0, high=1, caveats=(OFF, DOT)
    ),
    "pgi": replace(FAITHFUL, question="does the answer move when what is marked is disturbed?", low=0),
    "pgu": replace(FAITHFUL, question="does it stay when all else is disturbed?", direction="down", low=0),
    "effective_complexity": replace(FAITHFUL, question="how few features keep the score?", direction="down", low=0),
    "part_single_deletion": replace(
        FAITHFUL, question="do parts rank by what is lost without each?", low=0, high=1, chance=0.5, needs=MASKS
    ),
    "shapley_gap": replace(
        FAITHFUL, question="are parts given their fair share?", direction="down", low=0, high=2, chance=1.0, needs=MASKS
    ),
}

LOCALISATION: dict[str, MetricSpec] = {
    "pointing_game": located("is the strongest pixel on the object?", chance="the share of the grown mask"),
    "relevance_mass": located("how much of the evidence is on the object?"),
    "relevance_rank": located("how many of the top pixels are on it, as many as it has?"),
    "top_k_intersection": located("how many of the k top pixels are on it?"),
    "concept_influence": replace(SHARED, question="how many times more than by chance?", high=None, chance=1.0),
    "attribution_localisation": located("how much of the positive evidence is on it?"),
    "best_iou": located("how well does the map outline it at the best threshold?", chance=IOU),
    "iou_at": located("how well at one threshold?", chance=IOU),
    "mean_iou": located("and over all thresholds?", chance=IOU),
    "max_box_acc": located("does a box around the map fit the object's box?", chance=None),
    "pxap": located("average precision of pixels over all maps?"),
    "localisation_auc": located("does a pixel on it outrank one off it?", chance=0.5),
    "localisation_ap": located("average precision of pixels in each map?"),
    "class_localisation_gap": located("is each class's map on its own object?", low=-1, chance=0.0),
}

COMPLEXITY: dict[str, MetricSpec] = {
    "sparseness": replace(SHAPE, question="how concentrated is it?", direction="up", high=1),
    "entropy": replace(SHAPE, question="how many pixels share its weight?", direction="down"),
    "effective_complexity_count": replace(SHAPE, question="how many pixels matter at all?", direction="down"),
    "sign_balance": replace(SHAPE, question="how much speaks for, how much against?", low=-1, high=1, caveats=()),
    "edge_correlation": replace(
        SHAPE, question="does it trace the image's edges?", low=-1, high=1, caveats=("objects have edges too",)
    ),
    "spread": replace(SHAPE, question="in how many pieces does it lie?"),
    "total_variation": replace(SHAPE, question="how rough is it?"),
    "high_frequency": replace(SHAPE, question="how much of it is a checkerboard?", high=1),
}

SANITY: dict[str, MetricSpec] = {
    "randomise_parameters": replace(
        SANE,
        question="does it depend on the weights?",
        caveats=("rank correlation of two noisy maps is low whatever they show",),
    ),
    "data_randomisation": replace(
        SANE,
        question="is it different for a model that learnt random labels?",
        needs=frozenset({"training"}),
        caveats=("where the object is all there is to see, even a good method finds it for both models",),
    ),
    "efficient_mprt": replace(
        SANE, question="does it grow more complex when the weights are random?", direction="up", chance=0.0, high=None
    ),
    "smooth_mprt": replace(SANE, question="does it depend on the weights, noise averaged out?"),
    "random_logit": replace(SANE, question="does it depend on the class, for a random other one?"),
    "class_sensitivity": replace(
        SANE, question="does it depend on the class, for the runner-up?", direction="up", low=0, high=2, chance=0.0
    ),
    "logit_distance": replace(
        SANE, question="how far apart are the maps of two classes?", direction="up", low=0, high=None, chance=0.0
    ),
    "adversarial_sensitivity": replace(
        SANE,
        question="does it change when an attack changes the answer?",
        direction="up",
        low=0,
        high=None,
        chance=0.0,
        needs=frozenset({"attack"}),
    ),
    "image_recovery": replace(SANE, question="does it draw the image instead?", direction="diagnostic", chance=None),
}

AXIOMS: dict[str, MetricSpec] = {
    "completeness_gap": MetricSpec(
        "do the values add up?", "E1", "axioms", "down", 0, claim="complete", axiomatic=True
    ),
    "non_sensitivity": MetricSpec(
        "is zero given to what does nothing, only?", "E1", "axioms", "down", 0, axiomatic=True
    ),
    "input_invariance": MetricSpec(
        "does it stay when a constant is added and taken away again?", "E1", "axioms", "down", 0, axiomatic=True
    ),
}

ROBUSTNESS: dict[str, MetricSpec] = {
    "max_sensitivity": unstable("how far does it move at most, for a small change of the image?"),
    "avg_sensitivity": unstable("how far does it move on average?"),
    "local_lipschitz": unstable("how much faster than the image does it move?"),
    "continuity": unstable("how fast does it move as the image is shifted?"),
    "relative_input_stability": unstable("how much more does it change than the image, in relative terms?"),
    "relative_output_stability": unstable("how much more than the output?"),
    "relative_representation_stability": unstable("how much more than a layer?"),
    "ranking_stability": replace(
        STABLE,
        question="do the top pixels stay on top under noise and seeds?",
        direction="up",
        high=1,
        chance="what two random maps share",
    ),
    "consistency": replace(
        STABLE,
        question="do images with the same map get the same answer?",
        direction="up",
        high=1,
        chance=ALIKE,
        caveats=(SET,),
    ),
    "sufficiency": replace(
        STABLE,
        question="do images with nearly the same map get the same answer?",
        direction="up",
        high=1,
        chance=ALIKE,
        caveats=(SET,),
    ),
}
