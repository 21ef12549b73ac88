"""Rendered scenes as pictures: contact sheets, label maps in colours, boxes and middles of parts."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glasshouse.core import BadInput, Images
from glasshouse.core.result import draw
from glasshouse.data import Scenes
from glasshouse.data.world.colours import TYPICAL
from glasshouse.report.colour import Table, from_oklab
from glasshouse.report.picture import css, to_image, uri
from glasshouse.report.words import number

GAP_PX = 6
INK, PAPER = (60, 64, 70), (255, 255, 255)
MOST_SCENES, ACROSS = 24, 8
PLANES = ("object", "part", "material", "color", "texture")
NONE = (0.93, 0.93, 0.93)
FIRST_HUE = 0.70
GOLDEN = 0.381966  # hues that follow each other by this share of the circle stay apart, however many there are
TONES = ((0.56, 0.12), (0.86, 0.09), (0.72, 0.12))  # lightness and chroma, in turn


def label_colours(words: Sequence[str]) -> Table:
    """A colour for each label: light grey for the first, which is none; names of colours are shown in them."""
    if set(words) <= {"-", *TYPICAL}:
        return np.array([NONE if word == "-" else TYPICAL[word][0] for word in words])
    turns, tone = np.divmod(np.arange(len(words) - 1), len(TONES))
    tones = np.array(TONES)[tone]
    turn = 2 * np.pi * (FIRST_HUE + GOLDEN * turns + tone / len(TONES))
    lab = np.stack([tones[:, 0], tones[:, 1] * np.cos(turn), tones[:, 1] * np.sin(turn)], 1)
    return np.concatenate([np.array([NONE]), from_oklab(lab)])


def paint_labels(plane: Int[Tensor, "n h w"], words: Sequence[str]) -> Images:
    """Label maps as pixels in 0…1, each label in its own colour."""
    table = torch.from_numpy(label_colours(words)).float()
    return table[plane.cpu()].permute(0, 3, 1, 2).contiguous()


def contact_sheet(
    images: Images, *, across: int = ACROSS, captions: Sequence[str] = (), gap_px: int = GAP_PX
) -> Image.Image:
    """Images in rows on white, in reading order, at equal distances.

    Args:
        captions: a line below each of the first images; where there is one, all rows leave room for it.
    """
    if across < 1 or not len(images) or len(captions) > len(images):
        raise BadInput(f"{len(images)} images, {across} across, with {len(captions)} captions make no sheet.")
    (h, w), n = images.shape[-2:], len(images)
    text_px = max(11, round(0.105 * w))
    step_y = h + gap_px + (round(1.5 * text_px) if captions else 0)
    columns, rows = min(across, n), -(-n // across)
    sheet = Image.new("RGB", (columns * (w + gap_px) - gap_px, rows * step_y - gap_px), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, image in enumerate(images):
        x, y = place % across * (w + gap_px), place // across * step_y
        sheet.paste(to_image(image), (x, y))
        if place < len(captions):
            wide = pen.textlength(captions[place], ImageFont.load_default(text_px))
            font = ImageFont.load_default(max(8, int(text_px * min(1, w / max(1, wide)))))  # long ones are set smaller
            pen.text((x + w / 2, y + h + 0.8 * text_px), captions[place], INK, font, anchor="mm")
    return sheet


def stack_sheets(sheets: Sequence[Image.Image], headings: Sequence[str] = (), *, gap_px: int = 22) -> Image.Image:
    """Sheets below each other, all as wide as the first, each with a heading on its left edge if there is one."""
    if not sheets or len(headings) not in (0, len(sheets)):
        raise BadInput(f"{len(sheets)} sheets with {len(headings)} headings.", "Give one for each, or none.")
    width = sheets[0].width
    fitted = [s if s.width <= width else s.resize((width, round(s.height * width / s.width))) for s in sheets]
    text_px = max(13, round(0.021 * width))
    room = round(1.7 * text_px) if headings else 0
    page = Image.new("RGB", (width, sum(s.height + room + gap_px for s in fitted) - gap_px), PAPER)
    pen, y = ImageDraw.Draw(page), 0
    for row, sheet in enumerate(fitted):
        if headings:
            pen.text((0, y + 0.7 * text_px), headings[row], INK, ImageFont.load_default(text_px), anchor="lm")
        page.paste(sheet, (0, y + room))
        y += sheet.height + room + gap_px
    return page


def mark_parts(
    scenes: Scenes, number: int, *, names: Sequence[str] | None = None, zoom: int = 1
) -> Float[Tensor, "3 h w"]:
    """One scene with the boxes of its parts and dots at their middles, each part in its own colour.

    Args:
        names: parts to show; None takes all that are seen but sky and ground.
        zoom: how many times larger than the scene the picture is.
    """
    size = scenes.size * zoom
    image = to_image(scenes.images[number]).resize((size, size), Image.Resampling.NEAREST)
    pen, table = ImageDraw.Draw(image), label_colours(("-", *scenes.part_names))
    seen = [n for n in scenes.part_names if n not in ("sky", "ground") and int(scenes.boxes[number, scenes.part(n), 2])]
    thick = max(1, round(size / 75))
    for name in seen if names is None else names:
        place = scenes.part(name)
        colour = css(table[place + 1])
        top, left, bottom, right = (zoom * edge for edge in scenes.boxes[number, place].tolist())
        row, column, _ = (zoom * (value + 0.5) for value in scenes.parts[number, place].tolist())
        if bottom:
            pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thick)
            r = 1.4 * thick
            pen.ellipse((column - r, row - r, column + r, row + r), fill=colour, outline="white")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@draw.register
def _(noun: Scenes) -> str:
    n = len(noun)
    sheet = contact_sheet(noun.images[:MOST_SCENES].cpu())
    more = f"; the first {MOST_SCENES} of {n}" if n > MOST_SCENES else ""
    shown = {name: noun.labels[name][:1] for name in PLANES if name in noun.labels}
    planes = "".join(plane_figure(name, plane, noun.vocabulary[name]) for name, plane in shown.items())
    labels = f'<p>What is where in the first scene:</p><div style="{ROW}">{planes}</div>' if planes else ""
    return (
        f"<div><p><b>{escape(repr(noun))}</b>{more}</p>"
        f'<img src="{uri(sheet)}" alt="{n} rendered scenes" style="max-width:100%">'
        f"{labels}{factor_table(noun)}</div>"
    )


ROW = "display:flex;flex-wrap:wrap;gap:1rem"


def plane_figure(name: str, plane: Int[Tensor, "1 h w"], words: Sequence[str]) -> str:
    """A label map in colours, with a legend of the labels that are in it, the largest first."""
    picture = to_image(paint_labels(plane, words)[0])
    shares = torch.bincount(plane.flatten().cpu(), minlength=len(words)) / plane.numel()
    order = [i for i in shares.argsort(descending=True, stable=True).tolist() if shares[i] > 0]
    table = label_colours(words)
    called = ["none", *words[1:]]
    rows = "".join(
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:.8em;height:.8em;'
        f'background:{css(table[i])}"></span> {escape(called[i])}</span> '
        for i in order
    )
    words_alt = ", ".join(f"{called[i]} {100 * float(shares[i]):.0f} %" for i in order)
    return (
        f'<figure style="margin:0;width:11rem"><img src="{uri(picture)}" alt="{escape(name)}: {escape(words_alt)}" '
        f'style="width:100%;image-rendering:pixelated"><figcaption><b>{escape(name)}</b><br><small>{rows}</small>'
        f"</figcaption></figure>"
    )


def factor_table(scenes: Scenes) -> str:
    """Every factor of the first scene, and what it is over all of them; folded away."""
    rows: list[str] = []
    for factor in scenes.schema:
        values = scenes.factors[factor.name]
        if factor.values:
            counts = torch.bincount(values.cpu(), minlength=len(factor.values)).tolist()
            first = factor.values[int(values[0])]
            spread = ", ".join(f"{name} {count}" for name, count in zip(factor.values, counts, strict=True) if count)
        else:
            first = number(float(values[0]))
            spread = f"{number(float(values.min()))} … {number(float(values.max()))}"
        cells = f"<td>{escape(first)}</td><td>{escape(spread)}</td><td>{escape(factor.group)}</td>"
        rows.append(f'<tr><th scope="row">{escape(factor.name)}</th>{cells}</tr>')
    head = "<tr><th>factor</th><th>first scene</th><th>all scenes</th><th>group</th></tr>"
    return f"<details><summary>Factors</summary><table>{head}{''.join(rows)}</table></details>"
