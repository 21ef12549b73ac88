"""`python -m benchmarks`: race every method against its peer and against the network's own passes."""

import json
import platform
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.cases import CASES
from benchmarks.rows import IMPORTS, QUICK, THOROUGH, measure, measure_import
from benchmarks.table import compare, show

SCHEMA = 1
PEERS = (
    "torch",
    "torchvision",
    "timm",
    "captum",
    "grad-cam",
    "torchcam",
    "torchray",
    "zennit",
    "quantus",
    "scikit-learn",
)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Small images, few steps, two rounds: to try it out.")] = False,
    only: Annotated[str, typer.Option(help="Rows that match, such as 'saliency/*' or 'import/*'.")] = "*",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the run to this file.")] = None,
    compare_file: Annotated[Path | None, typer.Option("--compare", help="An older run; say what got slower.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="So many per row, instead of 5 and at least 20 s.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
) -> None:
    """Speed beside peers, and beside what the network's passes allow, as ratios.

    Exit code 1 where answers disagree, or something got slower than in the older run.
    """
    older = json.loads(compare_file.read_text()) if compare_file else None
    torch.set_num_threads(threads)
    effort = QUICK if quick else THOROUGH
    effort = effort if rounds is None else replace(effort, rounds=rounds, seconds=0.0)
    work = [(case.name, measure, case) for case in CASES]
    work += [(f"import/{name}", measure_import, name) for name in IMPORTS]
    rows: list[dict[str, Any]] = []
    for name, run, subject in work:
        if fnmatchcase(name, only):
            print(name, file=sys.stderr)
            rows.append(run(subject, effort))
    if not rows:
        raise typer.BadParameter(f"no row matches '{only}'; the names are\n" + "\n".join(name for name, _, _ in work))
    document = {**circumstances(threads), "quick": quick, "rows": rows}
    show(document)
    if json_file:
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    worse = compare(document, older) if older else []
    print("\n".join(worse), end="\n" if worse else "")
    if worse or any(row["status"].startswith("invalid") for row in rows):
        raise typer.Exit(1)


def circumstances(threads: int) -> dict[str, Any]:
    """Where and with what a run was measured."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "schema": SCHEMA,
        "git": git.stdout.strip() if git.returncode == 0 else None,
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in PEERS}},
        "device": processor(),
        "flags": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    typer.run(main)
