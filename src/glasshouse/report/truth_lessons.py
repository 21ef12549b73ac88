"""What the maps of several methods taught a student, and whether they give attacked images away: a row for each."""

from collections.abc import Mapping, Sequence
from html import escape

from glasshouse.core import Noun
from glasshouse.core.result import draw
from glasshouse.diagnose import Detection
from glasshouse.evaluate import Simulatability
from glasshouse.evaluate.truth.controls import CONTROLS
from glasshouse.evaluate.truth.leads import CLEAR
from glasshouse.report.study_charts import plural
from glasshouse.report.truth_charts import Span, fixed, whisker
from glasshouse.report.truth_tables import framed, heading

GAINS = (
    ("gain over no maps", "up", "Accuracy after lessons with maps, less accuracy after lessons without."),
    ("gain over random places", "up", "Less accuracy after lessons with the same values in random places."),
)
TELLING = (
    ("told right", "up", "How often a small network tells whether a map's image was attacked. Chance 0.5."),
    ("control", "diagnostic", "The same with the two maps of half of the images swapped: 0.5 if nothing is wrong."),
)
STUDENTS: Mapping[str, str] = {"knn": "nearest neighbours", "logistic": "logistic regression"}
WITHIN = 1.96
"""Standard errors on each side of a mean within which it lies in 95 % of samples."""


def lessons(found: Mapping[str, Noun]) -> str:
    """Results of one kind by method: a table if they are of lessons or of attacks, else one after the other."""
    taught = {name: one for name, one in found.items() if isinstance(one, Simulatability)}
    attacked = {name: one for name, one in found.items() if isinstance(one, Detection)}
    if found and len(taught) == len(found):
        return lessons_of(taught)
    if found and len(attacked) == len(found):
        return attacks_of(attacked)
    return "".join(f"<h3>{escape(name)}</h3>{draw(one)}" for name, one in found.items()) or "<p>Nothing was found.</p>"


def lessons_of(found: Mapping[str, Simulatability]) -> str:
    """How much better a student predicts the model after lessons with maps."""
    first = next(iter(found.values()))
    values = {
        name: [
            (one.gain, (one.interval[1] - one.interval[0]) / (2 * WITHIN)),
            (one.gain_over_random, (one.interval_over_random[1] - one.interval_over_random[0]) / (2 * WITHIN)),
        ]
        for name, one in found.items()
    }
    student = escape(STUDENTS.get(first.student, first.student))
    said = (
        f"A student ({student}) saw {plural(first.n_train, 'lesson')}: images, what the model said of "
        f"them, and where the map lies; then it was asked what the model would say of {len(first.without)} others, "
        f"without maps. Untaught by maps it is right in {fixed(first.accuracy[1])}; always the most frequent answer "
        f"would be in {fixed(first.chance)}."
    )
    return by_method("What maps taught a student", said, values, GAINS, 0.0)


def attacks_of(found: Mapping[str, Detection]) -> str:
    """Whether heat maps tell attacked images from clean ones."""
    first = next(iter(found.values()))
    values = {name: [(one.accuracy, one.stderr), (one.control, one.control_stderr)] for name, one in found.items()}
    said = (
        f"{plural(len(first.rows), 'image')} and the same after an attack that changed the model’s answer. A small "
        "network learns on other images to tell the two by their maps alone."
    )
    return by_method("Whether maps give attacked images away", said, values, TELLING, 0.5)


def by_method(
    name: str,
    said: str,
    values: Mapping[str, Sequence[tuple[float, float]]],
    columns: Sequence[tuple[str, str, str]],
    chance: float,
) -> str:
    """Means with errors: methods by the first column, best first, then controls.

    Args:
        said: HTML.
        columns: title, direction, question.
    """
    spans = [
        Span.of([chance, *(own[c][0] + sign * own[c][1] for own in values.values() for sign in (-1, 1))])
        for c in range(len(columns))
    ]
    top = '<th scope="col">maps of</th>' + "".join(
        heading(*column, span.text) for column, span in zip(columns, spans, strict=True)
    )
    rows = dict.fromkeys((False, True), "")
    for who in sorted(values, key=lambda who: -values[who][0][0]):
        cells = ""
        for (mean, error), span in zip(values[who], spans, strict=True):
            dots = whisker(mean, error, span, chance, mean - CLEAR * error > chance)
            cells += f'<td><span class="num">{fixed(mean)} ± {fixed(error)}</span>{dots}</td>'
        shown = escape(who) if who in CONTROLS else f"<code>{escape(who)}</code>"
        rows[who in CONTROLS] += f'<tr><th scope="row">{shown}</th>{cells}</tr>'
    group = f'<tr class="group"><th scope="rowgroup" colspan="{len(columns) + 1}">'
    bodies = "".join(
        f"<tbody>{group}{words}</th></tr>{rows[own]}</tbody>"
        for own, words in ((False, "methods, best first"), (True, "controls"))
        if rows[own]
    )
    asks = "".join(f"<dt>{escape(title)}</dt><dd>{escape(question)}</dd>" for title, _, question in columns)
    return (
        f'<div class="truth"><p>{said} A dot is a mean, its whisker one standard error, the thin line chance; a hollow '
        f"dot is not above it by three standard errors.</p>{framed(name, top, bodies)}"
        f"<details><summary>What the columns ask</summary><dl>{asks}</dl></details></div>"
    )
