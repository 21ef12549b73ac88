"""`glasshouse data`: sets of rendered scenes, and what is in a data set on disk."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from glasshouse.cli.console import columns, current

if TYPE_CHECKING:
    from glasshouse.data.directories import Folder
    from glasshouse.data.segmentations import Broden

FAILED = 1
BATCH_PIXELS, MOST_AT_ONCE = 1 << 20, 128
MOST_LINES = 20

data_commands = typer.Typer(
    help="Sets of rendered scenes whose truth is known; checks of any data set.", no_args_is_help=True
)

Where = Annotated[Path, typer.Argument(help="Folder of a data set: Broden's format, a manifest, or images.")]


@data_commands.command("scenes")
def make_scenes(
    out: Annotated[Path, typer.Option(help="Folder for the set; not there yet, or empty.")],
    preset: Annotated[str, typer.Option(help="houses, creatures or shapes.")] = "houses",
    form: Annotated[
        str, typer.Option("--format", help="folder: images, masks and a manifest; broden: label maps and tables.")
    ] = "folder",
    n: Annotated[int | None, typer.Option(min=1, help="How many; 1000 by default, or the whole grid.")] = None,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Scene i of a seed is the same in every set.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="Number of the first scene.")] = 0,
    n_objects: Annotated[int, typer.Option(help="Main things in a scene (creatures and shapes).")] = 1,
    shortcut: Annotated[
        str | None, typer.Option(help="watermark, border, background, hue, position, distractor or pattern.")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="How reliably the shortcut tells the category, 0…1.")] = None,
    split: Annotated[
        str | None, typer.Option(help="What the shortcut does: train, aligned, conflicting or absent.")
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option(metavar="FACTOR=VALUE", help="A factor that does not vary.")
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option(metavar="FACTOR[=LEVELS]", help="Show every combination of these factors.")
    ] = None,
    train: Annotated[float, typer.Option("--train-share", help="Share of the scenes that is called train.")] = 0.7,
    force: Annotated[bool, typer.Option("--force", help="Replace a set of scenes that is there already.")] = False,
) -> None:
    """Write a set of rendered scenes with all their labels.

    Example: glasshouse data scenes --preset creatures --n 5000 --out creatures
    """
    from glasshouse.core.errors import BadInput
    from glasshouse.data.scene_files import write_scenes
    from glasshouse.data.world.presets import PresetName
    from glasshouse.data.world.scene import LARGEST, SMALLEST, scene_grid, scenes, stream

    console = current.get()
    check("preset", preset, get_args(PresetName))
    if not SMALLEST <= size <= LARGEST:
        raise BadInput(f"--size {size} is not in {SMALLEST}…{LARGEST} pixels.", "Try --size 64.")
    settings: dict[str, Any] = {"size": size, "seed": seed, "n_objects": n_objects}
    if shortcut is None and (strength is not None or split is not None):
        raise typer.BadParameter(
            "name the shortcut too, such as --shortcut watermark.", param_hint="--strength, --split"
        )
    if shortcut is not None:
        settings |= shortcut_settings(shortcut, strength, split)
    settings["fixed"] = dict(named_value(text) for text in fixed or ())
    if grid:
        settings["grid"] = dict(levels(text) for text in grid)
        n_grid = len(scene_grid(preset, settings["grid"], n_objects=n_objects))  # type: ignore[arg-type] - checked there
        n = n or n_grid - start
        if not 0 < n <= n_grid - start:
            raise BadInput(
                f"the grid has the scenes 0…{n_grid - 1}, and {n} from {start} on were asked for.", "Leave out --n."
            )
    n = n or 1000
    at_once = max(1, min(MOST_AT_ONCE, BATCH_PIXELS // size**2))
    render = partial(scenes, preset, **settings)
    batches = stream(render, n, start=start, batch_size=at_once)
    with console.progress("writing scenes") as progress:
        found = write_scenes(
            batches,
            out,
            format=form,
            n=n,
            train=train,
            overwrite=force,
            settings=settings | {"start": start},
            progress=progress,
        )
    console.result(f"{found!r}\nThe set: {out}")
    console.note(f"What is in it: glasshouse data info '{out}'")
    console.document("data scenes", {"path": str(out), "format": form, **describe(found, out)})


@data_commands.command("info")
def show_info(path: Where) -> None:
    """What is in a data set: images, splits, classes or labels, and how it was made.

    Example: glasshouse data info creatures
    """
    from glasshouse.data.scene_files import read_set

    console, found = current.get(), read_set(path)
    values = describe(found, path)
    console.result(repr(found))
    for sentence in values["chosen"]:
        console.note(sentence)
    made = values["made"]
    if made:
        asked = ", ".join(f"{key} {said(value)}" for key, value in made["settings"].items() if value not in (None, {}))
        asked = asked or f"size {made['size']}, seed {made['seed']}"
        console.result(f"made    scenes of '{made['preset']}', {asked}")
    if values["splits"]:
        console.result("splits  " + ", ".join(f"{name} {count}" for name, count in values["splits"].items()))
    for title, counts in values["counts"].items():
        console.result(f"\n{title}")
        rows = [(f"  {name}", f"{count:,}") for name, count in counts.items()]
        for line in columns(rows[:MOST_LINES]):
            console.result(line)
        if len(rows) > MOST_LINES:
            console.result(f"  … and {len(rows) - MOST_LINES} more")
    console.document("data info", {"path": str(path), **values})


@data_commands.command("check")
def check_files(path: Where) -> None:
    """Read everything in a data set, and list all that is wrong with it.

    Example: glasshouse data check broden1_227
    """
    from glasshouse.data.directories import FolderCheck
    from glasshouse.data.scene_files import check_set

    console = current.get()
    with console.progress("reading") as progress:
        found = check_set(path, progress=progress)
    if isinstance(found, FolderCheck):
        problems = [{"image": name, "message": reason} for name, reason in found.problems.items()]
        lines = [f"{name}: {reason}" for name, reason in found.problems.items()]
    else:
        problems = [problem.to_dict() for problem in found.problems]
        lines = [repr(problem) for problem in found.problems]
    for line in lines:
        console.result(line)
    n = len(lines)
    console.result(f"{found.n_images} images, {n or 'no'} problem{'s' if n > 1 else ''}.")
    console.document(
        "data check", {"path": str(path), "n_images": found.n_images, "ok": found.ok, "problems": problems}
    )
    if not found.ok:
        raise typer.Exit(FAILED)


def describe(found: "Folder | Broden", path: Path) -> dict[str, Any]:
    """What a data set holds, as plain numbers and text."""
    from glasshouse.data.directories import Folder
    from glasshouse.data.scene_files import about_set

    made = {key: value for key, value in about_set(path).items() if key not in ("schema", "vocabulary")}
    if isinstance(found, Folder):
        splits = Counter(entry.split for entry in found.entries if entry.split)
        classes = Counter(found.targets.tolist())
        names = dict(enumerate(found.class_names)) | {-1: "(no class)"}
        counts = {"images per class": {names.get(number, str(number)): classes[number] for number in sorted(classes)}}
        return {"n_images": len(found), "splits": splits, "counts": counts, "made": made, "chosen": found.chosen}
    splits = Counter(record.split for record in found.records)
    labels = {
        f"frequency of labels: {category}": {
            label.name: label.frequency
            for label in sorted(found.labels, key=lambda label: -label.frequency)
            if label.category == category
        }
        for category in found.categories
    }
    return {"n_images": len(found), "splits": splits, "counts": labels, "made": made, "chosen": ()}


def said(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {said(item)}" for key, item in value.items()) + ")"
    return str(value)


def shortcut_settings(kind: str, strength: float | None, split: str | None) -> dict[str, Any]:
    """The settings of `scenes` for a shortcut."""
    from glasshouse.core.errors import BadInput
    from glasshouse.data.world.shortcuts import Shortcut, ShortcutKind, Split

    strength = 1.0 if strength is None else strength
    if not 0 <= strength <= 1:
        raise BadInput(f"--strength {strength:g} is not in 0…1.", "1 gives the category away each time, 0 never.")
    check("shortcut", kind, get_args(ShortcutKind))
    check("split", split or "train", get_args(Split))
    return {"shortcut": Shortcut(kind, strength), "split": split or "train"}  # type: ignore[arg-type] - checked


def check(kind: str, name: str, names: Sequence[str]) -> None:
    """Whether there is something of this name."""
    from glasshouse.core.errors import not_found

    if name not in names:
        raise not_found(kind, name, names)


def named_value(text: str) -> tuple[str, str | int | float]:
    """`hue=0.3` or `main=car` as a factor and its value."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"'{text}' is not FACTOR=VALUE, such as main=car.", param_hint="--fixed")
    try:
        number = float(value)
    except ValueError:
        return name, value
    if not math.isfinite(number):
        raise typer.BadParameter(f"'{value}' is no value of '{name}'.", param_hint="--fixed")
    return name, int(number) if number.is_integer() else number


def levels(text: str) -> tuple[str, int]:
    """`hue=7` or `main` as a factor and how many of its values to show; 0 for the usual number."""
    name, equals, value = text.partition("=")
    if not name or (equals and not (value.isascii() and value.isdigit() and int(value))):
        raise typer.BadParameter(f"'{text}' is not FACTOR or FACTOR=LEVELS, such as hue=5.", param_hint="--grid")
    return name, int(value or 0)
