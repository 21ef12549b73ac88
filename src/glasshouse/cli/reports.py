"""`glasshouse explain` and `glasshouse demo`: the main job, from photographs to a page."""

import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glasshouse.cli.console import Console, current, new_file

if TYPE_CHECKING:
    from glasshouse.core import Model, Progress
    from glasshouse.report import View

PHOTOS = ("coffee.png", "chelsea.png", "motorcycle_left.png", "camera.png", "rocket.jpg")
TIERS = ("auto", "none", "free", "lite", "standard", "full")
DEMO_MODEL = "efficientnet_lite0"
DEMO_LAYER, DEMO_UNITS = "blocks.3.2", 4

Photos = Annotated[list[str], typer.Argument(help="Photographs, folders of them, or patterns such as 'cats/*.jpg'.")]
Arch = Annotated[str | None, typer.Option(help="For file:PATH, the network that the weights belong to.")]
Weights = Annotated[str, typer.Option(help="pretrained, random, or a .safetensors or .pt file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def explain_photos(
    model: Annotated[str, typer.Argument(help="A name of `list models`, timm:NAME, torchvision:NAME, or file:PATH.")],
    photos: Photos,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    method: Annotated[list[str] | None, typer.Option(help="May be given several times; see `list methods`.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class to explain, by name or number; several may be given. Else each top class."),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="For methods that look at a layer; see `list layers`.")] = None,
    card: Annotated[
        str, typer.Option(help="What to spend on checks: auto, none, free, lite, standard, full.")
    ] = "auto",
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, help="For methods that draw at random.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    arch: Arch = None,
    weights: Weights = "pretrained",
) -> None:
    """Show which parts of photographs a model decided by, in one page that opens anywhere.

    Example: glasshouse explain efficientnet_lite0 cat.jpg --method grad_cam --out report.html
    """
    if card not in TIERS:
        raise typer.BadParameter(f"'{card}' is not one of {', '.join(TIERS)}.", param_hint="'--card'")
    from glasshouse import report, zoo
    from glasshouse.core.photo import find_photos

    console = current.get()
    with new_file(out) as page:
        files = list(dict.fromkeys(file for photo in photos for file in find_photos(photo)))
        loaded = on_device(zoo.load(model, arch=arch, weights=weights), device)
        for sentence in loaded.chosen:
            console.note(f"{loaded.name}: {sentence}")
        with console.progress("explaining") as progress:
            views = report.explain(
                loaded,
                files,
                methods=method or None,
                target=target or None,
                layer=layer,
                tier=card,  # type: ignore[arg-type] - checked above
                seed=seed,
                chunk=batch_size,
                progress=progress,
            )
        loading = {"spec": model} | ({"arch": arch} if arch else {})
        loading |= {"weights": weights} if weights != "pretrained" else {}
        page.write_text(report.explain_page(loaded, views, loading=loading), encoding="utf-8")
    say_views(console, "explain", views, out)


def demonstrate(
    out: Annotated[Path, typer.Option(help="Folder for the page and the photographs.")] = Path("glasshouse-demo"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    device: Device = "auto",
) -> None:
    """The main job on a real model and real photographs: explanations, and what single units look for.

    Example: glasshouse demo --open
    """
    from glasshouse import report, zoo
    from glasshouse.core.errors import BadInput

    console = current.get()
    folder = out / "photos"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder '{folder}': {error.strerror}.", "Name another with --out.") from error
    page = out / "report.html"
    with new_file(page) as part:
        model = on_device(zoo.load(DEMO_MODEL), device)
        files = [Path(shutil.copyfile(source, folder / source.name)) for source in bundled_photos()]
        console.note(f"{model.name} explains {len(files)} photographs of scikit-image; a minute or two on a laptop.")
        with console.progress("explaining") as progress:
            views = report.explain(model, files, progress=progress)
        console.note(f"What do units of {DEMO_LAYER} look for?")
        with console.progress("drawing for units") as progress:
            section = look_into_units(model, files, progress)
        part.write_text(report.explain_page(model, views, more=[section]), encoding="utf-8")
    say_views(console, "demo", views, page)
    if show:
        typer.launch(str(page.resolve()))


def look_into_units(model: "Model", files: list[Path], progress: "Progress") -> str:
    """The section on a few units: which pieces of the photographs excite them, and pictures drawn for them."""
    from glasshouse import dissect, report, visualize

    device = next(model.module.parameters()).device
    pixels = report.tiles(files)
    seen = dissect.exemplars(model, model.preprocess.normalise(pixels).to(device), layer=DEMO_LAYER, k=9, level=0.98)
    chosen = (seen.peak / seen.threshold).nan_to_num().topk(DEMO_UNITS).indices.tolist()  # those that stand out most
    objective = visualize.unit(DEMO_LAYER, chosen)
    picture = visualize.render(model, objective, size=128, steps=192, progress=progress)
    return report.unit_section(seen, pixels, picture, units=chosen)


def bundled_photos() -> list[Path]:
    """The photographs inside the installed package scikit-image, which is not imported."""
    from glasshouse.core.errors import MissingPackage

    try:
        files = metadata.files("scikit-image") or []
    except metadata.PackageNotFoundError:
        files = []
    found = {file.name: Path(str(file.locate())) for file in files if file.parts[:2] == ("skimage", "data")}
    photos = [found[name] for name in PHOTOS if name in found and found[name].is_file()]
    if not photos:
        raise MissingPackage(
            "the demo shows photographs that come with scikit-image, which is not installed.",
            'Type: pip install "glasshouse[demo]", or explain your own: glasshouse explain efficientnet_lite0 PHOTO',
        )
    return photos


def on_device(model: "Model", name: str) -> "Model":
    """The model on a device; "auto" takes a GPU where there is one."""
    import torch

    from glasshouse.core.errors import BadInput

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return replace(model, module=model.module.to(torch.device(name)))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"device '{name}' cannot be used: {reason}.", "Try --device cpu; see glasshouse doctor."
        ) from error


def say_views(console: Console, command: str, views: "tuple[View, ...]", page: Path) -> None:
    """What was found, in a few lines per photograph, and where the page is."""
    from glasshouse.report.words import VERDICTS, measured, method_title, title

    found: list[dict[str, Any]] = []
    for view in views:
        classes = ", ".join(f"{name} {100 * share:.0f} %" for _, name, share in view.top[:3])
        console.result(f"{view.photo}: {classes}")
        several = len({e.target for e in view.explanations}) > 1
        names = {index: name for index, name, _ in view.top}
        for explanation in view.explanations:
            words, about = "", ""
            if several and explanation.target:
                about = f" for {names.get(explanation.target[0], explanation.target[0])}"
            score = explanation.attached.scores.get("srg") if explanation.attached else None
            if score is not None and score.valid[0]:
                word = VERDICTS.get(_verdict(score), ("undefined", ""))[0]
                words = f"{word} ({measured(float(score.value[0]), float(score.stderr[0]))})"
            console.result(f"  {method_title(explanation) + about:<22} {words}".rstrip())
        for name, reason in view.skipped.items():
            console.result(f"  {title(name):<22} not applicable: {reason}")
        found.append(view_document(view))
    console.result(f"\nThe page: {page}")
    console.document(command, {"report": str(page), "views": found})


def view_document(view: "View") -> dict[str, Any]:
    """A view as plain numbers and text, without its pictures."""
    from glasshouse.core.result import plain

    maps = [
        {
            "method": e.method,
            "target": list(e.target),
            "layer": e.layer,
            "score": plain(e.score)[0],
            "card": {
                name: {"value": plain(float(s.value[0])), "stderr": plain(float(s.stderr[0])), "chance": s.chance}
                for name, s in (e.attached.scores.items() if e.attached else ())
            },
            "sentence": e.attached.sentences[0] if e.attached else "",
        }
        for e in view.explanations
    ]
    top = [{"class": index, "name": name, "probability": share} for index, name, share in view.top]
    return {"photo": view.photo, "top": top, "explanations": maps, "skipped": view.skipped, "seconds": view.seconds}


def _verdict(score: Any) -> str:
    from glasshouse.evaluate import verdicts

    return verdicts(score)[0]
