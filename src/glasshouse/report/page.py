"""One self-contained HTML file: opens by double click, fetches nothing, follows the reader's light or dark theme."""

import base64
import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from string import Template

import torch

from glasshouse import evaluate
from glasshouse._version import __version__
from glasshouse.core import BadInput, Card, Explanation, Images, Model
from glasshouse.evaluate import verdicts
from glasshouse.report.colour import scale
from glasshouse.report.commands import command_for, python_for
from glasshouse.report.fragments import card_table, heat_stack, legend, photo_uri
from glasshouse.report.views import View
from glasshouse.report.words import method_title, percent, title, what_it_shows

FRAME = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src '$script_hash'">
<meta name="generator" content="glasshouse $version">
<title>$title</title>
<style>$style</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<div class="wrap"><p class="brand">glasshouse</p><h1>$title</h1><p class="lede">$lede</p></div>
</header>
<div class="tools"><div class="wrap">$tools
<button id="theme" class="js" type="button" aria-label="Switch between light and dark">Dark</button>
<span id="said" class="hidden" role="status"></span>$nav</div></div>
<main id="main">$body</main>
<footer class="wrap"><div>$footer</div></footer>
<script>$script</script>
</body>
</html>
""")

MODES = (("overlay", "Overlay"), ("values", "Values alone"), ("photo", "Photograph"))

HOW_TO_READ = """<section><h2>How to read this page</h2>
<p>Each map answers the same question about one photograph: which parts made the model's score for the class what it
is? Maps without a sign run from dark (nothing) to yellow (much). Signed maps are white at zero: red spoke for the
class, blue against it. Colours compare places within one map; the numbers under its bar say what the colours stand
for, and methods measure different things, so the same colour in two maps is not the same amount.</p>
<p>Below each map stands how it fared when it was put to the test on this very photograph and model. <b>Removal
order</b>: how much faster the score falls when what the map marks is removed first rather than last.
<b>Random removals</b>: whether the map foretells what removing random parts does. <b>Sum is off by</b>: how far the
values miss the difference of scores that they should add up to. <b>Change with class</b> and <b>Kept by random
weights</b>: whether the map answers to the class and to what the model has learnt. <b>Sparseness</b>: 0 for a flat
map, near 1 for a single point. “Better than chance” means by more than three standard errors. A map that looks
convincing and fails the test is a picture, not an explanation.</p></section>"""


def html_page(
    title: str, body: Iterable[str], *, lede: str = "", tools: str = "", nav: str = "", footer: Iterable[str] = ()
) -> str:
    """The frame around sections of HTML. `title` and `lede` are plain text; all else is HTML already."""
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return FRAME.substitute(
        title=escape(title),
        lede=escape(lede),
        version=__version__,
        style=_asset("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        tools=tools,
        nav=nav,
        body="\n".join(body),
        footer="\n".join(footer),
    )


def explain_page(
    model: Model,
    views: Sequence[View],
    *,
    title: str | None = None,
    loading: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> str:
    """Photographs, what the model says of them, and each method's answer with its fidelity card.

    Args:
        loading: the arguments of `zoo.load` that gave the model, for the commands on the page; None takes its name
            where it came from there.
        more: further sections of HTML, such as `unit_section` makes.
    """
    if not views:
        raise BadInput("no views to show.", "Make some with report.explain(model, photos).")
    if loading is None:
        loading = {"spec": model.name} if model.source else {}
    n, kinds = len(views), dict.fromkeys(e.method for view in views for e in view.explanations)
    photos = "one photograph" if n == 1 else f"{n} photographs"
    methods = "one method" if len(kinds) == 1 else f"{len(kinds)} methods"
    lede = (
        f"What {model.name} sees in {photos}, and which parts of them made it say so, according to {methods}. "
        "Every map comes with a check of how far it can be trusted."
    )
    choices = "".join(
        f'<label class="choice"><input type="radio" name="show" id="show-{mode}"{" checked" * (mode == "overlay")}>'
        f"<span>{text}</span></label>"
        for mode, text in MODES
    )
    names = [short_name(view.photo) for view in views]
    links = "".join(
        f'<a href="#photo-{number}" aria-label="Go to {escape(name)}"><img src="{photo_uri(thumb(view))}" alt=""></a>'
        for number, (view, name) in enumerate(zip(views, names, strict=True), 1)
    )
    sections = [photo_section(model, view, number, loading) for number, view in enumerate(views, 1)]
    return html_page(
        title or f"What {model.name} sees",
        [*sections, *more],
        lede=lede,
        tools=f"<fieldset><legend>Show</legend>{choices}</fieldset>",
        nav=f'<nav aria-label="Photographs">{links}</nav>' if 1 < n <= 12 else "",
        footer=[HOW_TO_READ, provenance_section(model, views)],
    )


def photo_section(model: Model, view: View, number: int, loading: Mapping[str, str]) -> str:
    """One photograph with its predictions, and the maps beside it."""
    name, photo = short_name(view.photo), photo_uri(view.pixels)
    asked = dict.fromkeys(e.target[0] for e in view.explanations if e.target)
    bars = "".join(
        f'<li class="{"asked" if index in asked else ""}"><span>{escape(label)}'
        f'{" — explained" if index in asked else ""}</span><span class="num">{percent(share)}</span>'
        f'<i style="--p: {100 * share:.1f}%"></i></li>'
        for index, label, share in view.top
    )
    for index in set(asked) - {index for index, _, _ in view.top}:
        name_asked = f"<span>{escape(model.label(index))} — explained</span>"
        bars += f'<li class="asked">{name_asked}<span>not in the first five</span></li>'
    figures = "".join(map_figure(model, view, e, loading) for e in view.explanations)
    reasons = "".join(f"<li><b>{escape(title(m))}</b>: {escape(why)}</li>" for m, why in view.skipped.items())
    skipped = f'<div class="skipped"><p>Not applicable to this model:</p><ul>{reasons}</ul></div>' if reasons else ""
    words = f"{name}; the model says {view.top[0][1]} ({percent(view.top[0][2])})"
    path = "" if name == view.photo else f'<p class="path">{escape(view.photo)}</p>'
    return (
        f'<section class="photo" id="photo-{number}" aria-labelledby="name-{number}" style="--photo: url({photo})">'
        f"<div>"
        f'<div class="subject"><h2 id="name-{number}">{escape(name)}</h2>{path}'
        f'<img src="{photo}" alt="{escape(words)}" width="{view.pixels.shape[-1]}" height="{view.pixels.shape[-2]}">'
        f'<ol class="top" aria-label="Predictions">{bars}</ol>'
        f'<p class="quiet">Seen as the model saw it, {view.pixels.shape[-2]} × {view.pixels.shape[-1]} px.</p></div>'
        f'<div><div class="maps">{figures}</div>{skipped}</div></div></section>'
    )


def map_figure(model: Model, view: View, explanation: Explanation, loading: Mapping[str, str]) -> str:
    """One method's heat map with legend, caption, warnings, card, and how to make it again."""
    how = scale(explanation.heatmap[0])
    label = model.label(explanation.target[0]) if explanation.target else ""
    several = len({e.target for e in view.explanations}) > 1
    about = f' <span class="quiet">for {escape(label)}</span>' if several and label else ""
    at = f' <span class="quiet">at <code>{escape(explanation.layer)}</code></span>' if explanation.layer else ""
    seconds = explanation.provenance.get("seconds")
    took = f'<span class="quiet num">{seconds:.2g} s</span>' if seconds is not None else ""
    beware = escape("; ".join(text.rstrip(".") for text in warnings_of(explanation)))
    notes = f'<p class="note"><b>Beware</b> {beware}.</p>' if beware else ""
    codes = [("Python", python_for(view.photo, explanation, loading))]
    if line := command_for(view.photo, explanation, loading):
        codes.append(("Command line", line))
    blocks = "".join(
        f'<p class="quiet">{kind}</p><div class="code"><pre tabindex="0"><code>{escape(text)}</code></pre>'
        f'<button class="js" type="button" aria-label="Copy {kind}">Copy</button></div>'
        for kind, text in codes
    )
    return (
        f"<figure><header><h3>{escape(method_title(explanation))}{about}</h3>{took}</header>"
        f"{heat_stack(explanation, how, label)}{legend(explanation, how)}"
        f'<figcaption><p class="what">{what_it_shows(explanation.method)}{at}</p>{notes}'
        f"{card_table(explanation.attached) if explanation.attached else ''}</figcaption>"
        f"<details><summary>Make it again</summary>{blocks}</details></figure>"
    )


def warnings_of(explanation: Explanation) -> tuple[str, ...]:
    """What a reader must know before trusting a map: known of the method, or measured on this image.

    That the test was not clear is no warning of its own: the card under the map says it with its numbers.
    """
    card = explanation.attached or Card("none", {}, ())
    unclear = [name for name, score in card.scores.items() if name == "srg" and verdicts(score)[0] == "unclear"]
    scores = {name: score for name, score in card.scores.items() if name not in unclear}
    return evaluate.warnings(explanation, replace(card, scores=scores))


def provenance_section(model: Model, views: Sequence[View]) -> str:
    """Versions, model, preprocessing, what was chosen, and time."""
    first = views[0].explanations[0].provenance if views[0].explanations else {}
    rows = [
        ("Model", model.name),
        *((key.capitalize(), value) for key, value in model.source.items()),
        ("Input", repr(model.preprocessing)),
        *(("Chosen", sentence) for sentence in model.chosen),
        ("Time", f"{sum(view.seconds for view in views):.1f} s for {len(views)} photographs, cards included"),
        ("Device", f"{first.get('device', 'unknown')}, {first.get('dtype', 'unknown')}"),
        ("Versions", f"glasshouse {__version__}, torch {torch.__version__}, Python {platform.python_version()}"),
    ]
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in rows)
    return f"<section><h2>How it was made</h2><dl>{items}</dl></section>"


def short_name(photo: str) -> str:
    """The last part of a path."""
    return photo.replace("\\", "/").rstrip("/").rpartition("/")[2] or photo


def thumb(view: View) -> Images:
    """The photograph at 64 pixels."""
    return torch.nn.functional.interpolate(view.pixels, (64, 64), mode="area")


def _asset(name: str) -> str:
    return files("glasshouse.report").joinpath(name).read_text(encoding="utf-8")
