"""`glasshouse bench`: methods and metrics held against what is known to be true."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.benchmark_tables import ENDINGS, say
from glasshouse.cli.console import current, new_file
from glasshouse.cli.reports import Device, on_device

if TYPE_CHECKING:
    from glasshouse.core import Model
    from glasshouse.evaluate import PartGame
    from glasshouse.evaluate.truth.methods import MapOf

benchmarks = typer.Typer(help="Methods and metrics held against what is known to be true.", no_args_is_help=True)

SMALL: dict[str, dict[str, Any]] = {
    "occlusion": {"sliding_window_shapes": 8, "strides": 4},
    "rise": {"n_masks": 1000},
    "lime": {"n_samples": 500},
    "kernel_shap": {"n_samples": 500},
    "meaningful_perturbation": {"n_steps": 100},
    "smallest_area": {
        "n_rounds": 3,
        "n_steps": 100,
        "learning_rate": 0.08,
        "step": 3,
        "sigma": 9,
        "perturbation": "fade",
    },
    "extremal_perturbation": {
        **{"areas": (0.05, 0.15), "n_steps": 100, "learning_rate": 0.08},
        **{"step": 3, "sigma": 9, "perturbation": "fade"},
    },
}
"""Settings for scenes of 64 pixels, where the papers' are for photographs of 224."""

GAME = ("tail", "legs", "back", "body", "crown", "head", "eye")
"""The parts of a creature of which every choice is drawn."""

ABOUT = ("methods", "metrics", "bias", "units", "concepts", "students", "attacks")
KEPT_BACK = "Judge metrics once more, on scenes that were kept back when the rule was settled (seed 2026)."
INTO = "The tables as .md, the page as .html, the numbers as .json; a folder gets one .md for each table."
SUBJECTS = f"What to ask about, of {', '.join(ABOUT)}; may be given several times. Else methods and metrics."


@benchmarks.command("truth")
def bench_truth(
    model: Annotated[str, typer.Argument(help="A model that was trained on creatures.")] = "creatures_cnn",
    method: Annotated[list[str] | None, typer.Option(help="May be given several times; else all that suit.")] = None,
    about: Annotated[list[str] | None, typer.Option(help=SUBJECTS)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Glass models alone, whose truth is exact: a minute.")] = False,
    n: Annotated[int, typer.Option(min=2, help="Scenes.")] = 64,
    games: Annotated[int, typer.Option(min=0, help="Scenes of which every choice of parts is drawn.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and the controls.")] = 1000,
    held_out: Annotated[bool, typer.Option("--held-out", help=KEPT_BACK)] = False,
    out: Annotated[Path | None, typer.Option(help=INTO)] = None,
    compare: Annotated[Path | None, typer.Option(help="Numbers of an earlier run; exit code 1 if any moved.")] = None,
    device: Device = "auto",
) -> None:
    """Which methods say what a model uses, and which metrics can tell, where the truth is known.

    Example: glasshouse bench truth creatures_cnn --method grad_cam --method rise
    """
    subjects = list(dict.fromkeys(about or ("methods", "metrics")))
    if strange := [name for name in subjects if name not in ABOUT]:
        raise typer.BadParameter(f"'{strange[0]}' is not one of {', '.join(ABOUT)}.", param_hint="'--about'")
    folder = out is not None and out.is_dir()
    if out is not None and not folder and out.suffix not in ENDINGS:
        raise typer.BadParameter(
            f"'{out}' is no folder and ends in none of {', '.join(ENDINGS)}.", param_hint="'--out'"
        )
    if held_out and (quick or "metrics" not in subjects):
        raise typer.BadParameter("only metrics are judged on scenes that were kept back.", param_hint="'--held-out'")
    from glasshouse import evaluate, zoo
    from glasshouse.core import watching

    console, older = current.get(), evaluate.read_numbers(compare) if compare else None
    methods = chosen_methods(method, quick)
    with nullcontext() if out is None or folder else new_file(out) as part:
        with console.progress("asking") as progress, watching(progress):
            if quick:
                found: dict[str, Any] = evaluate.quick_truth(methods)
            else:
                loaded, found = on_device(zoo.load(model), device), {}
                for subject in subjects:
                    ask = ask_metrics_twice if subject == "metrics" and held_out else ASK[subject]
                    found |= ask(loaded, methods, n, games, seed)
        moved = say(console, found, out, part, older)
    if moved:
        raise typer.Exit(1)


def chosen_methods(named: list[str] | None, quick: bool) -> "dict[str, MapOf]":
    """Attribution methods by name, with settings for small scenes; the quick run leaves out the slowest."""
    from functools import partial

    from glasshouse import find_method, list_methods

    names = named or [name for name in list_methods("attribute.*") if find_method(name).maps]
    infos = [find_method(name, "attribute") for name in names]
    if quick and not named:
        infos = [info for info in infos if info.short not in SMALL or info.short in ("occlusion", "kernel_shap")]
    return {info.short: partial(info.function, **SMALL.get(info.short, {})) for info in infos}


def creatures(model: "Model", n: int, seed: int) -> Any:
    """Scenes of the size that a model takes."""
    from glasshouse import data

    return data.scenes("creatures", n=n, size=model.preprocess.size[0], seed=seed)


def ask_methods(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Tracks and checks of every method."""
    from glasshouse import evaluate

    scenes = creatures(model, n, seed)
    game = evaluate.play(model, creatures(model, min(n, games), seed), GAME) if games else None
    return {"methods": evaluate.benchmark(model, scenes, methods, game=game, seed=seed)}


def ask_metrics(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Every metric on a glass model, where the oracle is exact, and on the trained one, where it was asked for."""
    from glasshouse import evaluate
    from glasshouse.data.glass import wired_classifier

    found: dict[str, Any] = {"metrics": evaluate.judge(wired_classifier(), wired_game(n, seed), seed=seed)}
    if games >= 2:
        game = evaluate.play(model, creatures(model, min(n, games), seed), GAME)
        found["metrics_trained"] = evaluate.judge(model, game, baseline="blur", seed=seed)
    return found


def ask_metrics_twice(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """The same, and once more on scenes that were kept back."""
    from functools import partial

    from glasshouse import evaluate
    from glasshouse.data.glass import wired_classifier
    from glasshouse.evaluate.truth.judgements import HELD_OUT
    from glasshouse.evaluate.truth.judging import judge_twice

    seeds = (seed, HELD_OUT)
    found: dict[str, Any] = {"metrics": judge_twice(wired_classifier(), partial(wired_game, n), seeds=seeds)}
    if games >= 2:

        def game(own: int) -> "PartGame":
            return evaluate.play(model, creatures(model, min(n, games), own), GAME)

        found["metrics_trained"] = judge_twice(model, game, baseline="blur", seeds=seeds)
    return found


def wired_game(n: int, seed: int) -> "PartGame":
    """Scenes of two figures, and what their regions are worth to a glass model."""
    from glasshouse import data, evaluate
    from glasshouse.data.glass import wired_classifier

    return evaluate.glass_game(wired_classifier(), data.scenes("shapes", n, size=32, seed=seed, n_objects=2).images)


def ask_bias(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Models that go by a shortcut told from those that do not."""
    from glasshouse import evaluate, zoo

    pool = zoo.shortcut_pool()
    pairs = {name: (one.model, one.scenes(n, seed=seed)) for name, one in pool.items()}
    reliance = {name: one.reliance for name, one in pool.items()}
    return {"bias": evaluate.bias_detection(pairs, methods, reliance=reliance, seed=seed)}


def ask_units(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Dissection against the concepts that were planted in the units of a glass model."""
    from glasshouse import data, dissect, evaluate
    from glasshouse.data.glass import colour_detector

    glass, scenes = colour_detector(), data.scenes("shapes", max(4 * n, 256), size=32, seed=seed, n_objects=3)
    names = [f"{name}-c" for name in glass.truth.region_names]  # as Broden calls colours
    labelled = data.with_labels(evaluate.labelled_by(glass, scenes))
    seen = dissect.units(glass, labelled, layer="inside_on", concepts=names)
    said = [(unit, seen.label(unit).name) for unit in range(len(seen.units)) if bool(seen.detectors[unit])]
    true = list(enumerate(names))
    return {"units": evaluate.planted_units(said, true, n_units=len(seen.units), n_concepts=len(names))}


def ask_concepts(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Concept vectors, and what classes make of them, against the directions planted in a layer of a glass model."""
    from glasshouse import data, dissect, evaluate
    from glasshouse.data.glass import planted_concept

    glass, scenes = planted_concept("red", shared=(2, 5)), data.scenes("shapes", n, size=32, seed=seed, n_objects=4)
    labelled = data.with_labels(evaluate.labelled_by(glass, scenes))
    kept = dissect.activations(glass.module, labelled, layer="code")
    names = [f"{name}-c" for name in glass.truth.concept_names]
    told = dissect.concept_vectors(kept, names, solver="mean_difference").vectors
    planted, head = glass.truth.directions["code"], glass.module.get_parameter("head.weight").detach()
    return {"concepts": evaluate.planted_concepts(told, planted, reliance=(told @ head.T, planted @ head.T))}


def ask_students(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """What maps teach a student about the model."""
    from glasshouse import evaluate
    from glasshouse.evaluate.truth.controls import oracle

    lessons, tests = creatures(model, 4 * n, seed), creatures(model, 4 * n, seed + 1)
    effects = evaluate.part_effects(model, lessons)
    shown = model.preprocess.normalise(tests.images)
    best = oracle(effects.effect, effects.masks)
    suited = working(model, effects.images, methods)
    return {"students": evaluate.simulated_students(model, effects.images, shown, suited, oracle=best, seed=seed)}


def ask_attacks(model: "Model", methods: "Mapping[str, MapOf]", n: int, games: int, seed: int) -> dict[str, Any]:
    """Whether maps give attacked images away."""
    from glasshouse import diagnose
    from glasshouse.core import BadInput, steps

    images = model.preprocess.normalise(creatures(model, n, seed).images)
    attacked = diagnose.pgd(model, images, epsilon=4 / 255, step_size=1 / 255, seed=seed)
    suited, found = working(model, images, methods), dict[str, Any]()
    for place in steps(len(suited)):
        name = list(suited)[place]
        try:
            found[name] = diagnose.detect_adversarial(model, images, attacked, explain=suited[name], seed=seed)
        except BadInput as reason:
            current.get().note(f"{name}: {reason}")
    return {"attacks": found}


def working(model: "Model", images: Any, methods: "Mapping[str, MapOf]") -> "dict[str, Any]":
    """The methods that this network suits."""
    from glasshouse.core import GlasshouseError

    found = dict[str, Any]()
    for name, explain in methods.items():
        try:
            explain(model, images[:1])  # type: ignore[call-arg] - each image's own top class
            found[name] = explain
        except GlasshouseError as reason:
            current.get().note(f"{name} does not suit {model.name}: {reason}")
    return found


ASK: "dict[str, Callable[[Model, Mapping[str, MapOf], int, int, int], dict[str, Any]]]" = {
    "methods": ask_methods,
    "metrics": ask_metrics,
    "bias": ask_bias,
    "units": ask_units,
    "concepts": ask_concepts,
    "students": ask_students,
    "attacks": ask_attacks,
}
