"""Where the methods of `visualize`, `dissect` and `diagnose` stand: what a network holds, and what becomes of it."""

from dataclasses import replace

from glasshouse.evaluate.taxonomy.specs import Access, Architecture, MethodSpec

LOOK: frozenset[Access] = frozenset({"forward", "activations"})
CLIMB: frozenset[Access] = frozenset({"forward", "gradient", "activations"})
STORED: frozenset[Access] = frozenset({"activations"})
WEIGHTS: frozenset[Access] = frozenset({"weights"})
NOTHING: frozenset[Access] = frozenset()
CNN: frozenset[Architecture] = frozenset({"cnn"})

SURVEY = "1 F per image of the data set"
STEPS = "1 F + 1 B per step and picture"
NO_PASS = "none: it reads what was stored"

EXCITES = ("excess_activation", "activation_percentile")
UNIT = MethodSpec("representation.unit", "ranked_units", "neuron", "what_encoded", "dataset", LOOK, effort=SURVEY)
CURVE = replace(UNIT, form="curve")
VECTOR = MethodSpec("representation.vector", "direction", "concept", "what_encoded", "dataset", STORED, effort=NO_PASS)
CIRCUIT = MethodSpec("ext.circuit", "graph", "neuron", "what_encoded", "model", WEIGHTS)
DRAWN = MethodSpec(
    "representation.unit",
    "image",
    "neuron",
    "what_encoded",
    "model",
    CLIMB,
    effort=STEPS,
    evaluations=EXCITES,
)
LAYER = MethodSpec("representation.layer", "image", "layer", "what_encoded", "instance", CLIMB, effort=STEPS)
ATTACK = MethodSpec(
    "ext.attack",
    "image",
    "pixel",
    "why_output",
    "instance",
    frozenset({"forward", "gradient"}),
    evaluations=("attack_success",),
)
ALARM = MethodSpec("ext.attack", "score", "pixel", "why_output", "dataset", frozenset({"forward", "gradient"}))
REBUILT = ("reconstruction_error",)
READ = ("readout_accuracy",)

LOOKING: dict[str, MethodSpec] = {
    "visualize.render": replace(
        DRAWN, effort="", peers=("lucent.optvis.render.render_vis",), cites=("Geirhos et al., 2023",)
    ),
    "visualize.compare_presets": DRAWN,
    "visualize.accentuate": replace(DRAWN, scope="instance"),
    "visualize.first_layer_filters": replace(
        DRAWN, access=WEIGHTS, effort="none: it reads the weights", evaluations=()
    ),
    "visualize.caricature": replace(LAYER, evaluations=EXCITES),
    "visualize.dream": replace(LAYER, effort="1 F + 1 B per step and octave", evaluations=EXCITES),
    "visualize.invert": replace(LAYER, effort="", evaluations=REBUILT),
    "visualize.train_inverter": replace(
        LAYER, scope="dataset", access=LOOK | {"train"}, effort="1 F per training image", evaluations=REBUILT
    ),
    "visualize.train_prior": MethodSpec(
        "producing.disentangled",
        "image",
        "factor",
        "what_encoded",
        "dataset",
        access=frozenset({"train"}),
        models=frozenset({"vae"}),
        effort="none of the model: it trains one of its own",
        evaluations=("prior_error",),
    ),
    "dissect.activations": replace(UNIT, family="representation.layer", form="score", evaluations=READ),
    "dissect.exemplars": replace(UNIT, form="image", unit="region"),
    "dissect.receptive_fields": replace(
        UNIT, form="mask", unit="pixel", effort="1 F per patch and image, near the unit"
    ),
    "dissect.units": replace(UNIT, unit="concept", cites=("Morcos et al., ICLR 2018",)),
    "dissect.scan": replace(UNIT, unit="concept"),
    "dissect.rotation_test": replace(CURVE, unit="concept", evaluations=("label_chance",)),
    "dissect.ablate_units": replace(UNIT, access=LOOK, effort="1 F per image, and part of one per unit"),
    "dissect.compositional_labels": replace(UNIT, form="rules", unit="concept", access=STORED, effort=NO_PASS),
    "dissect.semantic_dictionary": replace(
        UNIT, question="why_output", scope="instance", access=CLIMB, effort="1 F + 1 B per image"
    ),
    "dissect.tuning_curves": replace(CURVE, scope="model", effort="1 F per stimulus"),
    "dissect.joint_tuning": replace(CURVE, effort="1 F per image and angle"),
    "dissect.interrogate": replace(UNIT, form="image", effort="1 F per image and stimulus"),
    "dissect.concept_vectors": VECTOR,
    "dissect.net2vec": VECTOR,
    "dissect.tcav": replace(
        VECTOR,
        question="why_output",
        scope="class",
        access=CLIMB,
        effort="1 F + 1 B per image and class",
        evaluations=("random_concepts",),
        peers=("captum.concept.TCAV",),
    ),
    "dissect.neuron_groups": replace(VECTOR, unit="factor", evaluations=("rebuilding_loss",)),
    "dissect.sparse_dictionary": replace(
        VECTOR, unit="factor", access=STORED | {"train"}, evaluations=("explained_variance",)
    ),
    "dissect.decompose": MethodSpec(
        "processing.linear_proxy",
        "direction",
        "concept",
        "why_output",
        "class",
        access=LOOK | WEIGHTS,
        effort=SURVEY,
        evaluations=("residual_length",),
    ),
    "dissect.circuit": replace(CIRCUIT, access=WEIGHTS | CLIMB, effort="1 F + 1 B per unit met"),
    "dissect.expanded_weights": replace(CIRCUIT, access=WEIGHTS | CLIMB, effort="1 F + 1 B per unit"),
    "dissect.edit_circuit": replace(CIRCUIT, effort="none: it rewrites weights"),
    "dissect.equivariance": replace(CIRCUIT, models=CNN, effort="none: it reads the weights"),
    "dissect.curve_detectors": replace(
        CIRCUIT, models=CNN, access=NOTHING, effort="none: it is a network", evaluations=("tuning_peak",)
    ),
    "diagnose.fgsm": ATTACK,
    "diagnose.pgd": ATTACK,
    "diagnose.detect_adversarial": replace(
        ALARM, effort="two explanations per image, and the training of a detector", evaluations=("attack_detection",)
    ),
    "diagnose.recover_labels": replace(
        ALARM, effort="one explanation and 2 F per image", evaluations=("answers_recovered",)
    ),
}
