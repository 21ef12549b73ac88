"""What units added to a score, as a short list of bars: the strongest for the target, and the strongest against it."""

from html import escape

from glasshouse.attribute import UnitAttribution
from glasshouse.core.result import draw
from glasshouse.report.colour import colours
from glasshouse.report.words import number, title

MOST_IMAGES, MOST_FOR, MOST_AGAINST = 8, 8, 4
FOR, AGAINST = (f"rgb({', '.join(str(round(255 * part)) for part in colours(True)[row])})" for row in (-20, 19))


def bar(unit: int, value: float, end: float) -> str:
    """One unit: its number, a bar from the middle to its side, its value."""
    share, colour = 50 * abs(value) / end, FOR if value > 0 else AGAINST
    left = 50 if value > 0 else 50 - share
    return (
        f'<tr><th scope="row" style="font-weight:400;text-align:right;padding:0 .6em 0 0">{unit}</th>'
        f'<td style="width:9rem;padding:0"><div style="height:.7em;margin-left:{left:.1f}%;width:{share:.1f}%;'
        f'background:{colour};print-color-adjust:exact"></div></td>'
        f'<td style="text-align:right;padding:0 0 0 .6em">{number(value)}</td></tr>'
    )


def bars(noun: UnitAttribution, image: int) -> str:
    """The strongest units of one image, those that speak for the target first."""
    order = noun.values[image].argsort(descending=True).tolist()
    values = noun.values[image].tolist()
    positive = [unit for unit in order if values[unit] > 0]
    negative = [unit for unit in order if values[unit] < 0]
    shown = positive[:MOST_FOR] + negative[-MOST_AGAINST:]
    end = max((abs(values[unit]) for unit in shown), default=1.0)
    goal = f"class {noun.target[image]}, " if noun.target else ""
    rest = len(positive) + len(negative) - len(shown)
    more = f'<tr><td colspan="3"><small>and {rest} more units</small></td></tr>' if rest else ""
    return (
        f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f'<caption style="text-align:left">{goal}score {number(float(noun.score[image]))}</caption>'
        f"<tbody>{''.join(bar(unit, values[unit], end) for unit in shown)}{more}</tbody></table>"
    )


@draw.register
def _(noun: UnitAttribution) -> str:
    tables = "".join(bars(noun, image) for image in range(min(len(noun), MOST_IMAGES)))
    more = f"<p>… and {len(noun) - MOST_IMAGES} more images</p>" if len(noun) > MOST_IMAGES else ""
    head = f"<p><b>{escape(title(noun.method))}</b> at <code>{escape(noun.layer)}</code>: what each unit adds.</p>"
    return f'<div>{head}<div style="display:flex;flex-wrap:wrap;gap:1.5rem">{tables}</div>{more}</div>'
