"""A study at a glance: the network and the data, its layers side by side, and how to read what is said of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from glasshouse.report.study_charts import plural, swatch, table
from glasshouse.report.study_facts import LayerFacts, Row
from glasshouse.report.study_layers import labelled_units, summary_row
from glasshouse.report.words import percent
from glasshouse.study.store import Store

HOW_TO_READ = """<section><h2>How to read this page</h2>
<p><b>IoU</b> says how far the places where a unit is strong are the places that carry a concept's label: pixels in
both, over pixels in either, summed over all images. A unit is strong above its <b>threshold</b>, which few of its
activations reach. A <b>detector</b> has an IoU above the least one with its best concept; that is a convention, and
a low one. A unit that passes it answers to other things as well: look at its whole range, not only at its strongest
images.</p>
<p>The <b>95 % interval</b> says how the IoU would vary with other images. <b>By position alone</b> is the IoU that the
unit would have if it saw another image than the one whose labels are looked at: what is always at the top of an image
agrees with sky. Labels come from the concepts of the data set only; what it does not mark, no unit can be found to
detect.</p>
<p><b>Change of accuracy</b> is counted with one unit set to 0, everything else as it is. Each interval is for that
class by itself; the worst of many classes looks worse than it is. Where nothing changes, other units may stand in: no
damage does not mean that a unit is not used. <b>Selectivity</b> is 0 for a unit that responds to all classes alike, 1
for one that responds to a single class; selective units need not be important ones.</p></section>"""


@dataclass(frozen=True)
class Summary:
    """What is kept of a layer once its page is written.

    Args:
        row: of the table of layers.
        counts: how many units detect each concept, by category and name.
        hues: the colour of each category.
    """

    layer: str
    row: str
    counts: dict[tuple[str, str], int]
    hues: dict[str, int]
    accuracy: tuple[float, int] | None


def summarise(facts: LayerFacts, href: str) -> Summary:
    """A layer in brief."""
    found = facts.dissection
    counts = {(one.category, one.name): len(units) for one, units in (labelled_units(facts) if found else {}).items()}
    hues = {category: facts.hue(category) for category in (found.categories if found else ())}
    accuracy = None
    if facts.ablation is not None and facts.ablation.n_images:
        accuracy = float(facts.ablation.right.sum() / facts.ablation.total.sum()), facts.ablation.n_images
    return Summary(facts.name, summary_row(facts, href), counts, hues, accuracy)


def overview(store: Store, summaries: Sequence[Summary]) -> str:
    """The network, the data, and the layers side by side."""
    rows = "".join(one.row for one in summaries)
    heads = (
        "Layer",
        "Units",
        "Dead",
        "Detectors",
        "Clear of position",
        "Unique: all / best category",
        "By position alone",
        "Median selectivity",
        "Largest class change, points",
    )
    layers = table("Layers", heads, rows, kind="wide numeric")
    return (
        f'<section class="study" aria-labelledby="study"><div><h2 id="study">The network and the data</h2>'
        f"{model_card(store, summaries)}<h3>Layers</h3>{layers}{across_layers(summaries)}</div></section>"
    )


def model_card(store: Store, summaries: Sequence[Summary]) -> str:
    """What was studied, and on what."""
    about = store.about
    model, data = about["model"], about["data"]
    names = [str(name) for name in model.get("class_names") or ()]
    rows = [("Network", f"{model.get('name', 'unnamed')} ({model.get('class', 'of unknown class')})")]
    rows += [("Weights", f"SHA-256 {str(model['fingerprint'])[:16]}…")] if model.get("fingerprint") else []
    rows += [("Classes", f"{len(names)}: {', '.join(names[:12])}{', …' * (len(names) > 12)}")] if names else []
    known = next((one.accuracy for one in summaries if one.accuracy), None)
    rows += [("Accuracy", f"{percent(known[0])} of {known[1]} images")] if known else []
    if about.get("preprocess"):
        settings = (f"{key.replace('_', ' ')} {_said(value)}" for key, value in about["preprocess"].items())
        rows.append(("Input", ", ".join(settings)))
    if data:
        mark = str(data.get("fingerprint", "unknown"))[:16]
        rows.append(("Data", f"{data.get('n_items', 'unknown')} images, SHA-256 of their ids {mark}…"))
    items = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows)
    return f"<dl>{items}</dl>"


def across_layers(summaries: Sequence[Summary]) -> str:
    """How many units detect each concept, layer by layer."""
    known = [one for one in summaries if one.counts]
    if not known:
        return ""
    totals: Counter[tuple[str, str]] = Counter()
    for one in known:
        totals.update(one.counts)
    hues = {category: hue for one in known for category, hue in one.hues.items()}
    order = list(hues)
    heads = ("Concept", *(f"<code>{escape(one.layer)}</code>" for one in known))
    rows = ""
    for category, name in sorted(totals, key=lambda key: (order.index(key[0]), -totals[key], key[1])):
        cells = "".join(f'<td class="num">{one.counts.get((category, name), 0) or "–"}</td>' for one in known)
        rows += (
            f'<tr><th scope="row">{swatch(hues[category])}{escape(name)} '
            f'<span class="quiet">{escape(category)}</span></th>{cells}</tr>'
        )
    return (
        f"<h3>Where concepts are detected</h3><p>Units that detect each concept best, layer by layer.</p>"
        f'<div class="tall">{table("Concepts by layer", heads, rows, kind="numeric")}</div>'
    )


def provenance(store: Store) -> str:
    """What made the study, and what is not finished in it."""
    made = store.about["provenance"]
    rows = [
        ("Made", str(made.get("made", "unknown"))),
        ("Versions", f"glasshouse {made.get('glasshouse')}, torch {made.get('torch')}, Python {made.get('python')}"),
        ("Machine", f"{made.get('machine', 'unknown')}, {plural(int(made.get('threads') or 1), 'thread')}"),
        *([("Seed", str(made["seed"]))] if made.get("seed") is not None else []),
        *((f"Job {job['name']}", _job(job)) for job in store.jobs()),
    ]
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows)
    return f"<section><h2>How it was made</h2><dl>{items}</dl></section>"


def _job(job: Row) -> str:
    again = f", begun again {plural(int(job['resumes']), 'time')}" if job["resumes"] else ""
    state = "" if job["state"] == "done" else f"{job['state']}, not finished: "
    return f"{state}{job['seconds']:.1f} s{again}"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
