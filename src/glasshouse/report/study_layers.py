"""A layer of a study: how many units detect what, and how sure that is."""

from html import escape

from glasshouse.core.labelled import Label
from glasshouse.report.study_charts import (
    Link,
    concept_bars,
    iou_text,
    numbers_list,
    plural,
    points,
    range_text,
    share,
    swatch,
    table,
    unit_links,
)
from glasshouse.report.study_classes import classes_part, traits_part
from glasshouse.report.study_facts import LayerFacts
from glasshouse.report.words import percent


def layer_findings(facts: LayerFacts, link: Link, level: int = 3) -> str:
    """All that is said of the layer as a whole. `level` is that of the headings."""
    parts = [numbers_list(layer_numbers(facts)), concepts_part(facts, link, level)]
    parts += [classes_part(facts, link, level), traits_part(facts, level)]
    return "".join(parts)


def layer_numbers(facts: LayerFacts) -> list[tuple[str, str]]:
    """The numbers at the head of a layer."""
    n, found, single = len(facts.units), facts.dissection, facts.single
    whole = facts.told.get("units", n)
    rows = [(str(n), "units" if whole == n else f"of {whole} units studied")]
    rows += [(str(len(facts.dead)), "dead")] if facts.exemplars else []
    if found is not None:
        unique = len(found.unique("any")), len(found.unique("best"))
        rows += [
            (str(len(facts.detectors)), f"detectors, IoU above {found.min_iou:g}"),
            (str(int(found.significant.sum())), "of them clearly more than position alone gives"),
            (str(unique[0]), "unique detectors, every category of a unit counted"),
            (str(unique[1]), "unique detectors, only the best category counted"),
            (percent(found.false_positive_rate), "of units would be detectors by position alone"),
        ]
    if facts.selectivity is not None:
        rows.append((f"{float(facts.selectivity.index.nanmedian()):.2f}", "median class selectivity"))
    if single is not None:
        rows.append((points(float(single.max_class_drop.max())), "points: largest change of a class without one unit"))
    return rows


def concepts_part(facts: LayerFacts, link: Link, level: int) -> str:
    """What was detected, as a chart and as a table that leads to the units."""
    found = facts.dissection
    if found is None:
        return ""
    chosen = labelled_units(facts)
    head = f"<h{level}>What its units detect</h{level}>"
    if not chosen:
        return (
            f"{head}<p>No unit agrees with any of the {len(found.labels)} concepts of the data set: "
            f"no IoU is above {found.min_iou:g}.</p>"
        )
    counts = [
        (
            category,
            facts.hue(category),
            sorted(
                ((label.name, len(units)) for label, units in chosen.items() if label.category == category),
                key=lambda bar: (-bar[1], bar[0]),
            ),
        )
        for category in found.categories
    ]
    words = (
        f"Each detector counts once, for the concept that it agrees with best. "
        f"{int(found.n_images.sum())} images, {len(found.labels)} concepts; the other "
        f"{plural(len(facts.units) - len(facts.detectors), 'unit')} detect no concept of this data set."
    )
    return f"{head}<p>{words}</p>{concept_bars(counts)}{units_table(facts, chosen, link)}"


def labelled_units(facts: LayerFacts) -> dict[Label, list[int]]:
    """The detectors of each concept, the best first; concepts by category, those with most units first."""
    assert facts.dissection is not None
    labels = {(label.name, label.category): label for label in facts.dissection.labels}
    found: dict[Label, list[int]] = {}
    for unit in facts.numbers:
        key = str(facts.fact(unit, "label")), str(facts.fact(unit, "category"))
        if unit in facts.detectors and key in labels:
            found.setdefault(labels[key], []).append(unit)
    places = {category: place for place, category in enumerate(facts.dissection.categories)}
    return dict(sorted(found.items(), key=lambda item: (places[item[0].category], -len(item[1]), item[0].name)))


def units_table(facts: LayerFacts, chosen: dict[Label, list[int]], link: Link) -> str:
    """The concepts with their units."""
    rows = ""
    for label, units in chosen.items():
        iou, low, high = (facts.fact(units[0], key) for key in ("iou", "iou_low", "iou_high"))
        interval = f", {range_text(low, high)}" if low is not None else ""
        rows += (
            f'<tr><th scope="row">{swatch(facts.hue(label.category))}{escape(label.name)} '
            f'<span class="quiet">{escape(label.category)}</span></th>'
            f'<td class="num">{iou_text(iou)}{interval}</td>'
            f'<td class="links words">{unit_links(units, link)}</td></tr>'
        )
    heads = ("Concept", "Best IoU, 95 % interval", "Units, the best first")
    whole = table("Concepts and their units", heads, rows, kind="wide")
    return f"<details><summary>Concepts and their units</summary>{whole}</details>"


def summary_row(facts: LayerFacts, href: str) -> str:
    """The layer as a row of the table of layers."""
    found, n = facts.dissection, len(facts.units)
    cells = [str(n), str(len(facts.dead)) if facts.exemplars else "–"]
    if found is None:
        cells += ["–"] * 4
    else:
        detectors = len(facts.detectors)
        unique = f"{len(found.unique('any'))} / {len(found.unique('best'))}"
        cells += [f"{detectors} ({share(detectors, n)})", str(int(found.significant.sum())), unique]
        cells.append(percent(found.false_positive_rate))
    cells.append(f"{float(facts.selectivity.index.nanmedian()):.2f}" if facts.selectivity else "–")
    cells.append(points(float(facts.single.max_class_drop.max())) if facts.single else "–")
    grid = facts.told.get("grid")
    kind = escape(str(facts.told.get("kind", ""))) + (f", {grid[0]} × {grid[1]}" if grid else "")
    rest = "".join(f'<td class="num">{cell}</td>' for cell in cells)
    return (
        f'<tr><th scope="row"><a href="{href}"><code>{escape(facts.name)}</code></a> '
        f'<span class="quiet">{kind}</span></th>{rest}</tr>'
    )
