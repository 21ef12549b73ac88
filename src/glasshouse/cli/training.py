"""`glasshouse train` and `glasshouse measure`: the models that come with glasshouse, made and measured again."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.console import columns, current

if TYPE_CHECKING:
    from glasshouse.core import Progress
    from glasshouse.zoo.training import Log, Trained

PARTIAL = 3
SECONDS_BETWEEN_ROWS = 20.0
UNITS = {"s": 1, "m": 60, "h": 3600}
TOLERANCE = 0.002  # between machines


def train_model(
    name: Annotated[str | None, typer.Argument(help="A recipe; see --list.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the checkpoint and the weights.", show_default="glasshouse-train/NAME"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop once so many are done in all.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="Stop after so long: 90, 90s, 10m or 1.5h.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the first weights and the order of the data.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    publish: Annotated[bool, typer.Option("--publish", help="Put the weights where `zoo.load` finds them.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the recipes, and what their models reach.")] = False,
) -> None:
    """Train a model of the zoo by its recipe, or go on where the checkpoint stopped.

    Example: glasshouse train fashion_cnn --time-budget 10m
    """
    if show:
        return _show_recipes(name or "*")
    if name is None:
        raise typer.BadParameter("name a recipe; `glasshouse train --list` shows them.", param_hint="'NAME'")
    budget = seconds(time_budget) if time_budget else None
    from glasshouse import zoo
    from glasshouse.core.errors import Interrupted

    console, recipe = current.get(), zoo.find_recipe(name)
    folder = out or Path("glasshouse-train") / name
    before = zoo.step_reached(folder)
    go_on = f"glasshouse train {name} --out '{folder}'" + (f" --seed {seed}" if seed else "")
    if before:
        console.note(f"{name}: goes on at step {before:,} of {recipe.steps:,}, from '{folder}'.")
    try:
        with console.progress(f"training {name}") as progress:
            done = zoo.train(
                recipe,
                folder,
                seed=seed,
                device=device,
                max_steps=steps,
                time_budget_s=budget,
                progress=_from(before, progress),
                log=_say_now_and_then(name),
            )
    except KeyboardInterrupt as interrupt:
        raise Interrupted(
            f"interrupted; the checkpoint holds {zoo.step_reached(folder):,} of {recipe.steps:,} steps.",
            f"To go on, type: {go_on}",
        ) from interrupt
    console.result(f"{name}: {done.step:,} of {done.steps:,} steps in {done.seconds:.0f} s")
    weights = None
    if done.finished or publish:
        console.note("measuring the weights …")
        weights = zoo.publish(recipe, folder, folder=None if publish else folder)
        figures = zoo.Shipped(name, weights.parent).about["figures"]
        for line in columns([(f"  {figure}", f"{value:.4g}") for figure, value in figures.items()]):
            console.result(line)
        console.result(f"The weights: {weights}")
    _document(done, weights)
    if not done.finished:
        console.note(f"To go on, type: {go_on}")
        if steps is None or done.step < steps:
            raise typer.Exit(PARTIAL)


def measure_model(name: Annotated[str, typer.Argument(help="A recipe whose weights come with glasshouse.")]) -> None:
    """Measure a shipped model again, beside what its card says.

    Example: glasshouse measure fashion_cnn
    """
    from glasshouse import zoo

    console, recipe = current.get(), zoo.find_recipe(name)
    shipped = zoo.Shipped(name)
    recorded = shipped.about["figures"]
    measured = zoo.measure(recipe, shipped)
    rows: list[tuple[str, ...]] = [("figure", "recorded", "measured")]
    for figure in dict.fromkeys([*recorded, *measured]):
        pair = (recorded.get(figure, math.nan), measured.get(figure, math.nan))
        rows.append((figure, f"{pair[0]:.4f}", f"{pair[1]:.4f}"))
        if not math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            console.warn(f"{figure} is {pair[1]:.4g} here, and {pair[0]:.4g} on the card.")
    for line in columns(rows):
        console.result(line)
    console.document("measure", {"name": name, "recorded": recorded, "measured": measured})


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `1.5h` in seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        value = float(number) * UNITS[unit]
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"'{text}' is no length of time; try 90s, 10m or 1.5h.", param_hint="'--time-budget'")
    return value


def _say_now_and_then(name: str) -> "Log":
    """Says the latest values; those measured rarely stay until they are measured again."""
    latest: dict[str, float | int] = {}
    said = [time.monotonic()]

    def log(row: dict[str, float | int]) -> None:
        latest.update(row)
        now = time.monotonic()
        if now - said[0] >= SECONDS_BETWEEN_ROWS:
            said[0] = now
            values = ", ".join(f"{k} {v:.4g}" for k, v in latest.items() if k not in ("step", "seconds"))
            current.get().note(f"{name}: step {latest['step']:,}, {values}")

    return log


def _from(before: int, progress: "Progress") -> "Progress":
    """Progress of this call alone, so that the time left is right."""
    return lambda done, total: progress(done - before, total - before)


def _document(done: "Trained", weights: Path | None) -> None:
    values = done.to_dict() | {"finished": done.finished, "weights": str(weights) if weights else None}
    current.get().document("train", values)


def _show_recipes(pattern: str) -> None:
    from glasshouse import zoo

    console = current.get()
    rows: list[tuple[str, ...]] = [("recipe", "steps", "weights", "measured")]
    entries: list[dict[str, Any]] = []
    for name in zoo.list_recipes(pattern):
        recipe, about = zoo.find_recipe(name), zoo.card(name).about
        figures = dict(about.get("figures", {}))
        shown = ", ".join(f"{figure} {value:.3g}" for figure, value in list(figures.items())[:2])
        n_weights = about.get("n_weights")
        rows.append((name, f"{recipe.steps:,}", f"{n_weights:,}" if n_weights else "none yet", shown))
        entries.append(
            {
                "name": name,
                "about": recipe.about,
                "steps": recipe.steps,
                "shipped": bool(about),
                "n_weights": n_weights,
                "figures": figures,
            }
        )
    for line in columns(rows):
        console.result(line)
    console.document("train --list", {"found": entries})
