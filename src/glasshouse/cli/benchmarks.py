"""`glasshouse bench`: methods held against what is known to be true."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.console import current, new_file
from glasshouse.cli.reports import Device, on_device

if TYPE_CHECKING:
    from glasshouse.evaluate import Benchmark

benchmarks = typer.Typer(help="Methods held against what is known to be true.", no_args_is_help=True)

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


@benchmarks.command("truth")
def bench_truth(
    model: Annotated[str, typer.Argument(help="A model that was trained on creatures.")] = "creatures_cnn",
    method: Annotated[list[str] | None, typer.Option(help="May be given several times; else all that suit.")] = None,
    n: Annotated[int, typer.Option(min=2, help="Scenes.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and the controls.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="The table as .md, or everything as .safetensors.")] = None,
    device: Device = "auto",
) -> None:
    """Which methods say what a model uses, on scenes that can be drawn without each of their parts.

    Example: glasshouse bench truth creatures_cnn --method grad_cam --method rise
    """
    from functools import partial

    from glasshouse import data, evaluate, find_method, list_methods, zoo
    from glasshouse.core import watching

    console = current.get()
    chosen = method or [name for name in list_methods("attribute.*") if find_method(name).maps]
    infos = [find_method(name, "attribute") for name in chosen]
    loaded = on_device(zoo.load(model), device)
    scenes = data.scenes("creatures", n=n, size=loaded.preprocess.size[0], seed=seed)
    methods = {info.short: partial(info.function, **SMALL.get(info.short, {})) for info in infos}
    with console.progress("asking") as progress, watching(progress):
        found = evaluate.benchmark(loaded, scenes, methods, seed=seed)
    console.result(found.table())
    for name, reason in found.skipped.items():
        console.note(f"{name} does not suit {loaded.name}: {reason}")
    if out is not None:
        with new_file(out) as part:
            if out.suffix == ".md":
                part.write_text(found.table(), encoding="utf-8")
            else:
                found.save(part)
    console.document("bench truth", document(found))


def document(found: "Benchmark") -> dict[str, Any]:
    """The table as numbers."""
    rows = {
        name: {track: {"mean": score.mean, "stderr": score.error} for track, score in tracks.items()}
        for name, tracks in found.scores.items()
    }
    return {"scores": rows, "skipped": found.skipped, "settings": found.settings}
