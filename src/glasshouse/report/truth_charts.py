"""Small charts of measured results, as inline SVG: every number they show stands beside them."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import NamedTuple

from glasshouse.report.words import number

WIDTH, HEIGHT, PAD = 84, 12, 5  # px
STRIP, TALL, EDGE, LANES = 320, 33, 8, (9.0, 25.0)
INK, ACCENT, PAPER = "currentColor", "var(--accent,#0b5a87)", "var(--paper,#fff)"

SHAPES: Mapping[str, str] = {
    "centre": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "edges": "M0 -4.5L4.5 3.5H-4.5Z",
    "constant": "M0 -5V5",
    "random": "M-3.5 -3.5L3.5 3.5M3.5 -3.5L-3.5 3.5",
}
"""Controls that know nothing, each in its own outline around the origin."""


class Span(NamedTuple):
    """The ends of an axis."""

    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float | None]) -> "Span":
        """From the least to the greatest; what is not a number is passed over."""
        known = [v for v in values if v is not None and isfinite(v)]
        return Span(min(known), max(known)) if known else Span(0.0, 1.0)

    @property
    def text(self) -> str:
        """Both ends in words."""
        digits = 1 if self.high - self.low >= 0.5 else 2
        return f"{fixed(self.low, digits)} … {fixed(self.high, digits)}"

    def place(self, value: float, width: int, pad: int = PAD) -> float:
        """Where on an axis of some width, with room on both sides."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return pad + (width - 2 * pad) * min(1.0, max(0.0, share))


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point, a true minus sign, and no minus before 0; a dash for none."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−") if isfinite(value) else "–"


def svg(width: int, height: int, body: str, label: str = "") -> str:
    """A picture in the colour of the text around it; without a label, readers are spared it."""
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" {said} style="display:block">'
        f"{body}</svg>"
    )


def axis(width: int, y: float) -> str:
    """A faint line from end to end."""
    return f'<path d="M{PAD} {y:g}H{width - PAD}" stroke="{INK}" opacity=".2"/>'


def upright(x: float, bottom: int = HEIGHT) -> str:
    """A thin line: what a map without information gets."""
    return f'<path d="M{x:.1f} 0V{bottom}" stroke="{INK}" opacity=".65"/>'


def dot(x: float, y: float, filled: bool, radius: float = 3.5) -> str:
    """A filled or a hollow dot."""
    paint = f"fill:{ACCENT}" if filled else f"fill:{PAPER};stroke:{ACCENT};stroke-width:1.5"
    return f'<circle cx="{x:.1f}" cy="{y:g}" r="{radius:g}" style="{paint}"/>'


def whisker(value: float, error: float, span: Span, line: float | None = None, filled: bool = True) -> str:
    """A mean with its standard error; a thin line where chance is."""
    if not isfinite(value):
        return ""
    middle, spread = HEIGHT / 2, error if isfinite(error) else 0.0
    low, high, x = (span.place(at, WIDTH) for at in (value - spread, value + spread, value))
    known = line is not None and isfinite(line)
    mark = upright(span.place(line, WIDTH)) if known and line is not None else ""
    bar = f'<path d="M{low:.1f} {middle:g}H{high:.1f}" style="stroke:{ACCENT};stroke-width:2"/>' if spread else ""
    return svg(WIDTH, HEIGHT, axis(WIDTH, middle) + mark + bar + dot(x, middle, filled))


def bar(value: float, line: float) -> str:
    """A share of 1 as a bar, with a thin line where chance is."""
    if not isfinite(value):
        return ""
    whole = Span(0.0, 1.0)
    x, zero = whole.place(value, WIDTH), whole.place(0.0, WIDTH)
    filled = f'<rect x="{zero:g}" y="2" width="{x - zero:.1f}" height="8" style="fill:var(--bar,#9fb9c9)"/>'
    return svg(WIDTH, HEIGHT, axis(WIDTH, 10.0) + filled + upright(whole.place(line, WIDTH)))


def ladder(means: Mapping[str, float], best_first: Sequence[str], down: bool) -> str:
    """Where maps of known worth fall on the way from the worst of them to the best, which is on the right.

    Args:
        best_first: the oracle, then the oracle with more and more noise: smaller and smaller discs, on the upper line.
            All others are controls, on the lower one.
        down: whether low values are good.
    """
    sign = -1 if down else 1
    span, marks = Span.of(sign * value for value in means.values()), ""
    for who in [*best_first, *(who for who in means if who not in best_first)]:
        if not isfinite(means.get(who, float("nan"))):
            continue
        told = f"<title>{escape(who)}: {number(means[who])}</title>"
        x = span.place(sign * means[who], STRIP, EDGE)
        if who in best_first:
            marks += f"<g>{told}{disc(x, LANES[0], best_first.index(who))}</g>"
        else:
            marks += f'<g transform="translate({x:.1f} {LANES[1]:g})">{told}{outline(who)}</g>'
    label = ", ".join(f"{who} {number(value)}" for who, value in means.items())
    return svg(STRIP, TALL, axis(STRIP, LANES[0]) + axis(STRIP, LANES[1]) + marks, label)


def disc(x: float, y: float, rung: int) -> str:
    """The oracle, or one with noise: the more of it, the smaller."""
    colour = ACCENT if rung % 2 == 0 else PAPER
    return (
        f'<circle cx="{x:.1f}" cy="{y:g}" r="{6.5 - 1.5 * rung:g}" '
        f'style="fill:{colour};stroke:{ACCENT};stroke-width:1.2"/>'
    )


def outline(who: str) -> str:
    """The sign of a control."""
    return f'<path d="{SHAPES.get(who, SHAPES["random"])}" fill="none" stroke="{INK}" stroke-width="1.6"/>'


def signs(best_first: Sequence[str], controls: Sequence[str]) -> str:
    """What stands for which map in `ladder`."""
    discs = [(name, disc(8.0, 8.0, rung)) for rung, name in enumerate(best_first)]
    outlines = [(name, f'<g transform="translate(8 8)">{outline(name)}</g>') for name in controls]
    items = "".join(
        f'<span style="display:inline-flex;align-items:center;gap:.3em;margin-right:1.1em">'
        f"{svg(16, 16, drawn)}{escape(name)}</span>"
        for name, drawn in [*discs, *outlines]
    )
    return f'<div style="margin:.6rem 0">{items}</div>'


def two_lanes(first: Iterable[float], second: Iterable[float], span: Span, line: float) -> str:
    """Two groups of values, one above the other: filled dots above, hollow ones below."""
    width, marks = STRIP // 2, ""
    for filled, y, own in zip((True, False), LANES, (first, second), strict=True):
        marks += axis(width, y)
        marks += "".join(dot(span.place(value, width), y, filled, 3.0) for value in own if isfinite(value))
    return svg(width, TALL, upright(span.place(line, width), TALL) + marks)
