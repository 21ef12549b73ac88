"""Whether units that detect something matter for the classes: what is lost without them, and what goes with that."""

from html import escape
from math import isfinite, isnan

from glasshouse.report.study_charts import (
    TRAITS,
    Link,
    correlation_text,
    forest,
    plural,
    points,
    swatch,
    table,
    unit_links,
)
from glasshouse.report.study_facts import LayerFacts
from glasshouse.report.study_question import Answer, grouped, trait_correlations
from glasshouse.study import align


def classes_part(facts: LayerFacts, link: Link, level: int) -> str:
    """Whether units that detect what a class is named for matter for that class."""
    if facts.dissection is None or (facts.single is None and facts.groups is None):
        return ""
    body = ""
    if facts.groups is not None:
        body += groups_table(facts, link)
    if facts.single is not None:
        body += single_answer(facts, link)
    return f"<h{level}>Do the units of a class matter for that class?</h{level}>{body}"


def groups_table(facts: LayerFacts, link: Link) -> str:
    """What is lost without all detectors of a concept at once."""
    assert facts.groups is not None
    assert facts.dissection is not None
    found = grouped(facts.dissection, facts.groups)
    if not found:
        return ""
    rows = ""
    for one in found:
        right = one.worst in one.classes and one.drop > 0
        worst = f"{escape(facts.groups.class_name(one.worst))}, {points(one.drop)}" if one.drop > 0 else "no class"
        rows += (
            f'<tr><th scope="row">{swatch(facts.hue(one.concept.category))}{escape(one.concept.name)}</th>'
            f'<td class="links">{unit_links(one.units, link)}</td>'
            f'<td class="num">{points(one.own[0])} ± {100 * one.own[1]:.1f}</td>'
            f'<td class="num">{points(one.elsewhere[0])} ± {100 * one.elsewhere[1]:.1f}</td>'
            f'<td class="words">{"✓ " * right}{worst}</td></tr>'
        )
    hits = sum(one.worst in one.classes and one.drop > 0 for one in found)
    harmed = sum(one.drop > 0 for one in found)
    words = (
        f"The units that detect a concept best, taken away at once: of {plural(harmed, 'concept')} whose units do "
        f"damage, {hits} damage a class named for them most."
    )
    aligned = align(facts.groups)
    if not isnan(aligned.value):
        words += (
            f" Over all concepts and classes, the correlation of the damage with being named for the concept is "
            f"{aligned.value:.2f}, 95 % interval {aligned.low:.2f}–{aligned.high:.2f}."
        )
    caption = (
        "Change of accuracy in points, ± standard error over images; ✓ where a class named for the concept suffers most"
    )
    heads = ("Concept", "Units taken away", "Classes named for it", "Other classes", "Suffers most")
    return f"<p>{words}</p>{table('Groups of units and classes', heads, rows, caption=caption, kind='wide')}"


def single_answer(facts: LayerFacts, link: Link) -> str:
    """The same unit by unit."""
    assert facts.single is not None
    assert facts.dissection is not None
    if not bool((facts.single.lost + facts.single.won).any()):
        return (
            f"<p>No image of {facts.single.n_images} changes between right and wrong when any one unit is taken away: "
            "the other units make up for it, so single units cannot say which class needs which. "
            "Take units away in groups, or use harder images.</p>"
        )
    found = facts.answer
    if found is None or not found.pairings:
        return "<p>No class is named for a concept of the data set, so they cannot be held against each other.</p>"
    rows = ""
    for pair in found.pairings:
        r = pair.correlation
        rows += (
            f'<tr><th scope="row">{swatch(facts.hue(pair.concept.category))}{escape(pair.concept.name)} '
            f'<span class="quiet">{plural(len(pair.classes), "class", "classes")}</span></th>'
            f'<td class="links">{unit_links(pair.units, link) or "none"}</td>'
            f'<td class="num">{blank(pair.own)}</td><td class="num">{blank(pair.others)}</td>'
            f'<td class="num">{blank(pair.elsewhere)}</td>'
            f'<td class="graph">{forest(r.value, r.low, r.high)}</td>'
            f'<td class="num">{correlation_text(r)}</td></tr>'
        )
    caption = (
        "Mean change of accuracy in points, one unit taken away at a time; and over all units, the rank correlation "
        "of IoU with the concept and damage to its classes, with its 95 % interval (Spearman). It takes units for "
        "independent, which they are not quite."
    )
    heads = (
        "Concept",
        "Its units",
        "Its classes, without its units",
        "Its classes, without other units",
        "Other classes, without its units",
        "",
        "Correlation",
    )
    return f"<p>{answer_words(found)}</p>{table('Single units and classes', heads, rows, caption=caption, kind='wide')}"


def blank(drop: float) -> str:
    """A change of accuracy; a dash where no unit is there to be taken away."""
    return points(drop, 2) if isfinite(drop) else "–"


def answer_words(found: Answer) -> str:
    """The answer in two sentences."""
    if not found.n_units:
        return "No unit detects what a class is named for."
    units, verb = plural(found.n_units, "unit"), "detects" if found.n_units == 1 else "detect"
    more = f"{abs(100 * found.excess):.2f} points {'more' if found.excess >= 0 else 'less'}"
    interval = (
        f" (95 % interval {100 * found.low:+.2f} … {100 * found.high:+.2f} over units)".replace("-", "−")
        if isfinite(found.low)
        else ""
    )
    return (
        f"{units} {verb} something that classes are named for. Taken away by itself, such a unit costs these "
        f"classes on average {more} than the other classes{interval}. {found.hits} of the {found.n_harmful} that do "
        f"damage harm a class of their concept most; if all classes were alike it would be {found.expected:.1f}."
    )


def traits_part(facts: LayerFacts, level: int) -> str:
    """Which properties of a unit go with the damage done by taking it away."""
    if facts.single is None or not bool((facts.single.lost + facts.single.won).any()):
        return ""
    rows = ""
    for name, r in trait_correlations(facts.single, facts.dissection).items():
        if not isfinite(r.value):
            continue
        rows += (
            f'<tr><th scope="row">{TRAITS.get(name, name)}</th>'
            f'<td class="graph">{forest(r.value, r.low, r.high)}</td>'
            f'<td class="num">{correlation_text(r)}</td><td class="num">{r.n}</td></tr>'
        )
    if not rows:
        return ""
    heads = ("Property", "", "Correlation", "Units")
    return (
        f"<h{level}>Which units are missed?</h{level}><p>How properties of a unit go with the damage to the class that "
        f"suffers most without it: rank correlation (Spearman) over units, with its 95 % interval.</p>"
        f"{table('Properties of units and damage', heads, rows)}"
    )
