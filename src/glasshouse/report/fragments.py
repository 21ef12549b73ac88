"""Nouns as pieces of HTML without scripts: for pages, and for notebooks through `draw`."""

from html import escape
from math import isfinite

from glasshouse.core import Card, Explanation, GlasshouseError, Images, Score
from glasshouse.core.result import draw
from glasshouse.evaluate import verdicts
from glasshouse.evaluate.calibration import ahead_of, light
from glasshouse.evaluate.trust import HEADLINES
from glasshouse.evaluate.words import NOT_ASKED
from glasshouse.report.colour import Scale, scale
from glasshouse.report.picture import FADE, gradient, ground, heat_image, to_image, uri, where
from glasshouse.report.words import (
    ARROW_WORDS,
    ARROWS,
    JUDGED,
    VERDICTS,
    measured,
    method_title,
    number,
    percent,
    title,
    what_it_shows,
)

MOST_MAPS = 8


def alt(explanation: Explanation, image: int = 0, label: str = "") -> str:
    """A heat map in words."""
    goal = f" for “{label}”" if label else ""
    return f"Heat map of {method_title(explanation)}{goal}: {where(explanation.heatmap[image])}."


def legend(explanation: Explanation, how: Scale, image: int = 0) -> str:
    """The colour bar with the numbers of its ends, and how they were chosen."""
    low, middle = (number(-how.end), "<span>0</span>") if how.signed else ("0", "")
    beyond = f"{percent(how.beyond)} of pixels lie beyond" if how.beyond else "no pixel lies beyond"
    ends = (
        f"Ends: {how.percentile:.0f}th percentile of the sizes; {beyond}."
        if how.percentile < 100
        else "Ends: largest size."
    )
    native = explanation.native.shape[-2:]
    if native != explanation.heatmap.shape[-2:]:
        ends += f" {native[0]} × {native[1]} values, interpolated."
    return (
        f'<div class="ramp" style="--ramp: {gradient(how.signed)}"></div>'
        f'<div class="ends num"><span>{low}</span>{middle}<span>{number(how.end)}</span></div>'
        f'<p class="quiet">{ends}</p>'
    )


def against_chance(score: Score, image: int) -> str:
    """How a value stands to chance, or why there is none."""
    if reason := score.reason[image]:
        passes = score.settings.get("passes") if reason == NOT_ASKED else None
        price = f": {passes:.0f} {'pass' if passes == 1 else 'passes'} of the model" if passes else ""
        return escape(reason.replace("_", " ")) + price
    if score.chance is None:
        return ""
    word, kind = VERDICTS.get(verdicts(score)[image], ("", "")) if score.metric in JUDGED else ("", "")
    return f'<span class="{kind}">{word}</span> ({number(score.chance)})' if word else f"chance {number(score.chance)}"


def among_the_ignorant(score: Score, image: int) -> str:
    """How many of the maps that know nothing of a model a value is ahead of, where that was measured."""
    share = ahead_of(score)[image]
    if not isfinite(share):
        return ""
    return f'<span class="light {light(share)}">ahead of {percent(share)}</span> of maps that know nothing'


def score_rows(scores: dict[str, Score], image: int = 0) -> str:
    """One row per score: value with standard error, direction, and how it stands to chance in words."""
    rows: list[str] = []
    for name, score in scores.items():
        value, error = float(score.value[image]), float(score.stderr[image])
        said = "; ".join(filter(None, (against_chance(score, image), among_the_ignorant(score, image))))
        below = f'<br><span class="quiet">{said}</span>' if said else ""
        arrow = f'<span aria-hidden="true">{ARROWS[score.direction]}</span>'
        hidden = f'<span class="hidden">, {ARROW_WORDS[score.direction]}</span>' if ARROWS[score.direction] else ""
        rows.append(
            f'<tr><th scope="row" title="{escape(name)}">{escape(title(name))}{arrow}{hidden}{below}</th>'
            f'<td class="num">{measured(value, error) if isfinite(value) else "–"}</td></tr>'
        )
    return "".join(rows)


def card_table(card: Card, image: int = 0) -> str:
    """The fidelity card of one image: the sentence, the headline scores, and the others folded away."""
    sentence = f"<p>{escape(card.sentences[image])}</p>" if card.sentences else ""
    first = {name: card.scores[name] for name in (*HEADLINES, "sparseness") if name in card.scores}
    rest = {name: score for name, score in card.scores.items() if name not in first}
    table = (
        f"<table><caption>How far to trust it ({escape(card.tier)} check)</caption>"
        f"<tbody>{score_rows(first, image)}</tbody></table>"
    )
    more = f"<details><summary>More numbers</summary><table><tbody>{score_rows(rest, image)}</tbody></table></details>"
    return table + sentence + (more if rest else "")


def heat_stack(explanation: Explanation, how: Scale, label: str, image: int = 0) -> str:
    """The heat map as paint, over whatever photograph the page puts behind it."""
    heat = explanation.heatmap[image]
    source = uri(heat_image(heat, how))
    h, w = heat.shape
    return (
        f'<div class="stack" style="--zero: {ground(how.signed)}; --fade: {FADE[how.signed]}; --ratio: {w} / {h}">'
        f'<img src="{source}" width="{w}" height="{h}" alt="{escape(alt(explanation, image, label))}"></div>'
    )


def photo_uri(pixels: Images) -> str:
    """The first photograph as a `data:` address."""
    return uri(to_image(pixels[0]), "JPEG")


def card_of(noun: Explanation) -> str:
    """The card of an explanation, asked for if need be; in words where it cannot be had."""
    try:
        return draw(noun.card) if noun.card else ""
    except GlasshouseError as error:
        return f"<p>No card: {escape(str(error))}</p>"


@draw.register
def _(noun: Explanation) -> str:
    maps: list[str] = []
    for image in range(min(len(noun), MOST_MAPS)):
        how = scale(noun.heatmap[image])
        source = uri(heat_image(noun.heatmap[image], how, paint=False))
        goal = f"class {noun.target[image]}, " if noun.target else ""
        words = f"{goal}score {number(float(noun.score[image]))}"
        side = f"0 … {number(how.end)}" if not how.signed else f"±{number(how.end)}"
        maps.append(
            f'<figure style="margin:0;width:14rem">'
            f'<img src="{source}" alt="{escape(alt(noun, image))}" style="width:100%">'
            f'<div style="height:.5rem;background:{gradient(how.signed)}"></div>'
            f"<figcaption><small>{words}; colours {side}</small></figcaption></figure>"
        )
    more = f"<p>… and {len(noun) - MOST_MAPS} more images</p>" if len(noun) > MOST_MAPS else ""
    at = f" at <code>{escape(noun.layer)}</code>" if noun.layer else ""
    card = card_of(noun)
    head = f"<p><b>{escape(method_title(noun))}</b>{at}. {what_it_shows(noun.method)}</p>"
    return f'<div>{head}<div style="display:flex;flex-wrap:wrap;gap:1rem">{"".join(maps)}</div>{more}{card}</div>'


@draw.register
def _(noun: Score) -> str:
    n = min(len(noun.value), MOST_MAPS)
    rows = "".join(score_rows({noun.metric: noun}, image) for image in range(n))
    more = f" (the first {n} of {len(noun.value)} images)" if n < len(noun.value) else ""
    return f"<table><caption>{escape(repr(noun))}{more}</caption><tbody>{rows}</tbody></table>"


@draw.register
def _(noun: Card) -> str:
    n = len(noun.sentences) or 1
    tables = "".join(card_table(noun, image) for image in range(min(n, MOST_MAPS)))
    return f"<div>{tables}</div>" + (f"<p>… and {n - MOST_MAPS} more images</p>" if n > MOST_MAPS else "")
