"""Small charts of a study, as plain HTML: every number they show stands beside them."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import isfinite
from typing import TypeAlias

from glasshouse.dissect import Correlation
from glasshouse.report.study_facts import Concept
from glasshouse.report.words import percent

Link: TypeAlias = Callable[[int], str | None]
"""From a unit to where it is shown, if it is."""

TRAITS = {
    "iou": "IoU with its best concept",
    "selectivity": "Class selectivity",
    "class_correlation": "Correlation with a class",
    "mean": "Mean activation",
    "peak": "Peak activation",
    "firing_rate": "Share of places where it fires",
    "incoming": "Weights in front (L1 norm)",
    "outgoing": "Weights behind (L1 norm)",
}


def iou_text(value: float) -> str:
    """Three digits after the point."""
    return f"{value:.3f}" if isfinite(value) else "undefined"


def range_text(low: float | None, high: float | None) -> str:
    """An interval of IoU, as far as there is one."""
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return "no interval"
    return f"{low:.3f}–{high:.3f}"


def points(drop: float, digits: int = 1) -> str:
    """A fall of accuracy as a change in percentage points: 0.083 is −8.3."""
    if not isfinite(drop):
        return "undefined"
    text = f"{-100 * drop:+.{digits}f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def change(drop: float, low: float, high: float) -> str:
    """A fall of accuracy within its interval, as a change in percentage points."""
    return f"{points(drop)} points, 95 % interval {points(high)} … {points(low)}"


def swatch(hue: int) -> str:
    """A spot in a category's colour; the category's name stands beside it."""
    return f'<i class="swatch cat-{hue}" aria-hidden="true"></i>'


def gauge(one: Concept, end: float, least: float) -> str:
    """IoU as a bar, with its interval as a line, and a mark where a detector begins."""
    at = {"v": one.iou, "least": least}
    if isfinite(one.low) and isfinite(one.high):
        at |= {"low": one.low, "high": one.high}
    style = "; ".join(f"--{name}: {100 * min(value / end, 1):.1f}%" for name, value in at.items())
    line = "<b></b>" if "low" in at else ""
    return f'<i class="gauge" aria-hidden="true" style="{style}"><s></s>{line}</i>'


def forest(value: float, low: float, high: float, end: float = 1.0) -> str:
    """A value with its interval on a line from -end to end, zero in the middle."""
    if not isfinite(value):
        return ""
    low, high = (edge if isfinite(edge) else value for edge in (low, high))
    places = {
        name: 50 + 50 * max(-1.0, min(1.0, at / end)) for name, at in (("v", value), ("low", low), ("high", high))
    }
    style = "; ".join(f"--{name}: {place:.1f}%" for name, place in places.items())
    return f'<i class="forest" aria-hidden="true" style="{style}"><b></b></i>'


def concept_bars(counts: Sequence[tuple[str, int, Sequence[tuple[str, int]]]]) -> str:
    """How many units detect each concept, category by category.

    Args:
        counts: of each category its name, its colour, and its concepts with their numbers of units.
    """
    most = max((count for _, _, bars in counts for _, count in bars), default=1)
    groups = ""
    for category, hue, bars in counts:
        if not bars:
            continue
        items = "".join(
            f'<li><span>{escape(name)}</span><i style="--p: {100 * count / most:.1f}%" aria-hidden="true"></i>'
            f'<span class="num">{count}</span></li>'
            for name, count in bars
        )
        groups += (
            f'<div class="cat-{hue}"><p>{swatch(hue)}<b>{escape(category)}</b> '
            f'<span class="quiet">{plural(len(bars), "concept")}, '
            f"{plural(sum(count for _, count in bars), 'unit')}</span></p><ol>{items}</ol></div>"
        )
    return f'<div class="bars">{groups}</div>'


def numbers_list(rows: Iterable[tuple[str, str]]) -> str:
    """Numbers, large, each with what it counts."""
    items = "".join(f"<li><b>{value}</b> <span>{words}</span></li>" for value, words in rows)
    return f'<ul class="numbers">{items}</ul>'


def table(name: str, heads: Sequence[str], rows: str, *, caption: str = "", kind: str = "") -> str:
    """A table in a frame that scrolls where it is wider than the page, by keyboard as well.

    Args:
        heads: HTML over each column; empty over a chart.
        kind: names of its look in style.css.
    """
    columns = "".join(f'<th scope="col">{head}</th>' if head else "<td></td>" for head in heads)
    said = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table class="{kind}">{said}'
        f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def plural(count: int, one: str, many: str = "") -> str:
    """A number of things."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def correlation_text(r: Correlation) -> str:
    """A coefficient with its interval."""
    if not isfinite(r.value):
        return "undefined"
    return f"{r.value:+.2f}, {r.low:+.2f} … {r.high:+.2f}".replace("-", "−")


def share(part: int, whole: int) -> str:
    """A part of a whole as a percentage."""
    return percent(part / whole) if whole else "undefined"


def unit_links(units: list[int] | tuple[int, ...], link: Link) -> str:
    """The numbers of units, each leading to where it is shown."""
    return " ".join(f'<a href="{href}">{unit}</a>' if (href := link(unit)) else str(unit) for unit in units)
