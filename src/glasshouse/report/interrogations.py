"""What is known of one unit, as a section of a page: charts that are drawn here, with their numbers beside them."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import Images, Model
from glasshouse.core.result import draw
from glasshouse.dissect.circuitry.families import Families
from glasshouse.dissect.circuitry.interrogation import Interrogation, Links
from glasshouse.dissect.circuitry.joint import JointTuning
from glasshouse.dissect.circuitry.responses import Tuning
from glasshouse.report.colour import scale
from glasshouse.report.page import html_page
from glasshouse.report.picture import heat_image, uri
from glasshouse.report.study_nouns import headed, plain_table
from glasshouse.report.units import drawn_figure, unit_block
from glasshouse.report.words import number, percent
from glasshouse.visualize import Picture

WIDTH, HEIGHT, PAD = 300, 120, 22
MOST_ROWS = 12
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#888888")
UNITS = {"orientation": "°", "phase": "°", "hue": "°", "opening": "°", "radius": " px", "width": " px", "side": " px"}


def interrogation_section(noun: Interrogation, pixels: Images | None = None) -> str:
    """One unit: what excites it, how often, what it is tuned to, and how it is wired.

    Args:
        pixels: the data set that it was interrogated on, in 0…1; without it, no images are shown.
    """
    drawn = drawn_figure(noun.picture, 0, noun.unit) if isinstance(noun.picture, Picture) else ""
    shown = unit_block(noun.exemplars, pixels, drawn) if pixels is not None else drawn
    name = f"Unit {noun.unit} of <code>{escape(noun.layer)}</code>"
    return f'<section class="units"><div><h2>{name}</h2>{shown}{_evidence(noun)}</div></section>'


def interrogation_page(noun: Interrogation, pixels: Images | None = None, *, model: Model | None = None) -> str:
    """`interrogation_section` as a page of its own."""
    name = f" of {model.name}" if model else ""
    return html_page(f"Unit {noun.unit} of {noun.layer}{name}", [interrogation_section(noun, pixels)])


def _evidence(noun: Interrogation) -> str:
    """Everything but the images."""
    middle = (noun.edges[1:] + noun.edges[:-1]) / 2
    words = f"Above 0 at {percent(noun.firing)} of places; mean {number(noun.mean)}, deviation {number(noun.std)}"
    parts = [figure(bars(middle, noun.log_density, "log density of the activation"), words)]
    for name, tuning in noun.tunings.items():
        best = f"{name.replace('_', ' ')}: {number(noun.best_stimulus[name])} deviations above the mean at best"
        parts.append(figure(tuning_chart(tuning, row=0), best))
    tables = [links_table("Strongest inputs", noun.inputs), links_table("Strongest outputs", noun.outputs)]
    more = "".join(draw(one) for one in (noun.families, noun.expanded) if one is not None)
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{"".join(parts)}</div>{"".join(tables)}{_loss(noun)}{more}'
    )


def _loss(noun: Interrogation) -> str:
    """What the classifier loses without the unit."""
    if noun.ablation is None:
        return ""
    row = noun.ablation.names.index(str(noun.unit))
    worst = noun.ablation.class_name(int(noun.ablation.worst_class[row]))
    drop = 100 * float(noun.ablation.max_class_drop[row])
    return f"<p>Without it, accuracy on “{escape(worst)}” falls by {number(drop)} points, the most of all classes.</p>"


def links_table(caption: str, links: Links | None) -> str:
    """Units by weight, each with its kernel as an image."""
    if links is None:
        return f"<p>{caption}: no single convolution or linear layer lies next to it.</p>"
    how = replace(scale(links.weights.flatten(1)), signed=True)
    items: list[str] = []
    for unit, size, total, kernel in zip(links.units, links.size, links.total, links.weights, strict=True):
        image = uri(heat_image(kernel.float(), how, paint=False))
        words = f"unit {int(unit)}: norm {number(float(size))}, sum {number(float(total))}"
        items.append(
            f'<li style="display:inline-block;margin:.2em .6em .2em 0"><img alt="{words}" src="{image}" '
            f'style="width:3rem;height:3rem;image-rendering:pixelated"><br><small>{int(unit)}: '
            f"{number(float(total))}</small></li>"
        )
    at = f"{caption} by weight, in <code>{escape(links.layer)}</code> (red excites, blue inhibits)"
    return f'<p>{at}</p><ul style="list-style:none;padding:0">{"".join(items)}</ul>'


def tuning_chart(tuning: Tuning, row: int) -> str:
    """One unit's heights along the first property, a line for each value of the second at the best of the rest."""
    axes = list(tuning.axes)
    values = torch.tensor(tuning.axes[axes[0]])
    heights = (tuning.responses[row] - tuning.blank[row]).float()
    if heights.ndim > 2:
        heights = heights.flatten(2).amax(2)
    series = heights.T if heights.ndim == 2 else heights[None]
    names = [f"{axes[1]} {number(value)}" for value in tuning.axes[axes[1]]] if heights.ndim == 2 else [""]
    at = series.amax(1).argsort(descending=True)[: len(COLOURS)].sort().values
    shown = [names[int(index)] for index in at]
    return lines(values, series[at], shown, f"{tuning.stimulus} {axes[0]}{UNITS.get(axes[0], '')}")


def lines(x: Float[Tensor, " v"], series: Float[Tensor, "m v"], names: Sequence[str], words: str) -> str:
    """A line chart with the ends of both axes written out."""
    low, high = min(float(series.min()), 0.0), max(float(series.max()), 0.0)
    across = PAD + (WIDTH - 2 * PAD) * (x - x.min()) / max(float(x.max() - x.min()), 1e-12)
    strokes = "".join(
        f'<polyline fill="none" stroke="{COLOURS[place % len(COLOURS)]}" stroke-width="1.5" points="'
        + " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across.tolist(), _up(curve, low, high).tolist(), strict=True))
        + f'"><title>{escape(name)}</title></polyline>'
        for place, (curve, name) in enumerate(zip(series, names, strict=True))
    )
    return _chart(strokes, (float(x.min()), float(x.max())), (low, high), words)


def bars(x: Float[Tensor, " b"], heights: Float[Tensor, " b"], words: str) -> str:
    """A histogram; bins without a finite height are left out."""
    known = heights[heights.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    low = low - 0.05 * max(high - low, 1e-9)
    each, ground = (WIDTH - 2 * PAD) / len(x), HEIGHT - PAD
    strokes = "".join(
        f'<rect x="{PAD + place * each:.1f}" y="{top:.1f}" width="{each:.2f}" height="{ground - top:.1f}"/>'
        for place, (top, height) in enumerate(zip(_up(heights, low, high).tolist(), heights.tolist(), strict=True))
        if height > float("-inf")
    )
    return _chart(f'<g fill="{COLOURS[0]}">{strokes}</g>', (float(x.min()), float(x.max())), (low, high), words)


def figure(chart: str, words: str) -> str:
    """A chart with what is to be said of it."""
    caption = f"<figcaption><small>{escape(words)}</small></figcaption>"
    return f'<figure style="margin:0;width:{WIDTH}px">{chart}{caption}</figure>'


def _up(values: Tensor, low: float, high: float) -> Tensor:
    return HEIGHT - PAD - (HEIGHT - 2 * PAD) * (values - low) / max(high - low, 1e-12)


def _chart(strokes: str, x: tuple[float, float], y: tuple[float, float], words: str) -> str:
    ground = float(_up(torch.tensor(max(y[0], min(0.0, y[1]))), *y))
    texts = (
        (PAD, HEIGHT - 6, "start", number(x[0])),
        (WIDTH - PAD, HEIGHT - 6, "end", number(x[1])),
        (WIDTH / 2, HEIGHT - 6, "middle", words),
        (PAD, PAD - 8, "start", f"{number(y[0])} … {number(y[1])}"),
    )
    labels = "".join(
        f'<text x="{a}" y="{b}" text-anchor="{where}">{escape(text)}</text>' for a, b, where, text in texts
    )
    said = f"{words}, from {number(y[0])} to {number(y[1])}"
    return (
        f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}" style="width:100%">'
        f'<line x1="{PAD}" x2="{WIDTH - PAD}" y1="{ground:.1f}" y2="{ground:.1f}" stroke="currentColor" '
        f'stroke-opacity=".4"/>{strokes}<g fill="currentColor" font-size="9">{labels}</g></svg>'
    )


@draw.register
def _(noun: Tuning) -> str:
    order = noun.peak.argsort(descending=True, stable=True)[:MOST_ROWS].tolist()
    words = [f"unit {int(noun.units[row])}, peak {number(float(noun.peak[row]))}" for row in order]
    charts = "".join(figure(tuning_chart(noun, row), said) for row, said in zip(order, words, strict=True))
    return headed(noun, [f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{charts}</div>'])


@draw.register
def _(noun: JointTuning) -> str:
    order = noun.mean.amax(1).argsort(descending=True, stable=True)[: len(COLOURS)]
    names = [f"unit {unit}" for unit in noun.units[order].tolist()]
    chart = lines(noun.angles.float(), noun.mean[order].float(), names, "turned by, in degrees")
    rows = [
        (str(int(noun.units[row])), f"{float(noun.offset[row]):.0f}°", f"{float(noun.likeness[row]):.2f}")
        for row in order
    ]
    heads = ("Unit", "Shifted by", "Correlation with the anchor")
    return headed(noun, [figure(chart, repr(noun)), plain_table("The strongest units", heads, rows)])


@draw.register
def _(noun: Families) -> str:
    rows = [
        (str(place + 1), str(len(units)), str(noun.order(place)), ", ".join(map(str, units)))
        for place, units in enumerate(noun.members[:MOST_ROWS])
    ]
    return headed(noun, [plain_table("Families of related units", ("", "Units", "Orientations", "Which"), rows)])


@draw.register
def _(noun: Links) -> str:
    return headed(noun, [links_table("Strongest links", noun)])


@draw.register
def _(noun: Interrogation) -> str:
    return headed(noun, [_evidence(noun)])
