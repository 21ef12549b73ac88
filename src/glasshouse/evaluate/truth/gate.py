"""Results as a table of numbers with tolerances, so that a later run can be held against an earlier one."""

import json
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from glasshouse.core import BadInput
from glasshouse.data import scenes
from glasshouse.data.glass import Glass, null_channels, wired_classifier
from glasshouse.evaluate.truth.bias import BiasDetection
from glasshouse.evaluate.truth.games import glass_game
from glasshouse.evaluate.truth.judgements import JudgedTwice, Judgement
from glasshouse.evaluate.truth.judging import judge
from glasshouse.evaluate.truth.methods import Benchmark, MapOf, benchmark

SCHEMA = 1
LEAST, ERRORS = 0.02, 2.0
"""A value may move by two of its standard errors, and by 0.02 in any case: rounding differs between machines."""

Means: TypeAlias = Mapping[str, tuple[float, float]]
"""Numbers by name, each with its standard error."""

QUICK_PX = 32
GLASS: Mapping[str, Callable[[], Glass]] = {"wired_classifier": wired_classifier, "null_channels": null_channels}


def quick_truth(methods: Mapping[str, MapOf], *, n: int = 24, seed: int = 3) -> dict[str, Any]:
    """The benchmark on glass models alone, where nothing is estimated: seconds, and the same on every machine.

    Args:
        methods: as for `benchmark`.
        n: scenes; the metrics are judged on as many.
    """
    three, two = (scenes("shapes", n, size=QUICK_PX, seed=seed, n_objects=count) for count in (3, 2))
    found: dict[str, Any] = {name: benchmark(make(), three, methods, seed=seed) for name, make in GLASS.items()}
    wired = wired_classifier()
    return found | {"metrics": judge(wired, glass_game(wired, two.images), seed=seed)}


def numbers(results: "Mapping[str, Benchmark | Judgement | JudgedTwice | BiasDetection | Means]") -> dict[str, Any]:
    """Every mean of some results with the tolerance it is held to, ready for JSON."""
    return {"schema": SCHEMA, "values": {f"{part}/{k}": v for part, noun in results.items() for k, v in rows(noun)}}


def rows(noun: "Benchmark | Judgement | JudgedTwice | BiasDetection | Means") -> list[tuple[str, dict[str, float]]]:
    """The values of one result by name; what has none is left out."""
    if isinstance(noun, Mapping):
        return [(name, value(*pair)) for name, pair in noun.items() if isfinite(pair[0])]
    if isinstance(noun, JudgedTwice):
        both = {"settled": noun.settled, "fresh": noun.fresh}
        return [(f"{kind}/{name}", entry) for kind, one in both.items() for name, entry in rows(one)]
    if isinstance(noun, Benchmark):
        tables = {"": noun.scores, "check/": noun.checks}
        return [
            (f"{kind}{who}/{track}", value(score.mean, score.error))
            for kind, table in tables.items()
            for who, own in table.items()
            for track, score in own.items()
            if bool(score.valid.any())
        ]
    errors = noun.error if isinstance(noun, BiasDetection) else dict.fromkeys(noun.auroc, 0.0)
    return [(f"{name}/auroc", value(auroc, errors[name])) for name, auroc in noun.auroc.items() if auroc == auroc]


def value(mean: float, error: float) -> dict[str, float]:
    """A mean and how far a later one may lie from it."""
    return {"mean": round(mean, 4), "tolerance": round(max(LEAST, ERRORS * error if isfinite(error) else 0.0), 4)}


def differences(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """What has moved beyond its tolerance, is gone, or is new, a line each."""
    if new.get("schema") != old.get("schema"):
        raise BadInput(f"a table of format {old.get('schema')} cannot be compared with one of {new.get('schema')}.")
    before, after, found = old["values"], new["values"], list[str]()
    for name in sorted({*before, *after}):
        if name not in after:
            found.append(f"{name}: was {before[name]['mean']:.3f}, is gone")
        elif name not in before:
            found.append(f"{name}: is new, {after[name]['mean']:.3f}")
        elif not abs(after[name]["mean"] - before[name]["mean"]) <= before[name]["tolerance"]:
            was, now, allowed = before[name]["mean"], after[name]["mean"], before[name]["tolerance"]
            found.append(f"{name}: was {was:.3f}, is {now:.3f}; {allowed:.3f} is allowed")
    return found


def read_numbers(path: str | Path) -> dict[str, Any]:
    """A table that was written before."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read '{path}' as a table of results: {error}.") from error
    if not isinstance(found, dict) or "values" not in found:
        raise BadInput(f"'{path}' is no table of results.", "Give what `glasshouse bench truth --out FILE.json` wrote.")
    return found
