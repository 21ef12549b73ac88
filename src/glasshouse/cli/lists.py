"""`glasshouse list`: what there is to choose from."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from glasshouse.cli.console import Console, columns, current

lists = typer.Typer(help="What there is: models, methods, metrics, the layers of a model.", no_args_is_help=True)

Pattern = Annotated[str, typer.Argument(help="Names that match, such as '*cam*' or 'timm:*vit*'.")]


@lists.command("models")
def list_models(pattern: Pattern = "*") -> None:
    """Models that can be loaded by name.

    Example: glasshouse list models 'timm:*vit*tiny*'
    """
    from glasshouse import zoo

    found, console = zoo.list_models(pattern), current.get()
    _show(console, "list models", [{"name": name} for name in found], [(name,) for name in found])
    if pattern == "*":
        console.note("More: glasshouse list models 'timm:*', 'torchvision:*', or file:PATH with --arch.")


@lists.command("methods")
def list_methods(pattern: Pattern = "*") -> None:
    """Methods, and in a line what each one shows.

    Example: glasshouse list methods 'attribute.*'
    """
    _registry("list methods", pattern, lambda name: not name.startswith("evaluate."))


@lists.command("metrics")
def list_metrics(pattern: Pattern = "*") -> None:
    """Metrics: how explanations are put to the test.

    Example: glasshouse list metrics
    """
    _registry("list metrics", pattern, lambda name: name.startswith("evaluate."))


@lists.command("layers")
def list_layers(
    model: Annotated[str, typer.Argument(help="As for explain.")],
    arch: Annotated[str | None, typer.Option(help="For file:PATH, the network its weights belong to.")] = None,
    weights: Annotated[str, typer.Option(help="pretrained, random, or a file.")] = "pretrained",
) -> None:
    """A model's layers: units, grid of positions, receptive field in pixels; * marks the usual one.

    Example: glasshouse list layers efficientnet_lite0
    """
    import torch

    from glasshouse import zoo
    from glasshouse.core import geometry

    loaded = zoo.load(model, arch=arch, weights=weights)
    preprocess = loaded.preprocess
    found = geometry(loaded.module, torch.zeros(1, len(preprocess.mean), *preprocess.size))
    entries: list[dict[str, Any]] = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "units": layer.units,
            "grid": list(layer.grid),
            "receptive_field": [float(layer.rows.size), float(layer.cols.size)],
            "local": layer.local,
            "usual": layer.name == found.default,
        }
        for layer in found.layers.values()
        if not layer.name.endswith(".input")
    ]
    rows: list[tuple[str, ...]] = [("layer", "kind", "units", "grid", "field")] + [
        (
            f"{e['name']}{' *' if e['usual'] else ''}",
            e["kind"],
            str(e["units"] or "?"),
            f"{e['grid'][0]} × {e['grid'][1]}",
            f"{e['receptive_field'][0]:.0f} px" if e["local"] else "all",
        )
        for e in entries
    ]
    _show(current.get(), "list layers", entries, rows)


def _registry(command: str, pattern: str, wanted: Callable[[str], bool]) -> None:
    from glasshouse import find_method  # fills the registry too
    from glasshouse import list_methods as registered

    names = [
        name for name in registered(pattern if "." in pattern or "*" in pattern else f"*{pattern}*") if wanted(name)
    ]
    infos = [find_method(name) for name in names]
    entries = [{"name": i.name, "title": i.title, "paper": i.paper, "warning": i.warning} for i in infos]
    _show(current.get(), command, entries, [(i.name, i.title.replace("`", "")) for i in infos])


def _show(console: Console, command: str, entries: list[dict[str, Any]], rows: list[tuple[str, ...]]) -> None:
    for line in columns(rows):
        console.result(line)
    console.document(command, {"found": entries})
    if not entries:
        console.note("Nothing matches.")
