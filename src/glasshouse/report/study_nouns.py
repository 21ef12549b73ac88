"""What was found out about the units of a layer, as short tables for notebooks."""

from collections.abc import Iterable, Sequence
from html import escape

import torch

from glasshouse.core.result import draw
from glasshouse.dissect import Ablation, Dissection, Selectivity
from glasshouse.report.study_charts import TRAITS, change, correlation_text, iou_text, points, range_text
from glasshouse.report.words import percent

MOST_ROWS = 12
CELL = "text-align:left;padding:.1em .8em .1em 0;font-weight:400"


def plain_table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a stylesheet; cells are plain text."""
    head = "".join(f'<th scope="col" style="{CELL}"><small>{escape(text)}</small></th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td style={CELL!r}>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<table style="border-collapse:collapse;margin:.6em 0;font-variant-numeric:tabular-nums">'
        f'<caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def headed(noun: object, tables: Sequence[str]) -> str:
    """Tables under the noun's own line."""
    return f"<div><p><code>{escape(repr(noun))}</code></p>{''.join(tables)}</div>"


@draw.register
def _(noun: Dissection) -> str:
    if not len(noun.labels) or not len(noun.units):
        return headed(noun, [])
    order = noun.iou.amax(1).argsort(descending=True, stable=True)[:MOST_ROWS]
    limits = noun.limits(order, noun.best[order])
    rows = [
        (
            str(int(noun.units[row])),
            noun.labels[column].name if bool(noun.detectors[row]) else f"none (nearest: {noun.labels[column].name})",
            noun.labels[column].category,
            iou_text(float(noun.iou[row, column])),
            range_text(low, high),
            iou_text(float(noun.chance_iou[row, column])),
        )
        for row, column, (low, high) in zip(order.tolist(), noun.best[order].tolist(), limits.tolist(), strict=True)
    ]
    counts = zip(noun.by_category("any").items(), noun.by_category("best").values(), strict=True)
    summary = [(category, str(every), str(best)) for (category, every), best in counts]
    heads = ("Unit", "Concept", "Category", "IoU", "95 % interval", "By position alone")
    best = plain_table(f"The best {len(rows)} of {len(noun.units)} units", heads, rows)
    unique = plain_table(
        f"Concepts with a detector; {percent(noun.false_positive_rate)} of units would be one by position alone",
        ("Category", "All categories", "Best category"),
        summary,
    )
    return headed(noun, [best, unique])


@draw.register
def _(noun: Ablation) -> str:
    order = noun.max_class_drop.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    low, high = noun.interval()
    rows: list[tuple[str, ...]] = []
    for row in order:
        worst = int(noun.worst_class[row])
        drop = change(float(noun.damage[row, worst]), float(low[row, worst]), float(high[row, worst]))
        overall = f"{points(float(noun.overall_drop[row]), 2)} ± {100 * float(noun.overall_error[row]):.2f}"
        rows.append((noun.names[row], overall, noun.class_name(worst), drop))
    what = "units" if noun.traits else "groups"
    heads = (what[:-1].capitalize(), "All classes, points", "Worst class", "Its accuracy")
    tables = [plain_table(f"The {len(rows)} of {len(noun.names)} {what} that are missed most", heads, rows)]
    if noun.traits:
        found = noun.correlations("max_class_drop").items()
        known = [(TRAITS[name], correlation_text(r)) for name, r in found if r.value == r.value]
        caption = "Correlation with the damage to the worst class (Spearman, 95 % interval)"
        tables += [plain_table(caption, ("Property of a unit", "Correlation"), known)] if known else []
    return headed(noun, tables)


@draw.register
def _(noun: Selectivity) -> str:
    index = noun.index
    order = index.nan_to_num(-torch.inf).argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    rows = [(str(int(noun.units[row])), f"{float(index[row]):.2f}", str(int(noun.preferred[row]))) for row in order]
    return headed(noun, [plain_table("The most selective units", ("Unit", "Selectivity", "Preferred class"), rows)])
