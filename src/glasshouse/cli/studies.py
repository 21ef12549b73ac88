"""`glasshouse study`, `report`, `check` and `export`: what is found out about a network, kept in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from glasshouse.cli.console import current
from glasshouse.cli.reports import Arch, Device, Weights, on_device

FAILED = 1
MOST_FINDINGS = 20

Folder = Annotated[Path, typer.Argument(help="Folder of a study.")]


def study_model(
    path: Annotated[Path, typer.Argument(help="Folder for the study; one that is there is gone on with.")],
    model: Annotated[str, typer.Option(help="A name of `list models`, timm:NAME, torchvision:NAME, or file:PATH.")],
    data: Annotated[str, typer.Option(help="Folder of images, data set in Broden's format, or scenes:houses:400.")],
    layers: Annotated[str | None, typer.Option(help="Names with commas; else the usual one.")] = None,
    concepts: Annotated[str | None, typer.Option(help="Images with label maps to dissect by, if not --data.")] = None,
    masks: Annotated[str | None, typer.Option(help="Folder with a mask for each image.")] = None,
    names: Annotated[str | None, typer.Option(help="What the values of masks mean, from 1 on, with commas.")] = None,
    ablate: Annotated[bool, typer.Option(help="Measure what each class loses without each unit.")] = True,
    visualize: Annotated[int, typer.Option(min=0, help="Draw pictures for so many units of each layer.")] = 0,
    k: Annotated[int, typer.Option(min=1, help="Strongest images kept of each unit.")] = 9,
    min_images: Annotated[int, typer.Option(min=1, help="Leave out concepts that are seen in fewer images.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Also write the pages, to FILE.html or into a folder.")] = None,
    engine: Annotated[str, typer.Option(help="serial, torchrun or ray.")] = "serial",
    workers: Annotated[int, typer.Option(min=1, help="Of Ray.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    shard_size: Annotated[int, typer.Option(min=1, help="Images between two partial results on disk.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Of random images and drawn pictures.")] = 0,
    device: Device = "auto",
    arch: Arch = None,
    weights: Weights = "pretrained",
) -> None:
    """Find out what every unit of a layer responds to, detects, and is needed for.

    What is finished is not done again, and what was interrupted goes on: type the same command.

    Example: glasshouse study runs/houses --model houses_cnn --data scenes:houses:400 --out runs/houses.html
    """
    from glasshouse import zoo
    from glasshouse.core.engines import engine_named
    from glasshouse.core.errors import BadInput
    from glasshouse.core.labelled import Labelled
    from glasshouse.study import Study, find_images

    console = current.get()
    if engine not in ("serial", "torchrun", "ray"):
        raise typer.BadParameter(f"'{engine}' is not one of serial, torchrun, ray.", param_hint="'--engine'")
    loaded = on_device(zoo.load(model, arch=arch, weights=weights), device)
    words = [name.strip() for name in names.split(",")] if names else None
    images, said = find_images(data, loaded, masks=masks, names=words)
    labelled = None
    if concepts is not None:
        labelled, more = find_images(concepts, loaded)
        said += more
        if not isinstance(labelled, Labelled):
            raise BadInput(f"'{concepts}' has no label maps.", "Give a data set in Broden's format, or scenes.")
    for sentence in [*(f"{loaded.name}: {sentence}" for sentence in loaded.chosen), *said]:
        console.note(sentence)
    with console.progress("studying") as progress:
        study = Study(
            path,
            loaded,
            images,
            concepts=labelled,
            layers=[layer.strip() for layer in layers.split(",")] if layers else None,
            engine=engine_named(engine, workers),  # type: ignore[arg-type] - checked above
            batch_size=batch_size,
            shard_size=shard_size,
            seed=seed,
            progress=progress,
        )
        with study:
            study.scan(k=k, min_images=min_images)
            if ablate and study.has_classes:
                study.ablate()
            elif ablate:
                console.note("ablation: left out, as the images have no classes of the model.")
            if visualize:
                study.visualize(visualize)
    if study.writes:
        tell(path)
    if out is not None and study.writes:
        write_pages(path, out)


def report_study(
    path: Folder,
    out: Annotated[Path, typer.Option(help="A page to write, or a folder for one page per unit.")] = Path("study.html"),
    max_units: Annotated[int, typer.Option(min=1, help="Units shown of each layer, the best detectors first.")] = 100,
) -> None:
    """Write the pages of a study: layers, units, what they detect and what they are needed for.

    Example: glasshouse report runs/houses --out houses.html
    """
    write_pages(path, out, max_units)


def check_study(
    path: Folder,
    repair: Annotated[bool, typer.Option("--repair", help="Remove files that nobody reads.")] = False,
) -> None:
    """Say whether a study is whole: every file there, unchanged and readable, every job finished.

    Example: glasshouse check runs/houses
    """
    from glasshouse.study.store import check

    console = current.get()
    found = check(path, repair=repair)
    lines = [repr(finding) for finding in found.findings[:MOST_FINDINGS]]
    if len(found.findings) > MOST_FINDINGS:
        lines.append(f"… and {len(found.findings) - MOST_FINDINGS} more")
    console.result("\n".join([repr(found), *lines]))
    console.document("check", found.to_dict() | {"whole": found.whole})
    if not found.whole:
        raise typer.Exit(FAILED)


def export_study(
    path: Folder,
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
    form: Annotated[str, typer.Option("--format", help="json, csv or parquet.")] = "json",
) -> None:
    """Write the tables of a study to files that other programs read.

    Example: glasshouse export runs/houses --out tables --format parquet
    """
    from glasshouse.study.store import Store, export

    console = current.get()
    if form not in ("json", "csv", "parquet"):
        raise typer.BadParameter(f"'{form}' is not one of json, csv, parquet.", param_hint="'--format'")
    with Store.open(path) as store:
        written = export(store, out, form)  # type: ignore[arg-type] - checked above
    console.result("\n".join(str(file) for file in written))
    console.document("export", {"files": [str(file) for file in written]})


def tell(path: Path) -> None:
    """What the study says of each layer, in a line."""
    from glasshouse.study import Study

    console = current.get()
    with Study(path) as study:
        for layer in study.layers:
            one = study[layer]
            for noun in (one.exemplars, one.dissection, one.ablation):
                if noun is not None:
                    console.result(f"{noun!r}")
        console.result(f"{path}")
        console.document("study", {"path": str(path), "layers": study.layers})


def write_pages(path: Path, out: Path, max_units: int = 100) -> None:
    """One page, or a folder of them."""
    from glasshouse import report
    from glasshouse.cli.console import new_file
    from glasshouse.study.store import Store

    console = current.get()
    with Store.open(path) as store:
        if out.suffix == ".html":
            with new_file(out) as page:
                page.write_text(report.study_page(store, max_units=max_units), encoding="utf-8")
        else:
            out = report.write_study(store, out)
    console.result(str(out))
    console.document("report", {"file": str(out)})
