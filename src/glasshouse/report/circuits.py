"""Weights and circuits to look at: first-layer filters, kernels in signed colours, and graphs of units."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from glasshouse.core import BadInput
from glasshouse.core.result import draw
from glasshouse.dissect.circuitry.circuits import Circuit, Node
from glasshouse.dissect.circuitry.connections import ExpandedWeights
from glasshouse.report.colour import Scale, colours
from glasshouse.report.picture import css, gradient, heat_image, to_image, uri
from glasshouse.report.words import number, percent
from glasshouse.visualize.filters import Filters

Icons: TypeAlias = Mapping[tuple[str, int], Float[Tensor, "c h w"]]
"""A picture in 0…1 for a unit, by layer and number: a patch that excites it, or one drawn for it."""

MOST_UNITS = 6
CELL, ICON, LEVEL, COLUMN = 64, 44, 66, 210  # px: a kernel, an icon, from node to node down and across
WIDEST, THINNEST = 7.0, 0.75  # px, of an edge
FRAME = "image-rendering:pixelated;display:block;margin-bottom:3px;outline:1px solid rgb(128 128 128 / .4)"
LEFT = "text-align:left;font-weight:400;padding:.2rem .6rem .2rem 0;vertical-align:top"


def weight_grid(
    noun: ExpandedWeights, *, units: Sequence[int] | None = None, k: int = 8, icons: Icons | None = None
) -> str:
    """The strongest inputs of some units, each as its kernel: red excites, blue inhibits, white is 0.

    Args:
        units: of the later layer, by number; None shows the first six.
        k: inputs of each.
        icons: pictures of units of either layer.
    """
    shown = noun.units.tolist()[:MOST_UNITS] if units is None else list(units)
    how = kernel_scale(noun, shown, k)
    rows = ""
    for unit in shown:
        cells = "".join(weight_cell(noun, unit, of, how, icons) for of in noun.inputs_of(unit, k).tolist())
        head = f"{icon_image(icons, noun.layer, unit)}Unit {unit}"
        rows += f'<tr><th scope="row" style="{LEFT}">{head}</th>{cells}</tr>'
    caption = (
        f"Strongest inputs of units of {escape(noun.layer)} among the {len(noun.source_units)} of "
        f"{escape(noun.source)}, by L2 norm; all kernels in the same colours, ±{number(how.end)}."
    )
    bar = f'<div style="height:.5rem;max-width:16rem;margin:.6rem 0;background:{gradient(True)}"></div>'
    return (
        f'<div style="overflow-x:auto"><table style="border-collapse:collapse"><caption style="{LEFT}">{caption}'
        f"</caption><tbody>{rows}</tbody></table>{bar}</div>"
    )


def kernel_scale(noun: ExpandedWeights, units: Sequence[int], k: int) -> Scale:
    """One scale for all kernels of a figure: 0 in the middle, the largest weight at the end."""
    if not len(units) or k < 1:
        raise BadInput(f"{len(units)} units with {k} inputs each are no figure.", "Name a unit, and k of 1 or more.")
    kernels = [noun.kernel(unit, of) for unit in units for of in noun.inputs_of(unit, k).tolist()]
    return Scale(True, float(torch.stack(kernels).abs().max()) or 1.0, 100.0, 0.0)


def kernel_image(values: Float[Tensor, "i j"], how: Scale, size_px: int = CELL) -> Image.Image:
    """A kernel as squares of colour, its longer side about `size_px` long."""
    image = heat_image(values, how, paint=False).convert("RGB")
    zoom = max(1, size_px // max(image.size))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def weight_cell(noun: ExpandedWeights, unit: int, of: int, how: Scale, icons: Icons | None) -> str:
    """One kernel over the unit it comes from."""
    values = noun.kernel(unit, of)
    words = f"unit {of}: L2 norm {number(float(values.norm()))}, sum {number(float(values.sum()))}"
    source = uri(kernel_image(values, how))
    return (
        f'<td style="{LEFT}"><img src="{source}" alt="{words}" title="{words}" width="{CELL}" '
        f'style="{FRAME}">{icon_image(icons, noun.source, of)}<small>{of}</small></td>'
    )


def icon_image(icons: Icons | None, layer: str, unit: int) -> str:
    """A unit's picture, if there is one."""
    if not icons or (layer, unit) not in icons:
        return ""
    words = f"unit {unit} of {escape(layer)}"
    look = f'width="{CELL}" height="{CELL}" style="object-fit:cover;border-radius:3px;display:block"'
    return f'<img src="{icon_uri(icons[layer, unit])}" alt="{words}" {look}>'


def icon_uri(picture: Float[Tensor, "c h w"]) -> str:
    """A small copy of a picture as a `data:` address."""
    image = to_image(picture)
    image.thumbnail((2 * CELL, 2 * CELL))
    return uri(image, "JPEG", 85)


def places(circuit: Circuit) -> dict[Node, tuple[float, float]]:
    """Where units stand in a drawing, in pixels: a column for each layer, first layer left.

    Within a column, from the last layer back, units stand in the order of the units they lead to, averaged by the
    sizes of the wires, which untangles most of them.
    """
    columns = {layer: [node for node in circuit.nodes if node.layer == layer] for layer in circuit.layers}
    tallest = max(map(len, columns.values()))
    found: dict[Node, tuple[float, float]] = {}
    for place in reversed(range(len(circuit.layers))):
        column = columns[circuit.layers[place]]
        heights = {node: pull_of(circuit, node, found) for node in column}
        column.sort(key=lambda node: (heights[node], node.unit))
        first = (tallest - len(column)) * LEVEL / 2
        for level, node in enumerate(column):
            found[node] = (place * COLUMN + ICON / 2 + 10, first + level * LEVEL + ICON / 2 + 34)
    return found


def pull_of(circuit: Circuit, node: Node, found: Mapping[Node, tuple[float, float]]) -> float:
    """The average height of the units that a unit leads to."""
    wires = [(abs(edge.value), found[edge.target][1]) for edge in circuit.edges if edge.source == node]
    total = sum(size for size, _ in wires)
    return sum(size * height for size, height in wires) / total if total else 0.0


def widths(circuit: Circuit) -> list[float]:
    """Of the edges, in pixels: in proportion to their sizes among all that join the same two layers."""
    largest: dict[str, float] = {}
    for edge in circuit.edges:
        largest[edge.target.layer] = max(largest.get(edge.target.layer, 0.0), abs(edge.value))
    return [max(THINNEST, WIDEST * abs(edge.value) / largest[edge.target.layer]) for edge in circuit.edges]


def circuit_graph(circuit: Circuit, icons: Icons | None = None) -> str:
    """A circuit as an SVG drawing: red wires excite, blue ones inhibit, and the wider the stronger.

    Args:
        icons: pictures of units.
    """
    where, ends = places(circuit), (css(colours(True)[0]), css(colours(True)[-1]))
    width = (len(circuit.layers) - 1) * COLUMN + ICON + 60
    height = max(y for _, y in where.values()) + ICON / 2 + 26
    lines, drawn = "", sorted(zip(circuit.edges, widths(circuit), strict=True), key=lambda pair: pair[1])
    for edge, thickness in drawn:
        (x, y), (u, v) = where[edge.source], where[edge.target]
        x, u, middle = x + ICON / 2, u - ICON / 2, (x + u) / 2
        words = f"{edge.source.unit} → {edge.target.unit}: {number(edge.value)}, {percent(edge.share)} of all inputs"
        lines += (
            f'<path d="M{x:.0f} {y:.0f} C{middle:.0f} {y:.0f} {middle:.0f} {v:.0f} {u:.0f} {v:.0f}" fill="none" '
            f'stroke="{ends[edge.value > 0]}" stroke-width="{thickness:.1f}" stroke-opacity=".75">'
            f"<title>{words}</title></path>"
        )
    nodes = "".join(node_drawing(node, x, y, icons) for node, (x, y) in where.items())
    heads = "".join(
        f'<text x="{place * COLUMN + 10}" y="16" font-weight="600">{escape(layer)}</text>'
        for place, layer in enumerate(circuit.layers)
    )
    words = escape(f"{circuit!r}. Red excites, blue inhibits; wires are as wide as they are strong.", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{words}" '
        f'style="max-width:{width}px;width:100%;font:12px system-ui,sans-serif" fill="currentColor">'
        f"{lines}{nodes}{heads}</svg>"
    )


def node_drawing(node: Node, x: float, y: float, icons: Icons | None) -> str:
    """A unit's picture, or an empty square, over its number."""
    left, top = x - ICON / 2, y - ICON / 2
    box = f'x="{left:.0f}" y="{top:.0f}" width="{ICON}" height="{ICON}"'
    inside = f'<rect {box} rx="5" fill="#808080" fill-opacity=".3"/>'
    if icons and node in icons:
        inside = f'<image {box} href="{icon_uri(icons[node])}" preserveAspectRatio="xMidYMid slice"/>'
    label = f'<text x="{x:.0f}" y="{top + ICON + 13:.0f}" text-anchor="middle">{node.unit}</text>'
    return f"<g><title>{escape(node.layer)} unit {node.unit}</title>{inside}{label}</g>"


@draw.register
def _(noun: Filters) -> str:
    image = to_image(noun.sheet())
    return f'<figure style="margin:0"><img src="{uri(image)}" alt="{escape(repr(noun))}"></figure>'


@draw.register
def _(noun: ExpandedWeights) -> str:
    return f"<div><p><code>{escape(repr(noun))}</code></p>{weight_grid(noun)}</div>"


@draw.register
def _(noun: Circuit) -> str:
    return f"<div><p><code>{escape(repr(noun))}</code></p>{circuit_graph(noun)}</div>"
