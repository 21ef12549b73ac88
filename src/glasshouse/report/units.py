"""What single units look for, as a section of a page: what excites them, and what was drawn to excite them."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glasshouse.core import BadInput, Images, Model
from glasshouse.core.photo import Photo, to_planes
from glasshouse.dissect import Exemplars
from glasshouse.report.page import html_page
from glasshouse.report.picture import to_image, uri
from glasshouse.report.words import number, percent
from glasshouse.visualize import Picture

THUMB_PX, DIM = 144, 0.4


def tiles(photos: Sequence[Photo], *, size_px: int = 160, across: int = 4) -> Images:
    """Square pieces of photographs, as pixels in 0…1: a small data set where there is no other.

    Args:
        across: pieces along the shorter side, without overlap; what is left over at the far border is not used.
    """
    if size_px < 1 or across < 1 or not len(photos):
        raise BadInput(f"{len(photos)} photographs give no tiles of {size_px} px, {across} across.")
    found: list[Tensor] = []
    for photo in photos:
        planes, white = to_planes(photo, "RGB")
        side = size_px * across / min(planes[0].size)
        width, height = (max(size_px, round(length * side)) for length in planes[0].size)
        rows = [torch.from_numpy(np.array(plane.resize((width, height)), dtype=np.float32)) for plane in planes]
        pixels = (torch.stack(rows) / white).clamp(0, 1)
        pieces = pixels.unfold(1, size_px, size_px).unfold(2, size_px, size_px)
        found.append(pieces.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(found)


def unit_section(
    seen: Exemplars, pixels: Images, picture: Picture | None = None, *, units: Sequence[int] | None = None
) -> str:
    """Each unit with what excites it most, a walk through its range, and a picture drawn for it.

    Args:
        pixels: the data set that `seen` was made from, in 0…1.
        picture: one row per unit, in the order of `units`.
        units: which to show, by their numbers in the layer; None shows all that were looked at.
    """
    shown = seen.units.tolist() if units is None else list(units)
    if picture is not None and len(picture) != len(shown):
        raise BadInput(f"{len(picture)} pictures for {len(shown)} units.", "Draw one per unit, in the same order.")
    blocks = "".join(
        unit_block(seen.unit(unit), pixels, "" if picture is None else drawn_figure(picture, row, unit))
        for row, unit in enumerate(shown)
    )
    field = f"A unit of this layer sees {seen.window[0]} × {seen.window[1]} px of the input."
    beyond = "" if seen.local else " It is also moved by the image as a whole."
    return (
        f'<section class="units"><div><h2>What units of <code>{escape(seen.layer)}</code> look for</h2>'
        f'<p class="lede">Out of {seen.n_images} images, the ones that excite a unit most; what does not is dimmed. '
        f"{field}{beyond} The strongest alone suggest a purer unit than there is, so its whole range stands "
        f"below.</p>{blocks}</div></section>"
    )


def unit_page(
    seen: Exemplars,
    pixels: Images,
    picture: Picture | None = None,
    *,
    units: Sequence[int] | None = None,
    model: Model | None = None,
) -> str:
    """`unit_section` as a page of its own."""
    name = f" of {model.name}" if model else ""
    return html_page(f"Units of {seen.layer}{name}", [unit_section(seen, pixels, picture, units=units)])


def unit_block(one: Exemplars, pixels: Images, drawn: str = "") -> str:
    """One unit: numbers, strongest images, range; `drawn` is a figure to put beside them."""
    unit, row = int(one.units[0]), 0
    facts = (
        f"Peak {number(float(one.peak[row]))}, mean {number(float(one.mean[row]))}, "
        f"exactly 0 at {percent(float(one.resting[row]))} of places; "
        f"bright above {number(float(one.threshold[row]))}, which {percent(1 - one.level)} of places reach."
    )
    if one.dead[row]:
        facts = "Dead: 0 at every position of every image."
    strongest = strip(one.masked(pixels, unit, dim=DIM), one.strongest.values[row], f"unit {unit}, strongest")
    images = torch.stack([pixels[index] for index in one.spectrum.ids[row].tolist()])
    spectrum = strip(images, one.spectrum.values[row], f"unit {unit}, decile")
    return (
        f'<article class="unit"><h3>Unit {unit}</h3><p class="quiet num">{facts}</p>'
        f'<div class="pair">{drawn}<div><p class="quiet">Strongest</p>{strongest}'
        f'<p class="quiet">Its range, from weakest to strongest tenth</p>{spectrum}</div></div></article>'
    )


def drawn_figure(picture: Picture, row: int, unit: int) -> str:
    """The picture drawn for one unit, with what it reaches."""
    reached = f"reaches {number(float(picture.activation[row]))}"
    if picture.reference is not None:
        reached += f"; the best image {number(float(picture.reference[row]))}"
    if not picture.drawn[row]:
        reached = "no gradient reached it: this is noise"
    words = f"picture drawn for unit {unit}: {picture.labels[row]}, {reached}"
    source = uri(to_image(picture.pixels[row]), "JPEG", 90)
    caption = f'<figcaption class="quiet">Drawn: {escape(reached)}</figcaption>'
    return f'<figure><img src="{source}" alt="{escape(words)}">{caption}</figure>'


def strip(images: Float[Tensor, "k c h w"], values: Float[Tensor, " k"], words: str) -> str:
    """Small images in a row, each with its activation."""
    items: list[str] = []
    for place, (image, value) in enumerate(zip(images, values.tolist(), strict=True), 1):
        small = to_image(image)
        small.thumbnail((THUMB_PX, THUMB_PX))
        label = f"{words} {place} of {len(images)}, activation {number(value)}"
        items.append(
            f'<li><img src="{uri(small, "JPEG", 85)}" alt="{escape(label)}">'
            f'<span class="num">{number(value)}</span></li>'
        )
    return f'<ul class="patches">{"".join(items)}</ul>'
