"""`glasshouse list`: what there is to choose from."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from textwrap import wrap
from typing import Annotated, Any, TypeAlias

import typer

from glasshouse.cli.console import Console, columns, current

WIDTH = 120
Member: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""What stands in columns, and the sentences below them."""
BETTER = {"up": "higher is better", "down": "lower is better", "diagnostic": "neither is better", "": ""}

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
def list_methods(
    pattern: Pattern = "*",
    family: Annotated[str, typer.Option(help="What is explained, such as 'processing.*' or '*.unit'.")] = "*",
    form: Annotated[str | None, typer.Option(help="heatmap, mask, ranked_units, direction, image, graph …")] = None,
) -> None:
    """Methods by what they explain: the form of the answer, its cost for one photograph, what it promises.

    F is a forward pass of the network, B a backward pass. --json says all that is known of each.

    Example: glasshouse list methods 'attribute.*' --family 'processing.*' --form mask
    """
    from glasshouse.evaluate.taxonomy import MEANINGS

    found = [_method(info) for info in _infos(pattern) if info.folder != "evaluate"]
    entries = [e for e in found if fnmatchcase(e["family"], family) and form in (None, e["form"])]
    members = [
        (
            (e["name"], e["form"], e["cost_in_words"]),
            (e["title"], f"Promises: {', '.join(e['claims'])}." if e["claims"] else ""),
        )
        for e in entries
    ]
    _grouped(MEANINGS, [e["family"] for e in entries], members)
    _show(current.get(), "list methods", entries, [])


@lists.command("metrics")
def list_metrics(pattern: Pattern = "*") -> None:
    """Metrics by the kind of question they ask of an explanation: which way is better, what chance scores.

    E1 to E4 are the kinds of evaluation of Gilpin et al., "Explaining explanations", DSAA 2018.

    Example: glasshouse list metrics '*localisation*'
    """
    from glasshouse.evaluate.taxonomy import KINDS

    entries = [_metric(info) for info in _infos(pattern) if info.folder == "evaluate"]
    members = [((e["name"], BETTER[e["direction"]], _needs(e), _chance(e)), (e["title"],)) for e in entries]
    _grouped(KINDS, [e["kind"] for e in entries], members)
    _show(current.get(), "list metrics", entries, [])


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


def _infos(pattern: str) -> list[Any]:
    """What is registered under names that match."""
    from glasshouse import find_method, list_methods  # fills the registry too

    return [find_method(name) for name in list_methods(pattern if "." in pattern or "*" in pattern else f"*{pattern}*")]


def _method(info: Any) -> dict[str, Any]:
    """A method and its place in the taxonomy, where it has one."""
    from glasshouse.core import NotFound
    from glasshouse.evaluate import taxonomy

    told: dict[str, Any] = {"family": "", "form": "", "cost_in_words": "?", "claims": [], "evaluations": []}
    try:
        told = taxonomy.describe(info.name).to_dict()
        told["evaluations"] = [each.metric for each in taxonomy.evaluations(info.name)]
    except NotFound:  # of a plug-in that does not say where it stands
        pass
    return {**told, "name": info.name, "title": info.title, "paper": info.paper, "warning": info.warning}


def _metric(info: Any) -> dict[str, Any]:
    """A metric and what the taxonomy says of it, if it says anything."""
    from glasshouse.evaluate import taxonomy

    told: dict[str, Any] = {"kind": "", "direction": "", "chance": None, "needs": []}
    if info.short in taxonomy.metric_names():
        told = taxonomy.metric_dict(info.short)
    return {**told, "name": info.name, "title": info.title, "paper": info.paper, "warning": info.warning}


def _chance(metric: dict[str, Any]) -> str:
    chance = metric["chance"]
    return "" if chance is None else f"chance: {chance}" if isinstance(chance, str) else f"chance: {chance:g}"


def _needs(metric: dict[str, Any]) -> str:
    return f"needs {' and '.join(metric['needs'])}" if metric["needs"] else ""


def _grouped(headings: Mapping[str, str], groups: Sequence[str], members: Sequence[Member]) -> None:
    """Under each heading the columns of each member of that group, and below them what is said of it in sentences."""
    console, first = current.get(), True
    for name in [*headings, ""]:
        here = [member for member, group in zip(members, groups, strict=True) if group == name]
        if not here:
            continue
        heading = f"{name}: {headings[name]}" if name else "not said by the package that it comes from"
        console.result(heading if first else f"\n{heading}")
        first = False
        for line, (_, sentences) in zip(columns([cells for cells, _ in here]), here, strict=True):
            console.result(f"  {line}")
            for sentence in filter(None, sentences):
                text = sentence.replace("`", "")
                for row in wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6):
                    console.result(row)


def _show(console: Console, command: str, entries: list[dict[str, Any]], rows: list[tuple[str, ...]]) -> None:
    for line in columns(rows):
        console.result(line)
    console.document(command, {"found": entries})
    if not entries:
        console.note("Nothing matches.")
