"""What was measured against the truth, as one self-contained page."""

import base64
import hashlib
import platform
import re
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any

import torch

from glasshouse._version import __version__
from glasshouse.core import BadInput, Noun
from glasshouse.core.result import draw
from glasshouse.evaluate import Benchmark, BiasDetection, Judgement, Suite
from glasshouse.evaluate.truth.judgements import JudgedTwice
from glasshouse.report.page import FRAME, _asset
from glasshouse.report.study_charts import plural
from glasshouse.report.truth_lessons import lessons

LEDE = (
    "Rendered scenes can be drawn again without one of their parts, so it is known what each part is worth to a model. "
    "Heat maps are held against that, and so are the metrics that are used to judge heat maps where nothing is known."
)
TITLES: Mapping[str, str] = {
    "methods": "Methods",
    "metrics": "Metrics",
    "metrics_trained": "Metrics on a trained model",
    "bias": "Shortcuts",
    "units": "Planted units",
    "concepts": "Planted concepts",
    "students": "Simulated students",
    "attacks": "Attacked images",
    "wired_classifier": "Methods on a glass model",
    "null_channels": "Methods on a model with an idle channel",
}
INTRODUCES: Mapping[type[Noun], str] = {
    Benchmark: "Which methods say what a model uses? A part of a scene matters as much as the model’s score falls when "
    "the part is not drawn.",
    Judgement: "Which metrics can tell a good map from a bad one? Each was given the same maps: the oracle, which "
    "spreads what parts are worth over their pixels, the oracle with more and more noise, and maps that know nothing.",
    JudgedTwice: "Do verdicts on metrics last? Each was given the same maps, of scenes that the rule was settled on "
    "and of fresh ones: the oracle, the oracle with more and more noise, and maps that know nothing.",
    BiasDetection: "Which methods show that a model goes by a shortcut? Some of these models learnt one, some did not.",
    Suite: "Scores of several explanations of the same images.",
}
READ = """<section><h2>How to read this page</h2>
<p><b>Truth is about the model, not the picture.</b> A part that the model does not use is worth nothing, however much
it looks like the object. The <b>oracle</b> is a map made of the truth itself: what it gets is what can be got. Four
<b>controls</b> know nothing of the model: a Gaussian in the <b>centre</b>, the image’s <b>edges</b>, the same value
everywhere (<b>constant</b>), and noise (<b>random</b>). A method that does no better has shown nothing of the
model.</p>
<p>Arrows say which way is better. Numbers are means over scenes with one standard error. <b>Not above chance</b>: not
better than the constant map by more than three standard errors; beside it, how much more would most likely have shown
with so many scenes.
<b>Class-insensitive</b>: the map of another class is much the same (cosine of 0.5 or more), so the map is no argument
for one class. A <b>metric passes</b> if it puts the oracle clearly ahead of every control, no map clearly ahead of the
oracle, and none clearly behind noise. Beside it stands what the <b>means alone</b> say of the oracle and the four
controls, ties included. The test of a metric holds for these scenes, this model, and this way of removing
parts.</p></section>"""
STYLE = """
.truth > p { max-width: 52rem; }
.truth table { font-size: .82rem; width: auto; min-width: 60%; }
.truth td, .truth th { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: middle; }
.truth td:last-child { text-align: left; }
.truth thead th { vertical-align: bottom; background: var(--paper); box-shadow: 0 1px var(--line); }
.truth thead th { padding-block: .3rem; }
.truth thead small { font-size: .9em; }
.truth tbody th[scope=row] { white-space: nowrap; position: sticky; left: 0; background: var(--paper); }
.truth th code { overflow-wrap: normal; font-size: .88em; }
.truth .group th { color: var(--soft); padding-top: 1.1rem; border-top: 0; }
.truth .words { min-width: 7.5rem; max-width: 24rem; }
.truth h3 { margin: 2.2rem 0 .5rem; }
.truth dl { max-width: 60rem; margin-top: .6rem; font-size: .9rem; }
footer dt { max-width: 11rem; }
@media (min-width: 84rem) {
  .truth > .scroll { overflow: visible; }
  .truth > .scroll thead th { position: sticky; top: 3.1rem; z-index: 1; }
}
@media print {
  @page { size: landscape; }
  .truth .scroll { overflow: visible; }
  .truth table { font-size: .62rem; } .truth td, .truth th { padding-right: .4rem; }
  .truth tr { break-inside: avoid; } .truth tbody th[scope=row] { position: static; }
  .truth svg { max-width: 100%; height: auto; }
}
"""


def truth_page(
    results: Mapping[str, Noun | Mapping[str, Noun]], *, title: str = "Held against the truth", lede: str = LEDE
) -> str:
    """One page with a section for each result: opens by a double click, fetches nothing.

    Args:
        results: by name, what `benchmark`, `judge`, `judge_twice`, `bias_detection`, `simulated_students` or `suite`
            returned, another noun, or what `diagnose.detect_adversarial` returned for each of some methods.
        title: as plain text.
        lede: the line below it, as plain text.
    """
    if not results:
        raise BadInput("no results to show.", "Give some by name, such as {'methods': evaluate.benchmark(…)}.")
    anchors = {name: f"result-{number}" for number, name in enumerate(results, 1)}
    links = "".join(f'<a href="#{at}">{escape(heading_of(name))}</a>' for name, at in anchors.items())
    sections = [section(name, noun, anchors[name]) for name, noun in results.items()]
    script = _asset("script.js")
    return Template(FRAME.template).substitute(
        title=escape(title),
        lede=escape(lede),
        version=__version__,
        style=_asset("style.css") + STYLE,
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        tools="",
        nav=f'<nav class="crumbs" aria-label="Results">{links}<a href="#read">How to read this page</a></nav>',
        body="\n".join(sections),
        footer=READ.replace("<section>", '<section id="read">') + made(results),
    )


def section(name: str, noun: Noun | Mapping[str, Noun], anchor: str) -> str:
    """One result under its heading."""
    shown = draw(noun) if isinstance(noun, Noun) else lessons(noun)
    words = next((f"<p>{text}</p>" for kind, text in INTRODUCES.items() if isinstance(noun, kind)), "")
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-name"><div>'
        f'<h2 id="{anchor}-name">{escape(heading_of(name))}</h2>'
        f'<div class="truth">{words}</div>{shown}</div></section>'
    )


def heading_of(name: str) -> str:
    """A result's name as a heading."""
    text = TITLES.get(name) or re.sub(r"[_\s]+", " ", name).strip()
    return text[:1].upper() + text[1:]


def made(results: Mapping[str, Noun | Mapping[str, Noun]]) -> str:
    """Settings of each result, and versions."""
    parts = ""
    for name, found in results.items():
        several = [] if isinstance(found, Noun) else list(found.values())
        settings: dict[str, Any] = getattr(several[0] if several else found, "settings", {})
        said = repr(found) if isinstance(found, Noun) else plural(len(several), "result")
        items = [
            said,
            *(f"{key.replace('_', ' ')} {value}" for key, value in settings.items()),
        ]
        parts += f"<dt>{escape(heading_of(name))}</dt><dd>{escape('; '.join(items))}</dd>"
    versions = f"glasshouse {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return f"<section><h2>How it was made</h2><dl>{parts}<dt>Versions</dt><dd>{versions}</dd></dl></section>"
