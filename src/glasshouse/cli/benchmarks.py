"""`glasshouse bench`: methods and metrics held against what is known to be true."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.console import Console, current, new_file
from glasshouse.cli.reports import Device, on_device

if TYPE_CHECKING:
    from glasshouse.core import Model
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

ABOUT = ("methods", "metrics", "bias", "units", "students", "attacks")
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
    out: Annotated[
        Path | None, typer.Option(help="The tables as .md, the page as .html, the numbers as .json.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Numbers of an earlier run; exit code 1 if any moved.")] = None,
    device: Device = "auto",
) -> None:
    """Which methods say what a model uses, and which metrics can tell, where the truth is known.

    Example: glasshouse bench truth creatures_cnn --method grad_cam --method rise
    """
    subjects = list(dict.fromkeys(about or ("methods", "metrics")))
    if strange := [name for name in subjects if name not in ABOUT]:
        raise typer.BadParameter(f"'{strange[0]}' is not one of {', '.join(ABOUT)}.", param_hint="'--about'")
    from glasshouse import evaluate, zoo
    from glasshouse.core import watching

    console, older = current.get(), evaluate.read_numbers(compare) if compare else None
    methods = chosen_methods(method, quick)
    with console.progress("asking") as progress, watching(progress):
        if quick:
            found: dict[str, Any] = evaluate.quick_truth(methods)
        else:
            loaded = on_device(zoo.load(model), device)
            found = {}
            for subject in subjects:
                found |= ASK[subject](loaded, methods, n, games, seed)
    moved = say(console, found, out, older)
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
    from glasshouse import data, evaluate
    from glasshouse.data.glass import wired_classifier

    glass, shown = wired_classifier(), data.scenes("shapes", n, size=32, seed=seed, n_objects=2)
    found: dict[str, Any] = {"metrics": evaluate.judge(glass, evaluate.glass_game(glass, shown.images), seed=seed)}
    if games >= 2:
        game = evaluate.play(model, creatures(model, min(n, games), seed), GAME)
        found["metrics_trained"] = evaluate.judge(model, game, baseline="blur", seed=seed)
    return found


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
    from glasshouse.data.glass.colours import PALETTE

    glass, names = colour_detector(), [f"{name}-c" for name in PALETTE]  # as Broden calls colours
    labelled = data.with_labels(data.scenes("shapes", max(4 * n, 256), size=32, seed=seed, n_objects=3))
    seen = dissect.units(glass, labelled, layer="inside_on", concepts=names)
    said = [(unit, seen.label(unit).name) for unit in range(len(seen.units)) if bool(seen.detectors[unit])]
    return {"units": evaluate.planted_pairs(said, list(enumerate(names)))}


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
    "students": ask_students,
    "attacks": ask_attacks,
}


def say(console: Console, found: dict[str, Any], out: Path | None, older: dict[str, Any] | None) -> list[str]:
    """Show the tables, write the file, and say what moved since an earlier run."""
    from glasshouse import evaluate, report

    text = "\n".join(tables(found))
    console.result(text.rstrip())
    for noun in found.values():
        for name, reason in getattr(noun, "skipped", {}).items():
            console.note(f"{name} does not suit {noun.settings.get('model', 'these models')}: {reason}")
    numbers = evaluate.numbers({name: noun for name, noun in found.items() if hasattr(noun, "table")})
    if out is not None:
        with new_file(out) as part:
            written: dict[str, Callable[[], str]] = {
                ".md": lambda: text,
                ".json": lambda: json.dumps(numbers, indent=1) + "\n",
                ".html": lambda: report.truth_page({k: v for k, v in found.items() if hasattr(v, "table")}),
            }
            if out.suffix not in written:
                raise typer.BadParameter(f"'{out}' ends in none of {', '.join(written)}.", param_hint="'--out'")
            part.write_text(written[out.suffix](), encoding="utf-8")
    moved = evaluate.differences(numbers, older) if older else []
    for line in moved:
        console.result(f"moved: {line}")
    console.document("bench truth", {**document(found), "numbers": numbers, "moved": moved})
    return moved


def tables(found: dict[str, Any]) -> list[str]:
    """Every result as Markdown, with a heading where there are several."""
    from glasshouse import evaluate

    shown = list[tuple[str, str]]()
    for name, noun in found.items():
        if hasattr(noun, "table"):
            shown.append((name, noun.table()))
        elif isinstance(noun, dict):
            rows = "\n".join(f"| `{who}` | {one!r} |" for who, one in noun.items())
            shown.append((name, f"| maps of | result |\n|---|---|\n{rows}\n"))
        else:
            shown.append((name, f"{noun!r}\n"))
        if isinstance(noun, evaluate.Benchmark) and noun.checks:
            shown.append((f"{name}, checked part by part", noun.checks_table()))
    several = len(shown) > 1
    return [(f"## {name}\n\n" if several else "") + text for name, text in shown]


def document(found: dict[str, Any]) -> dict[str, Any]:
    """The tracks of the methods as numbers."""
    from glasshouse.evaluate import Benchmark

    parts = dict[str, Any]()
    for name, noun in found.items():
        if isinstance(noun, Benchmark):
            rows = {
                who: {track: {"mean": score.mean, "stderr": score.error} for track, score in own.items()}
                for who, own in noun.scores.items()
            }
            parts[name] = {"scores": rows, "skipped": noun.skipped, "settings": noun.settings}
    return {**parts.get("methods", {}), "results": parts}
