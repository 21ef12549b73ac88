"""Methods and metrics by what they were found to be worth: tables with a dot and a whisker in every cell."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from glasshouse.core import NotFound, PerImage, Score, find_method
from glasshouse.core.result import draw
from glasshouse.evaluate import Benchmark, Suite
from glasshouse.evaluate.truth.controls import CONTROLS
from glasshouse.evaluate.truth.funnybirds import THRESHOLDS
from glasshouse.evaluate.truth.leads import CLEAR, in_errors
from glasshouse.evaluate.truth.methods import ALIKE
from glasshouse.evaluate.truth.tracks import TRACKS
from glasshouse.report.study_charts import plural
from glasshouse.report.truth_charts import Span, fixed, whisker
from glasshouse.report.words import ARROW_WORDS, ARROWS, measured

ASKS: Mapping[str, str] = {
    "importance": "Do parts with more of the map matter more to the model? Rank correlation over the visible parts.",
    "shapley": "Is each part given its fair share? Cosine of the map's sums over parts and their Shapley values.",
    "relevant_mass": "How much of what is positive lies on parts that matter, less their share of the pixels?",
    "relevant_auc": "How often is a pixel of a part that matters above one of a part that does not?",
    "pointing": "Is the strongest pixel on a part that matters, less what such parts cover?",
    "null_mass": "How much of the map lies on parts that never matter, less their share of the pixels?",
    "contrast": "Does the difference of two classes' maps follow the difference of what parts are worth to them?",
    "steady": "How far do the parts' shares move when another background is drawn that does not matter?",
    "other_class": "How alike are the map and that of another class? From 0.5 they are nearer to each other than to 0.",
    "completeness": "Are the marked parts all that are needed, and no more? Mean of the checks on the right.",
    "correctness": "Are parts ranked by what is lost without each? (rho + 1) / 2.",
    "contrastivity": "Does the map change with the class as the effects do? (rho + 1) / 2.",
    "preservation": "Do the marked parts alone keep the answer?",
    "deletion": "Is the answer lost without the marked parts?",
    "sufficient": "How much of a smallest sufficient set of parts is marked?",
    "distractibility": "How many of the parts that never matter are not marked?",
}
"""What each column asks: tracks of `benchmark`, then checks of `protocol`."""

CHECKED = tuple(ASKS)[tuple(ASKS).index("completeness") :]
DOTS = (
    "A dot is the mean over scenes, its whisker one standard error. The thin line is what a map without information "
    "gets. A filled dot is better than that by more than three standard errors; a hollow one is not."
)


class Chance(NamedTuple):
    """What a map without information gets in one column: a line to draw, and what is compared with, scene by scene."""

    line: float | None
    tested: PerImage | float | None

    @staticmethod
    def of(known: float | None, blank: Score | None, ties: float) -> "Chance":
        """A number that is known; else what the constant map gets, and `ties` where it puts the same on all parts."""
        if known is not None or blank is None:
            return Chance(known, known)
        return Chance(blank.mean, blank.value.nan_to_num(ties))


@draw.register
def _(noun: Benchmark) -> str:
    columns = noun.tracks
    heads = {t: (TRACKS[t].title, TRACKS[t].direction) for t in columns}
    blank = noun.scores.get("constant", {})
    lines = {t: Chance.of(ALIKE if t == "other_class" else TRACKS[t].chance, blank.get(t), 0.0) for t in columns}
    notes = {name: noun.note(name) for name in noun.scores if name not in CONTROLS}
    order = [name for name in noun.ranking() if name in notes]
    controls = [name for name in CONTROLS if name in noun.scores]
    main = scored("Methods and what they were found to know", noun.scores, (order, controls), heads, lines, notes)
    checks = ""
    if noun.checks:
        heads = {c: (c, "up") for c in CHECKED if any(c in own for own in noun.checks.values())}
        worth = {name: own["completeness"].mean for name, own in noun.checks.items()}
        order = sorted((n for n in order if n in worth), key=lambda name: -worth[name] if worth[name] >= 0 else 1)
        blank = noun.checks.get("constant", {})
        lines = {c: Chance.of(0.5 if c == "contrastivity" else None, blank.get(c), 0.5) for c in heads}
        shares = ", ".join(f"{100 * share:.0f}" for share in THRESHOLDS)
        checks = (
            f"<h3>Complete, correct, contrastive?</h3><p>The checks of FunnyBirds (Hesse, Schaub-Meyer and Roth, ICCV "
            f"2023): a part is marked if it has at least a share of what the most marked one has; means over shares of "
            f"{shares} %.</p>" + scored("The checks of FunnyBirds", noun.checks, (order, controls), heads, lines)
        )
    return f'<div class="truth">{findings(noun)}<p>{DOTS}</p>{main}{checks}{left_out(noun.skipped)}</div>'


def findings(noun: Benchmark) -> str:
    """The main results in words."""
    order = [name for name in noun.ranking() if name not in CONTROLS]
    if not order:
        return "<p>Controls only: no method was asked.</p>"
    best, blank = noun.scores[order[0]]["importance"], noun.scores["constant"]["importance"]
    first = f"{plural(len(order), 'method')}; no scene has enough parts to rank."
    if bool(best.valid.any()):
        first = (
            f"Of {plural(len(order), 'method')}, <code>{escape(order[0])}</code> ranks parts best by how much they "
            f"matter: {two_digits(best)}, where the constant map has {two_digits(blank)}."
        )
    flagged = [noun.flags(name) for name in order]
    weak, blind = (sum(flag in own for own in flagged) for flag in ("not above chance", "class-insensitive"))
    return f"<p>{first} Not clearly above chance: {weak}. Much the same map for another class: {blind}.</p>"


def scored(
    name: str,
    scores: Mapping[str, Mapping[str, Score]],
    groups: tuple[Sequence[str], Sequence[str]],
    heads: Mapping[str, tuple[str, str]],
    lines: Mapping[str, Chance],
    notes: Mapping[str, str] | None = None,
) -> str:
    """Methods, then controls, by columns; each cell a number over a dot with its whisker.

    Args:
        heads: a title and a direction for each column.
        notes: a last column.
    """
    spans = dict[str, Span]()
    for column in heads:
        own = [s[column] for s in scores.values() if column in s]
        ends = [s.mean + sign * s.error for s in own for sign in (-1, 1)]
        spans[column] = Span.of([*ends, *(s.mean for s in own), lines[column].line])  # the error may not be known
    top = "".join(heading(*heads[c], ASKS.get(c, ""), spans[c].text) for c in heads)
    top = f'<th scope="col">method</th>{top}' + ('<th scope="col">note</th>' if notes is not None else "")
    bodies = ""
    for group, words in zip(groups, ("methods, best first", "controls"), strict=True):
        rows = ""
        for who in group:
            own = scores.get(who, {})
            cells = "".join(f"<td>{cell(own.get(c), spans[c], lines[c])}</td>" for c in heads)
            note = "" if notes is None else f'<td class="words">{escape(notes.get(who, ""))}</td>'
            shown = escape(who) if who in CONTROLS else f"<code>{escape(who)}</code>"
            rows += f'<tr><th scope="row">{shown}</th>{cells}{note}</tr>'
        width = len(heads) + 1 + (notes is not None)
        title = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{words}</th></tr>'
        bodies += f"<tbody>{title}{rows}</tbody>" if rows else ""
    told = "".join(f"<dt>{escape(heads[c][0])}</dt><dd>{escape(ASKS[c])}</dd>" for c in heads if c in ASKS)
    return framed(name, top, bodies) + f"<details><summary>What the columns ask</summary><dl>{told}</dl></details>"


def heading(title: str, direction: str, question: str, ends: str = "") -> str:
    """A column's title with an arrow, what it asks, and the ends of its axis."""
    arrow = ARROWS[direction].replace(" ", "&nbsp;")
    axis = f'<br><small class="num">{ends}</small>' if ends else ""
    label = f"{title}, {ARROW_WORDS[direction]}"
    return f'<th scope="col" title="{escape(question)}" aria-label="{escape(label)}">{escape(title)}{arrow}{axis}</th>'


def cell(score: Score | None, span: Span, chance: Chance) -> str:
    """A mean with its error, and below it the same as a dot with a whisker."""
    if score is None:
        return "–"
    if not bool(score.valid.any()):
        return f'<span title="{escape(score.reason[0].replace("_", " "))}">–</span>'
    dots = whisker(score.mean, score.error, span, chance.line, clear(score, chance.tested))
    return f'<span class="num">{two_digits(score)}</span>{dots}'


def clear(score: Score, reference: PerImage | float | None, least: int = 2) -> bool:
    """Whether a score is better than something by more than three standard errors, image by image.

    Args:
        least: how many images it takes; of a single one, the metric's own error counts.
    """
    if reference is None:
        return True
    gap = (score.value.double() - reference) * (-1 if score.direction == "down" else 1)
    known = gap.isfinite()
    if int(known.sum()) == 1 >= least:
        return float(gap[known][0]) > CLEAR * float(score.stderr[known][0])
    return in_errors(gap) > CLEAR


def two_digits(score: Score) -> str:
    """A mean and its error with two digits after the point."""
    mean = fixed(score.mean)
    return f"{mean} ± {fixed(score.error)}" if int(score.valid.sum()) > 1 else mean


def framed(name: str, top: str, bodies: str) -> str:
    """A table that scrolls where it is wider than the page, by keyboard as well."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{top}</tr></thead>{bodies}</table></div>"
    )


def left_out(skipped: Mapping[str, str], what: str = "Left out") -> str:
    """What could not be measured, and why."""
    reasons = "".join(f"<li><code>{escape(name)}</code>: {escape(why)}</li>" for name, why in skipped.items())
    return f'<div class="skipped"><p>{what}:</p><ul>{reasons}</ul></div>' if reasons else ""


def question_of(name: str) -> str:
    """The first line of a metric's docstring; empty for one that is not registered here."""
    try:
        return find_method(name, "evaluate").title
    except NotFound:
        return ""


def row_head(metric: str, direction: str) -> str:
    """A metric at the head of a row, with an arrow and what it asks."""
    label = f"{metric}, {ARROW_WORDS[direction]}"
    return (
        f'<th scope="row" title="{escape(question_of(metric))}" aria-label="{escape(label)}">'
        f"<code>{escape(metric)}</code>{ARROWS[direction]}</th>"
    )


@draw.register
def _(noun: Suite) -> str:
    names, rows = list(noun.scores), ""
    for metric in dict.fromkeys(name for own in noun.scores.values() for name in own):
        scores = [own.get(metric) for own in noun.scores.values()]
        first = next(score for score in scores if score is not None)
        known = [score for score in scores if score is not None]
        span = Span.of([first.chance, *(s.mean + sign * s.error for s in known for sign in (-1, 0, 1))])
        cells = ""
        for score in scores:
            if score is None or not bool(score.valid.any()):
                why = "" if score is None else next((reason for reason in score.reason if reason), "")
                cells += f"<td>– <small>{escape(why.replace('_', ' '))}</small></td>"
                continue
            filled = clear(score, score.chance, least=1)
            dots = whisker(score.mean, score.error, span, score.chance, filled)
            cells += f'<td><span class="num">{measured(score.mean, score.error)}</span>{dots}</td>'
        rows += f"<tr>{row_head(metric, first.direction)}{cells}</tr>"
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("metric", *names))
    missed = {f"{metric}, {name}": why for name, own in noun.skipped.items() for metric, why in own.items()}
    images = max((len(s.value) for own in noun.scores.values() for s in own.values()), default=0)
    return (
        f'<div class="truth"><p>{plural(len(names), "explanation")} of {plural(images, "image")}; '
        f"{noun.n_forward} forward passes. Dots are means, whiskers one standard error; each metric has its own axis, "
        f"and a thin line where chance is known. A hollow dot is not better than chance by more than three standard "
        f"errors.</p>"
        f"{framed('Metrics by explanation', heads, f'<tbody>{rows}</tbody>')}{left_out(missed)}</div>"
    )
