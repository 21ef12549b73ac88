"""Single units of a study: what each saw, what it agrees with, and what is lost without it."""

from html import escape

import torch

from glasshouse.report.study_charts import change, forest, gauge, iou_text, points, range_text, swatch, table
from glasshouse.report.study_facts import LayerFacts
from glasshouse.report.units import drawn_figure
from glasshouse.report.words import number, percent

MOST_CLASSES = 12
SHOWN = {
    "top": ("Strongest, dark where the unit is below its threshold", "strongest"),
    "spectrum": ("Its range, from weakest to strongest tenth", "decile"),
}
NOTHING_KEPT = '<p class="quiet">No pictures were kept of this unit.</p>'


def unit_card(facts: LayerFacts, unit: int, name: str) -> str:
    """A unit on a page of many; `name` is its address there."""
    hue = facts.hue(facts.fact(unit, "category")) if unit in facts.detectors else 0
    return (
        f'<article class="unit cat-{hue}" id="{name}" aria-labelledby="{name}-name">'
        f'<header><h4 id="{name}-name">Unit {unit}</h4>{unit_label(facts, unit)}</header>'
        f'<div class="halves"><div>{unit_pictures(facts, unit)}</div>'
        f"<div>{unit_activation(facts, unit)}{concept_table(facts, unit)}{unit_damage(facts, unit)}</div></div>"
        f"</article>"
    )


def unit_tile(facts: LayerFacts, unit: int, href: str) -> str:
    """A unit in a grid of small pictures that lead to its own page."""
    hue = facts.hue(facts.fact(unit, "category")) if unit in facts.detectors else 0
    first = facts.pictures(unit, "top")[:1]
    image = f'<img src="{first[0]}" alt="" loading="lazy">' if first else '<span class="no-image"></span>'
    drop = facts.fact(unit, "max_class_drop")
    worst = escape(str(facts.fact(unit, "worst_class")))
    damage = f'<span class="quiet">{worst} {points(drop)}</span>' if drop else ""
    return (
        f'<li class="cat-{hue}"><a href="{href}">{image}<span>Unit {unit}</span></a>'
        f"{unit_label(facts, unit, short=True)}{damage}</li>"
    )


def unit_label(facts: LayerFacts, unit: int, short: bool = False) -> str:
    """What a unit is called, or why it is not called anything."""
    if unit in facts.dead:
        return '<p class="label">Dead: 0 at every position of every image</p>'
    iou, name, category = (facts.fact(unit, key) for key in ("iou", "label", "category"))
    if facts.dissection is None or iou is None or name is None:
        return ""
    if unit not in facts.detectors:
        nearest = f"nearest is {escape(str(name))}, IoU {iou_text(iou)}"
        return f'<p class="label quiet">No concept of this data set{"" if short else f"; the {nearest}"}</p>'
    named = f"<b>{swatch(facts.hue(category))}{escape(str(name))}</b>"
    if short:
        return f'<p class="label">{named} <span class="num">{iou_text(iou)}</span></p>'
    low, high, chance = (facts.fact(unit, key) for key in ("iou_low", "iou_high", "chance_iou"))
    interval = f", 95 % interval {range_text(low, high)}" if low is not None else ", no interval: too few images"
    position = f"; by position alone {iou_text(chance)}" if chance is not None else ""
    doubt = ""
    if chance is not None and (low is None or low <= chance):
        doubt = ' <span class="note">not clearly more than position alone gives</span>'
    return (
        f'<p class="label">{named} <span class="quiet">{escape(str(category))}</span> '
        f'<span class="num">IoU {iou_text(iou)}{interval}{position}</span>{doubt}</p>'
    )


def unit_pictures(facts: LayerFacts, unit: int) -> str:
    """The strongest images, the range, and the picture that was drawn for the unit."""
    strips = "".join(
        f'<p class="quiet">{head}</p>{strip}'
        for kind, (head, _) in SHOWN.items()
        if (strip := picture_strip(facts, unit, kind))
    )
    drawn, row = "", facts.fact(unit, "drawn")
    if facts.picture is not None and row is not None and 0 <= int(row) < len(facts.picture):
        drawn = f'<div class="drawn">{drawn_figure(facts.picture, int(row), unit)}</div>'
    return (strips or NOTHING_KEPT) + drawn


def picture_strip(facts: LayerFacts, unit: int, kind: str) -> str:
    """Small pictures in a row, each with the activation in it."""
    pictures, row = facts.pictures(unit, kind), facts.seen_row.get(unit)
    if not pictures:
        return ""
    values, ids = [None] * len(pictures), [None] * len(pictures)
    if facts.exemplars is not None and row is not None:
        picks = facts.exemplars.strongest if kind == "top" else facts.exemplars.spectrum
        if picks.ids.shape[1] == len(pictures):
            values, ids = picks.values[row].tolist(), picks.ids[row].tolist()
    items: list[str] = []
    for place, (picture, value, image) in enumerate(zip(pictures, values, ids, strict=True), 1):
        name = facts.image_names.get(image, str(image)) if image is not None else ""
        words = f"unit {unit}, {SHOWN[kind][1]} {place} of {len(pictures)}"
        words += f", activation {number(value)}, image {name}" if value is not None else ""
        below = f'<span class="num">{number(value)}</span>' if value is not None else ""
        title = f' title="{escape(name)}"' if name else ""
        items.append(f'<li><img src="{picture}" alt="{escape(words)}"{title}>{below}</li>')
    return f'<ul class="patches">{"".join(items)}</ul>'


def unit_activation(facts: LayerFacts, unit: int) -> str:
    """How a unit responds to all images."""
    peak, mean, resting, threshold = (facts.fact(unit, key) for key in ("peak", "mean", "resting", "threshold"))
    if peak is None:
        return ""
    parts = [f"Peak {number(peak)}"]
    parts += [f"mean {number(mean)}"] if mean is not None else []
    parts += [f"exactly 0 at {percent(resting)} of places"] if resting is not None else []
    parts += [f"threshold {number(threshold)}"] if threshold is not None else []
    return f'<p class="quiet num wrapping">{", ".join(parts)}.</p>'


def concept_table(facts: LayerFacts, unit: int, intervals: bool = False) -> str:
    """The concepts that a unit agrees with best."""
    concepts = facts.concepts(unit)
    if not concepts:
        return ""
    heads = ("Concept", "", "IoU", *(("95 % interval", "By position alone") if intervals else ()))
    rows = ""
    for one in concepts:
        cells = f'<td class="num">{iou_text(one.iou)}</td>'
        if intervals:
            cells += f'<td class="num">{range_text(one.low, one.high)}</td><td class="num">{iou_text(one.chance)}</td>'
        rows += (
            f'<tr class="cat-{facts.hue(one.label.category)}"><th scope="row">{escape(one.label.name)} '
            f'<span class="quiet">{escape(one.label.category)}</span></th>'
            f'<td class="graph">{gauge(one, facts.end, facts.min_iou)}</td>{cells}</tr>'
        )
    caption = f"Best concepts; bars end at {iou_text(facts.end)}, the line is {iou_text(facts.min_iou)}"
    return table("Best concepts", heads, rows, caption=caption, kind="numeric" if intervals else "")


def unit_damage(facts: LayerFacts, unit: int) -> str:
    """What is lost without the unit, and which class it prefers."""
    rows: list[tuple[str, str]] = []
    row, single, losses = facts.damage_row(unit), facts.single, facts.losses
    if single is not None and losses is not None and row is not None:
        overall, error = float(losses.overall[row]), float(losses.overall_error[row])
        rows.append(("All classes", f"{points(overall, 2)} ± {100 * error:.2f} points"))
        worst = int(losses.worst[row])
        drop, low, high = (float(values[row, worst]) for values in (losses.damage, losses.low, losses.high))
        value = f"{escape(single.class_name(worst))}: {change(drop, low, high)}" if drop > 0 else "no class gets worse"
        rows.append(("Worst class", value))
    head = '<p class="quiet">Change of accuracy without it</p>' if rows else ""
    index, preferred = facts.fact(unit, "selectivity"), facts.fact(unit, "preferred")
    if index is not None:
        prefers = f", prefers {escape(str(preferred))}" if preferred is not None else ""
        rows.append(("Selectivity", f"{index:.2f}{prefers}"))
    items = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows)
    return f'{head}<dl class="facts">{items}</dl>' if items else ""


def damage_table(facts: LayerFacts, unit: int) -> str:
    """What each class loses without the unit, the worst first."""
    row, single, losses = facts.damage_row(unit), facts.single, facts.losses
    if single is None or losses is None or row is None:
        return ""
    drops, low, high = losses.damage[row], losses.low[row], losses.high[row]
    ranked = drops.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist()
    order = [place for place in ranked if int(single.total[place])]
    shown = order[:MOST_CLASSES]
    end = max([0.01, *(max(abs(float(low[place])), abs(float(high[place]))) for place in shown)])
    rows = ""
    for place in shown:
        drop, least, most = (float(values[place]) for values in (drops, low, high))
        right = int(single.right[place]) / int(single.total[place])
        rows += (
            f'<tr><th scope="row">{escape(single.class_name(place))}</th>'
            f'<td class="num">{percent(right)}</td><td class="num">{percent(right - drop)}</td>'
            f'<td class="graph">{forest(-drop, -most, -least, end)}</td>'
            f'<td class="num">{points(drop)}, {points(most)} … {points(least)}</td></tr>'
        )
    rest = len(order) - len(shown)
    more = f'<p class="quiet">The other {rest} lose less, or gain.</p>' if rest else ""
    caption = (
        f"Accuracy of each class with and without the unit; change in points, with a 95 % interval for that class by "
        f"itself. The graph ends at ±{100 * end:.1f} points."
    )
    heads = ("Class", "With", "Without", "", "Change")
    return table("Accuracy of classes", heads, rows, caption=caption, kind="numeric") + more


def remarks(facts: LayerFacts, unit: int) -> str:
    """What people, or anything but the dissection, called the unit or wrote about it."""
    said = [
        f'<li>{escape(str(row["label"]))} <span class="quiet">{escape(str(row["source"]))}</span></li>'
        for row in facts.store.labels(facts.name, unit)
        if row["source"] != "dissection"
    ]
    said += [
        f'<li>{escape(str(row["text"]))} <span class="quiet">{escape(str(row["author"]))}</span></li>'
        for row in facts.store.notes(facts.name, unit)
    ]
    return f"<ul>{''.join(said)}</ul>" if said else ""
