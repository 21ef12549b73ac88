"""How much was found of what was planted inside a model: a row for each question."""

from html import escape

from glasshouse.core.result import draw
from glasshouse.evaluate.truth.planted import PlantedRow, PlantedTable
from glasshouse.report.truth_charts import Span, fixed, whisker
from glasshouse.report.truth_tables import framed
from glasshouse.report.words import ARROW_WORDS, ARROWS


@draw.register
def of_planted(noun: PlantedTable) -> str:
    """Numbers beside dots with their errors, and what chance gets."""
    top = "".join(f'<th scope="col">{name}</th>' for name in ("", "found", "chance"))
    body = "".join(row_of(row) for row in noun.rows)
    return (
        '<div class="truth"><p>A dot is what was found, its whisker one standard error, the thin line chance.</p>'
        f"{framed('What was planted and found', top, f'<tbody>{body}</tbody>')}</div>"
    )


def row_of(row: PlantedRow) -> str:
    """One question: its number, its dot on an axis from 0 to 1 or as far as it takes, and chance."""
    span = Span.of([0.0, 1.0, row.value, row.chance])
    error = f" ± {fixed(row.stderr)}" if row.stderr == row.stderr else ""
    chance = "–" if row.chance is None else fixed(row.chance)
    label = f"{escape(row.name)}, {ARROW_WORDS[row.direction]}"
    dots = whisker(row.value, row.stderr, span, row.chance)
    return (
        f'<tr><th scope="row" aria-label="{label}">{escape(row.name)}{ARROWS[row.direction]}</th>'
        f'<td><span class="num">{fixed(row.value)}{error}</span>{dots}</td><td class="num">{chance}</td></tr>'
    )
