"""What `glasshouse bench truth` says: Markdown tables, a page, or numbers with their tolerances."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.cli.console import Console, new_file

if TYPE_CHECKING:
    from glasshouse.diagnose import Detection
    from glasshouse.evaluate import Simulatability

ENDINGS = (".md", ".html", ".json")
FILES: Mapping[str, str] = {"methods": "truth", "metrics": "judged", "metrics_trained": "judged_trained"}
"""Files of tables that are not named as their subject is."""


class Table(NamedTuple):
    """One table in Markdown: the file it goes to in a folder, its title, how it was made, and its rows."""

    file: str
    title: str
    made: str
    text: str


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Every result as one table or several."""
    from glasshouse.evaluate import Benchmark, Simulatability
    from glasshouse.evaluate.truth.judgements import JudgedTwice

    shown = list[Table]()
    for name, noun in found.items():
        file, title, made = FILES.get(name, name), name, how_made(noun)
        if isinstance(noun, JudgedTwice):
            shown.append(Table(file, title, made, noun.table()))
            for kind, one in (("settled", noun.settled), ("held_out", noun.fresh)):
                words = f"{title}, map by map, seed {one.settings.get('seed')}"
                shown.append(Table(f"{file}_{kind}", words, how_made(one), one.table()))
        elif hasattr(noun, "table"):
            shown.append(Table(file, title, made, noun.table()))
        elif isinstance(noun, dict):
            pupils = any(isinstance(one, Simulatability) for one in noun.values())
            shown.append(Table(file, title, made, lessons_table(noun) if pupils else attacks_table(noun)))
        else:
            shown.append(Table(file, title, made, f"{noun!r}\n"))
        if isinstance(noun, Benchmark) and noun.checks:
            shown.append(Table("checks", f"{name}, checked part by part", made, noun.checks_table()))
    return shown


def how_made(noun: Any) -> str:
    """Settings of a result in a line; empty where it has none."""
    if isinstance(noun, dict):
        return how_made_each(noun)
    settings: dict[str, Any] = getattr(noun, "settings", {})
    words = [f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if not isinstance(value, list)]
    return f"Settings: {', '.join(words)}." if words else ""


def how_made_each(nouns: Mapping[str, Any]) -> str:
    """How lessons or attacks were made, which is the same for every method."""
    from glasshouse.evaluate import Simulatability

    first = next(iter(nouns.values()), None)
    if isinstance(first, Simulatability):
        _, untaught, _ = first.accuracy
        return (
            f"Student: {first.student}, {first.n_train} lessons, {len(first.without)} tests; without maps it is right "
            f"in {untaught:.2f}, the most frequent answer in {first.chance:.2f}; seed {first.settings.get('seed')}."
        )
    if first is None:
        return ""
    return f"{len(first.rows)} attacked images whose answer changed; chance 0.50; seed {first.settings.get('seed')}."


def lessons_table(found: "Mapping[str, Simulatability]") -> str:
    """What maps taught a student, best first: gains in accuracy with 95 % intervals."""
    lines = ["| maps of | right with maps | gain over no maps | gain over random places |", "|---|---|---|---|"]
    for name in sorted(found, key=lambda name: -found[name].gain):
        one = found[name]
        gains = [
            f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"
            for gain, (low, high) in ((one.gain, one.interval), (one.gain_over_random, one.interval_over_random))
        ]
        lines.append(f"| {named(name)} | {one.accuracy[0]:.2f} | {' | '.join(gains)} |")
    return "\n".join(lines) + "\n"


def attacks_table(found: "Mapping[str, Detection]") -> str:
    """How well maps give attacked images away, best first."""
    lines = ["| maps of | told right | control: maps swapped at random | images |", "|---|---|---|---|"]
    for name in sorted(found, key=lambda name: -found[name].accuracy):
        one = found[name]
        told = (f"{one.accuracy:.2f} ± {one.stderr:.2f}", f"{one.control:.2f} ± {one.control_stderr:.2f}")
        lines.append(f"| {named(name)} | {' | '.join(told)} | {len(one.rows)} |")
    return "\n".join(lines) + "\n"


def named(name: str) -> str:
    """A method as code, a control as it is."""
    from glasshouse.evaluate.truth.controls import CONTROLS

    return name if name in CONTROLS else f"`{name}`"


def numbered(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every number that a later run is held against, with its tolerance."""
    from glasshouse import evaluate

    ready = dict[str, Any]()
    for name, noun in found.items():
        if isinstance(noun, evaluate.PlantedTable):
            ready[name] = noun.means
        elif isinstance(noun, dict):
            ready[name] = {who: mean_and_error(one) for who, one in noun.items()}
        else:
            ready[name] = noun
    return evaluate.numbers(ready)


def mean_and_error(one: "Simulatability | Detection") -> tuple[float, float]:
    """A gain, or a share told right, with its standard error."""
    from glasshouse.evaluate import Simulatability

    if isinstance(one, Simulatability):
        low, high = one.interval
        return one.gain, (high - low) / (2 * 1.96)
    return one.accuracy, one.stderr


def say(
    console: Console, found: dict[str, Any], out: Path | None, part: Path | None, older: dict[str, Any] | None
) -> list[str]:
    """Show the tables, write the file or the folder, and say what moved since an earlier run.

    Args:
        out: where to, by its ending; a folder gets one file for each table, with how it was made on top.
        part: the file that is written to, and then takes the name of `out`.
    """
    from glasshouse import evaluate, report

    shown = tables(found)
    several = len(shown) > 1
    text = "\n".join((f"## {each.title}\n\n{each.made}\n\n" if several else "") + each.text for each in shown)
    console.result(text.rstrip())
    for noun in found.values():
        for name, reason in getattr(noun, "skipped", {}).items():
            console.note(f"{name} does not suit {noun.settings.get('model', 'these models')}: {reason}")
    numbers = numbered(found)
    if part is not None:
        if part.suffix == ".html":
            part.write_text(report.truth_page(found), encoding="utf-8")
        else:
            part.write_text(text if part.suffix == ".md" else json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    elif out is not None:
        for each in shown:
            with new_file(out / f"{each.file}.md") as one:
                one.write_text(f"{each.made}\n\n{each.text}".lstrip(), encoding="utf-8")
    moved = evaluate.differences(numbers, older) if older else []
    for line in moved:
        console.result(f"moved: {line}")
    console.document("bench truth", {**document(found), "numbers": numbers, "moved": moved})
    return moved


def document(found: Mapping[str, Any]) -> dict[str, Any]:
    """The tracks of the methods as numbers."""
    from glasshouse.evaluate import Benchmark

    parts = dict[str, Any]()
    for name, noun in found.items():
        if isinstance(noun, Benchmark):
            rows = {
                who: {track: {"mean": score.mean, "stderr": score.error} for track, score in own.items()}
                for who, own in noun.scores.items()
            }
            parts[name] = {"scores": rows, "skipped": noun.skipped, "settings": noun.settings}
    return {**parts.get("methods", {}), "results": parts}
