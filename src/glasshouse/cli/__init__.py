"""The command line: `glasshouse explain efficientnet_lite0 cat.jpg --out report.html`.

Thin: each command reads its arguments, calls what Python users call, and prints. torch is imported inside commands
only, so that help comes at once.
"""

import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.main import get_command

from glasshouse._version import __version__
from glasshouse.cli.benchmarks import benchmarks
from glasshouse.cli.checkup import examine
from glasshouse.cli.console import Console, current
from glasshouse.cli.datasets import data_commands
from glasshouse.cli.lists import lists
from glasshouse.cli.methods import MethodCommands
from glasshouse.cli.reports import demonstrate, explain_photos
from glasshouse.cli.studies import check_study, export_study, report_study, study_model
from glasshouse.cli.training import measure_model, train_model

DONE, FAILED, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130
FLAGS = ("--quiet", "-q", "--debug", "--json")
UsageError: Any = typer.BadParameter.__mro__[1]  # typer brings its own click, or uses the installed one

app = typer.Typer(
    name="glasshouse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done, 130 interrupted.",
)
app.command("explain")(explain_photos)
app.command("demo")(demonstrate)
app.command("study")(study_model)
app.command("report")(report_study)
app.command("check")(check_study)
app.command("export")(export_study)
app.add_typer(lists, name="list")
app.add_typer(data_commands, name="data")
app.command("train")(train_model)
app.command("measure")(measure_model)
app.add_typer(benchmarks, name="bench")
app.command("doctor")(examine)
app.add_typer(typer.Typer(cls=MethodCommands), name="attribute", help="One method on its own, with all its settings.")


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"glasshouse {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _start(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results, warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open black boxes that see: explain what a vision network decides, and how far to trust the explanation."""
    current.set(Console(quiet=quiet, json=as_json))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Global flags may stand anywhere."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    flags = [word for word in given[:end] if word in FLAGS]
    words = [*flags, *(word for word in given[:end] if word not in FLAGS), *given[end:]]
    console = Console(json="--json" in flags)
    try:
        with _warnings_as_lines(console):
            code = get_command(app)(words, prog_name="glasshouse", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except UsageError as error:
        console.error(*_usage(error))
        return USAGE
    except Exception as error:
        if "--debug" in flags:
            traceback.print_exc()
        return _explain_failure(error, console)
    if code == INTERRUPTED:
        console.error("interrupted; nothing was written.")
    return code if isinstance(code, int) else DONE


def _usage(error: Any) -> tuple[str, str]:
    """The message of a usage error, and where to find help."""
    path = error.ctx.command_path if error.ctx else "glasshouse"
    return error.format_message() or "no command was given.", f"Try: {path} --help"


def _explain_failure(error: Exception, console: Console) -> int:
    from glasshouse.core.errors import GlasshouseError, Interrupted

    if isinstance(error, GlasshouseError):
        console.error(error.message, error.hint)
        if isinstance(error, Interrupted):
            return INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else PARTIAL
        return FAILED
    if isinstance(error, OSError):
        console.error(f"{error.strerror or error}: '{error.filename}'." if error.filename else f"{error}.")
        return FAILED
    if "out of memory" in str(error).lower():
        console.error("the device ran out of memory.", "Use a smaller --batch-size, or --device cpu.")
        return FAILED
    console.error(
        f"internal error: {type(error).__name__}: {error}", "Run again with --debug and report what it shows."
    )
    return FAILED


@contextmanager
def _warnings_as_lines(console: Console) -> Generator[None]:
    """Our own warnings on one line each; those of other packages are not the reader's business."""

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if category.__module__.startswith("glasshouse"):
            console.warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield
