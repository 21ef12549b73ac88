"""The taxonomy as JSON, and as the tables of its page."""

from typing import Any

from glasshouse.core import find_method, list_methods
from glasshouse.core.result import plain
from glasshouse.evaluate.taxonomy.asking import all_described, caller, evaluations
from glasshouse.evaluate.taxonomy.describing import STANDARD
from glasshouse.evaluate.taxonomy.entries import METRICS, metric_names, metric_spec
from glasshouse.evaluate.taxonomy.specs import KINDS, MEANINGS, MetricSpec

ARROWS = {"up": "↑", "down": "↓", "diagnostic": "–"}


def to_dict() -> dict[str, Any]:
    """All methods and metrics as plain numbers, lists and text, ready for JSON."""
    methods = [
        {**method.to_dict(), "evaluations": [each.metric for each in evaluations(method.name)]}
        for method in all_described()
    ]
    return {"families": MEANINGS, "kinds": KINDS, "methods": methods, "metrics": list(map(metric_dict, metric_names()))}


def metric_dict(name: str) -> dict[str, Any]:
    """One metric as plain numbers, lists and text."""
    metric, known = metric_spec(name), set(list_methods("evaluate.*"))
    registered = f"evaluate.{name}" in known
    info = find_method(f"evaluate.{name}") if registered else None
    cost = info.price(info.defaults, STANDARD) if info else None
    fields = {
        key: plain(sorted(value) if isinstance(value, frozenset) else value) for key, value in vars(metric).items()
    }
    return {
        "name": name,
        **fields,
        "call": caller(name, metric, known),
        "registered": registered,
        "title": info.title if info else "",
        "paper": info.paper if info else "",
        "cost": None if cost is None else {"forward": cost.forward, "backward": cost.backward},
    }


def table() -> str:
    """The methods of this package in Markdown, one row each: what it explains, how, at what price, what it promises."""
    rows = ["| method | explains | form, of | access | cost | promises |", "|---|---|---|---|---|---|"]
    described = [method for method in all_described() if method.info.function.__module__.startswith("glasshouse.")]
    order = {family: place for place, family in enumerate(MEANINGS)}
    for method in sorted(described, key=lambda method: order[method.spec.family]):
        folder, _, short = method.name.partition(".")
        cells = (
            f"[`{short}`](../{folder}/{short}.md)",
            method.spec.family,
            f"{method.spec.form.replace('_', ' ')}, {method.spec.unit}",
            " ".join(sorted(method.access)) or "–",
            method.cost_in_words,
            " ".join(sorted(method.claims)) or "–",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def metric_table() -> str:
    """The metrics of this package in Markdown, one row each."""
    rows = ["| metric | asks | kind | better | range | chance | needs |", "|---|---|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        place = f"{metric.given_by[0]} → `{metric.given_by[1]}`" if metric.given_by else f"`{name}`"
        needs = " ".join(sorted(metric.needs)) or "–"
        cells = (place, metric.question, metric.kind, ARROWS[metric.direction], between(metric), level(metric), needs)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def between(metric: MetricSpec) -> str:
    """The range of a metric: `0…1`, `0…`, or a dash."""
    low, high = ("" if end is None else f"{end:g}" for end in (metric.low, metric.high))
    return f"{low}…{high}" if low or high else "–"


def level(metric: MetricSpec) -> str:
    """What chance scores, in a word or a few."""
    return "–" if metric.chance is None else metric.chance if isinstance(metric.chance, str) else f"{metric.chance:g}"
