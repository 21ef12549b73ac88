"""Forms for people: one self-contained page of questions about explanations, which says nothing of the answers."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template

from glasshouse._version import __version__
from glasshouse.core import Images, Maps
from glasshouse.core.files import written
from glasshouse.core.result import draw
from glasshouse.evaluate.human.drafting import OPTIONS, Kind
from glasshouse.evaluate.human.scoring import HumanScore
from glasshouse.evaluate.human.simulation import Simulatability
from glasshouse.evaluate.human.studies import HumanStudy, Trial
from glasshouse.report.colour import scale
from glasshouse.report.page import FRAME, MODES, _asset
from glasshouse.report.picture import FADE, gradient, ground, heat_image, to_image, uri, where
from glasshouse.report.study_nouns import headed, plain_table
from glasshouse.report.words import measured

SMALL_PX = 96 * 96
"""Images up to this size are written without loss: when they are drawn large, every artefact of JPEG would show."""

MOST_ROWS = 40
TITLES: dict[Kind, str] = {
    "agreement": "Is the model right?",
    "distinction": "Which map belongs to the answer?",
    "bias": "Has the model learnt a shortcut?",
}
LEDES: dict[Kind, str] = {
    "agreement": (
        "A model has looked at photographs and given an answer for each. Beside every photograph is a map of what the "
        "model based its answer on. Say how sure you are that the answer is right. Some answers are right, some wrong."
    ),
    "distinction": (
        "A model has looked at photographs and named one thing in each. Of the four maps beside a photograph, one "
        "shows what spoke for the thing it named; the other three show what spoke for things that it did not name. "
        "Say which map belongs to its answer."
    ),
    "bias": (
        "Each question shows maps of one model, which mark what it based its answers on. Some models answer by the "
        "things they are asked about. Others have learnt a shortcut: they answer by something else that happened to go "
        "with them. Say which kind of model drew the maps."
    ),
}
SAYS: dict[Kind, tuple[str, ...]] = {
    "agreement": ("1 – surely wrong", "2 – rather wrong", "3 – rather right", "4 – surely right"),
    "distinction": ("Map A", "Map B", "Map C", "Map D"),
    "bias": ("Yes, a shortcut", "No"),
}
SURE = ("1 – a guess", "2 – rather unsure", "3 – rather sure", "4 – certain")
UNSIGNED = ("dark: counted for nothing", "bright: counted for much")
SIGNED = ("blue: spoke against", "white: nothing", "red: spoke for")


def study_form(study: HumanStudy, *, title: str = "", instructions: str = "") -> str:
    """One page with all questions: opens by double click, fetches nothing, gives the answers as a CSV file to save.

    The page holds no class but those that participants are told, and names of trials that were drawn at random. What
    you add is for you to check.

    Args:
        title: in place of a question that suits the kind of study.
        instructions: what else people should know, as plain text: what the model was asked, what the shortcut may be.
    """
    style, script = _asset("style.css") + _asset("form.css"), _asset("script.js") + _asset("form.js")
    shown = list(dict.fromkeys(image for trial in study.trials for image in trial.images))
    places = {image: place for place, image in enumerate(shown)}
    photos = "".join(f".p{places[image]}{{--photo:url({photo_uri(study.pixels, image)})}}" for image in shown)
    h, w = study.maps.shape[-2:]
    signed = bool((study.maps < 0).any())
    cards = [card(study, trial, number, places, signed) for number, trial in enumerate(study.trials, 1)]
    return Template(FRAME.template.replace("to the results", "to the questions")).substitute(
        title=escape(title or TITLES[study.kind]),
        lede=escape(LEDES[study.kind]),
        version=__version__,
        style=f"{style}:root{{--ratio:{w} / {h}}}{photos}",
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        tools=tools(len(cards)),
        nav="",
        body="\n".join([explained(signed, instructions), *cards, finish(study)]),
        footer="",
    )


def write_form(
    study: HumanStudy, folder: str | os.PathLike[str], *, title: str = "", instructions: str = ""
) -> tuple[Path, Path]:
    """The page to hand out and the answer key to keep, as two files: `form-….html` and `key-….json`.

    Args:
        title: as in `study_form`.
        instructions: as in `study_form`.
    """
    page, key = (Path(folder) / f"{kind}-{study.name}.{end}" for kind, end in (("form", "html"), ("key", "json")))
    text = study_form(study, title=title, instructions=instructions)
    study.key.write(key)
    with written(page) as file:
        file.write(text.encode())
    return page, key


def photo_uri(pixels: Images, image: int) -> str:
    """One photograph as a `data:` address."""
    photo = pixels[image]
    return uri(to_image(photo), "PNG" if photo.shape[-2] * photo.shape[-1] <= SMALL_PX else "JPEG")


def tools(count: int) -> str:
    """How far one has come, the way to the next question, and what the maps show."""
    choices = "".join(
        f'<label class="choice"><input type="radio" name="show" id="show-{mode}"{" checked" * (mode == "overlay")}>'
        f"<span>{text}</span></label>"
        for mode, text in MODES
    )
    return (
        f'<div class="progress"><progress max="{count}" value="0" aria-label="Questions answered"></progress>'
        f'<span class="done num" role="status">0 of {count} answered</span></div>'
        f'<button id="next" class="js" type="button">Next open question</button>'
        f"<fieldset><legend>Maps</legend>{choices}</fieldset>"
    )


def explained(signed: bool, instructions: str) -> str:
    """What the colours mean, and whatever else was to be said."""
    more = "".join(f"<p>{escape(text)}</p>" for text in instructions.split("\n\n") if text.strip())
    ends = "".join(f"<span>{text}</span>" for text in (SIGNED if signed else UNSIGNED))
    return (
        f'<section><div><div class="explains">{more}<p>Colours compare places within one map, not one map with '
        f'another.</p><div class="ramp" style="--ramp: {gradient(signed)}"></div><div class="ends">{ends}</div>'
        "<noscript><p>This form needs JavaScript to save your answers.</p></noscript></div></div></section>"
    )


def heat(study: HumanStudy, image: int, row: int, places: dict[int, int], signed: bool, words: str) -> str:
    """One map as paint over its photograph. All maps of a study have the same colours, whatever their own signs."""
    values: Maps = study.maps[row : row + 1]
    how = replace(scale(values[0]), signed=signed)
    return (
        f'<span class="stack p{places[image]}" style="--zero: {ground(signed)}; --fade: {FADE[signed]}">'
        f'<img src="{uri(heat_image(values[0], how))}" alt="{words}: {where(values[0])}."></span>'
    )


def radios(group: str, values: Sequence[str], texts: Sequence[str]) -> str:
    """One choice of several."""
    return "".join(
        f'<label class="choice"><input type="radio" name="{group}" value="{value}"><span>{escape(text)}</span></label>'
        for value, text in zip(values, texts, strict=True)
    )


def card(study: HumanStudy, trial: Trial, number: int, places: dict[int, int], signed: bool) -> str:
    """One question."""
    kind, texts = study.kind, SAYS[study.kind]
    sure = radios(f"sure-{trial.name}", OPTIONS["agreement"], SURE)
    sure = f'<fieldset class="sure"><legend>How sure are you?</legend>{sure}</fieldset>'
    pairs = list(zip(trial.images, trial.maps, strict=True))
    photo = f'<span class="whole p{places[trial.images[0]]}" role="img" aria-label="Photograph {number}"></span>'
    if kind == "distinction":
        options = "".join(
            f'<label class="option"><input type="radio" name="answer-{trial.name}" value="{value}"><span class="name">'
            f"{text}</span>{heat(study, image, row, places, signed, text)}</label>"
            for (image, row), value, text in zip(pairs, OPTIONS[kind], texts, strict=True)
        )
        body = (
            f'<div class="four"><div><span class="name">Photograph</span>{photo}</div>'
            f'<fieldset class="ask"><legend>Which map belongs to the model’s answer?</legend>{options}</fieldset>'
            f"{sure}</div>"
        )
    else:
        if kind == "agreement":
            ((image, row),) = pairs
            drawn = heat(study, image, row, places, signed, "Map")
            shown = "".join(
                f'<div><span class="name">{name}</span>{what}</div>'
                for name, what in (("Photograph", photo), ("What the answer was based on", drawn))
            )
            says = f"The model says “{escape(trial.label)}”. Is it right?" if trial.label else "Is its answer right?"
        else:
            shown = "".join(
                heat(study, image, row, places, signed, f"Map {place}") for place, (image, row) in enumerate(pairs, 1)
            )
            says = "Has the model behind these maps learnt a shortcut?"
        columns = 2 if kind == "agreement" else min(3, len(pairs)) if len(pairs) != 4 else 2
        width = (27, 24, 22)[columns - 1] * columns
        body = (
            f'<div class="shown" style="--columns: {columns}; --width: {width}rem">{shown}</div>'
            f'<fieldset class="ask"><legend>{says}</legend>'
            f"{radios(f'answer-{trial.name}', OPTIONS[kind], texts)}</fieldset>{'' if kind == 'agreement' else sure}"
        )
    return (
        f'<section class="trial" id="{trial.name}" aria-labelledby="head-{trial.name}"><div>'
        f'<h2 id="head-{trial.name}">Question {number} <small>of {len(study.trials)}</small>'
        f'<span class="tick">✓ answered</span></h2>{body}</div></section>'
    )


def finish(study: HumanStudy) -> str:
    """The end of the form: a name, and the button that saves."""
    return (
        f'<section id="finish" data-study="{study.name}" aria-labelledby="head-finish"><div>'
        '<h2 id="head-finish">Save your answers</h2>'
        '<p class="explains">Nothing has been sent anywhere. The button writes a small file '
        "with your answers; please "
        "send it to whoever gave you this form. You may leave questions open, and save again after changes.</p>"
        '<p class="done num"></p>'
        '<label for="participant">Your name or number, if you were given one</label>'
        '<input id="participant" type="text" maxlength="40" autocomplete="off">'
        '<div><button id="save" class="js" type="button">Save answers</button></div>'
        '<p id="told" role="status"></p></div></section>'
    )


def percents(value: float, ends: tuple[float, float]) -> str:
    """A share with its interval."""
    if value != value:
        return "–"
    return f"{100 * value:.0f} % ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})"


@draw.register
def _(noun: HumanScore) -> str:
    bias = noun.kind == "bias"
    rows = [
        (
            one.name,
            str(one.n_answered),
            str(one.n_missing),
            percents(one.accuracy, one.interval),
            *((measured(one.d_prime, one.d_prime_stderr),) if bias else ()),
        )
        for one in noun.participants[:MOST_ROWS]
    ]
    heads = ("Participant", "Answers", "Missing", "Right, with 95 % interval", *(("d′",) if bias else ()))
    whole = [
        ("Right", percents(noun.accuracy, noun.interval)),
        ("By guessing", f"{100 * noun.chance:.0f} %"),
        ("Chance of this many by guessing", f"{noun.p_value:.2g}"),
        *((("d′", measured(noun.d_prime, noun.d_prime_stderr)),) if bias else ()),
        (
            "Confidence, right and wrong",
            f"{noun.confidence_right:.2f}, {noun.confidence_wrong:.2f}".replace("nan", "–"),
        ),
    ]
    return headed(noun, [plain_table("All answers", ("", ""), whole), plain_table("By participant", heads, rows)])


@draw.register
def _(noun: Simulatability) -> str:
    taught, untaught, random = noun.accuracy
    rows = [
        ("with maps", f"{100 * taught:.0f} %", change(noun.gain, noun.interval)),
        ("with random maps", f"{100 * random:.0f} %", change(noun.random_gain, noun.random_interval)),
        ("without maps", f"{100 * untaught:.0f} %", ""),
        ("always the same answer", f"{100 * noun.chance:.0f} %", ""),
    ]
    heads = ("A student taught", "says what the model says", "gain in points, with 95 % interval")
    return headed(noun, [plain_table(f"Student: {noun.student}, {noun.n_train} lessons", heads, rows)])


def change(value: float, ends: tuple[float, float]) -> str:
    """A gain in points with its interval."""
    return f"{100 * value:+.0f} ({100 * ends[0]:+.0f} to {100 * ends[1]:+.0f})"
