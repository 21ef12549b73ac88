"""`glasshouse attribute METHOD`: one command per registered method, its options made from the method's signature.

A method that is added to the registry has a command at once.
"""

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperGroup
from typer.main import get_command

from glasshouse.cli.console import current, new_file
from glasshouse.cli.reports import Arch, Device, Photos, Weights, on_device

SIMPLE = (int, float, str, bool)
RESERVED = ("model", "inputs", "target")


class MethodCommands(TyperGroup):
    """Makes a method's command when it is asked for, so that help of the others needs no torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        from glasshouse import list_methods  # fills the registry too

        return [name.partition(".")[2] for name in list_methods("attribute.*")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from glasshouse import find_method

        if cmd_name not in self.list_commands(ctx):
            find_method(cmd_name, "attribute")  # raises with the nearest names
        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(cmd_name)(command_of(find_method(cmd_name, "attribute")))
        return get_command(app)


def command_of(info: Any) -> Callable[..., None]:
    """A function that Typer can read: the shared arguments, then the method's own settings."""
    settings = {
        name: (read, parameter.default)
        for name, parameter in info.parameters.parameters.items()
        if name not in RESERVED and (read := reader(parameter.annotation)) is not None
    }

    def run(model: str, photos: list[str], out: Path, target: str | None, **given: Any) -> None:
        from glasshouse import report, zoo
        from glasshouse.core.photo import find_photos

        console = current.get()
        with new_file(out) as part:
            files = list(dict.fromkeys(file for photo in photos for file in find_photos(photo)))
            loaded = on_device(
                zoo.load(model, arch=given.pop("arch"), weights=given.pop("weights")), given.pop("device")
            )
            images = loaded.preprocess(files).to(next(loaded.module.parameters()).device)
            aim = None if target is None else loaded.index(target)
            options = {name: settings[name][0].parse(value) for name, value in given.items() if value is not None}
            explanation = info.function(loaded, images, aim, **options)
            if out.suffix == ".png":
                report.overlay_sheet(loaded.preprocess.pixels(images).cpu(), explanation).save(part, "PNG")
            else:
                explanation.save(part)
        console.result(f"{explanation!r}\n{out}")
        console.document(f"attribute {info.short}", {"file": str(out), "target": list(explanation.target)})

    shared = {
        "model": Annotated[str, typer.Argument(help="As for explain.")],
        "photos": Photos,
        "out": Annotated[Path, typer.Option(help="Raw values as .safetensors, or a picture as .png.")],
        "target": Annotated[str | None, typer.Option(help="Class, by name or number; else each top class.")],
        "device": Device,
        "arch": Arch,
        "weights": Weights,
    }
    defaults = {"out": Path(f"{info.short}.safetensors"), "target": None, "device": "auto", "arch": None}
    defaults["weights"] = "pretrained"
    for name, (read, default) in settings.items():
        help_text = "" if default is None else f"Default: {default}"
        shared[name] = Annotated[read.kind | None, typer.Option(metavar=read.metavar, help=help_text)]
        defaults[name] = None
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=defaults.get(name, inspect.Parameter.empty)
        )
        for name, kind in shared.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__, run.__name__ = dict(shared), info.short
    run.__doc__ = f"{info.title.replace('`', '')}\n\n    {info.paper}."
    return run


class Reader:
    """How a setting is typed on the command line."""

    def __init__(self, kind: type, metavar: str | None = None, parse: Callable[[Any], Any] = lambda value: value):
        self.kind, self.metavar, self.parse = kind, metavar, parse


def reader(annotation: Any) -> Reader | None:
    """How to read a setting of this type; None where it cannot be typed."""
    if annotation in SIMPLE:
        return Reader(annotation)
    if get_origin(annotation) is Literal:
        return Reader(str, "|".join(map(str, get_args(annotation))))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = get_args(annotation)
        if any(get_origin(part) is tuple for part in parts):
            return Reader(str, "N or N,N", numbers)
        found = [read for part in parts if (read := reader(part)) is not None]
        return found[0] if found else None
    return None


def numbers(text: str) -> int | tuple[int, ...]:
    """`32` or `32,16`."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not a whole number, or two with a comma.") from error
    return found[0] if len(found) == 1 else found
