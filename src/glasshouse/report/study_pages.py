"""A study as one page, or as a folder of them, one per layer and unit. Each page is one file and fetches nothing."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from glasshouse.core import BadInput
from glasshouse.core.files import written
from glasshouse.report.page import html_page
from glasshouse.report.study_charts import plural
from glasshouse.report.study_facts import LayerFacts, chosen_layers, read_layer
from glasshouse.report.study_layers import layer_findings
from glasshouse.report.study_overview import HOW_TO_READ, Summary, overview, provenance, summarise
from glasshouse.report.study_units import (
    concept_table,
    damage_table,
    remarks,
    unit_activation,
    unit_card,
    unit_damage,
    unit_label,
    unit_pictures,
    unit_tile,
)
from glasshouse.study.store import Store
from glasshouse.study.store.layout import folder_of

MARK = '<meta name="generator" content="glasshouse'


def study_page(
    store: Store,
    *,
    layers: Sequence[str] | None = None,
    max_units: int | None = None,
    max_mb: float | int = 25,
) -> str:
    """A whole study on one page: the network, each layer, and its units with their images, labels and damage.

    Args:
        layers: which to show; None shows all.
        max_units: of each layer; those that agree best with a concept are shown, else those that peak highest.
        max_mb: size that the page stays below, by leaving out units; it says how many. `write_study` leaves none out.
    """
    found = [read_layer(store, name) for name in chosen_layers(store, layers)]
    summaries = [summarise(facts, f"#layer-{place}") for place, facts in enumerate(found)]
    head, foot = overview(store, summaries), [HOW_TO_READ, provenance(store)]
    title, lede, tools = title_of(store), lede_of(store), category_choice(summaries)
    every = [layer_section(facts, place, facts.numbers, []) for place, facts in enumerate(found)]
    bare = html_page(title, [head, *every], lede=lede, tools=tools, footer=foot)
    room = 1e6 * max_mb - len(bare.encode())
    sections: list[str] = []
    for place, facts in enumerate(found):
        cards = fitting_cards(facts, place, max_units, room / (len(found) - place))
        room -= sum(len(card.encode()) for card in cards.values())
        sections.append(layer_section(facts, place, list(cards), list(cards.values())))
    return html_page(title, [head, *sections], lede=lede, tools=tools, footer=foot)


def fitting_cards(facts: LayerFacts, place: int, max_units: int | None, room: float) -> dict[int, str]:
    """As many cards as there is room for, the units first that come first."""
    cards: dict[int, str] = {}
    for unit in facts.numbers[:max_units]:
        card = unit_card(facts, unit, f"unit-{place}-{unit}")
        room -= len(card.encode())
        if room < 0:
            break
        cards[unit] = card
    return cards


def layer_section(facts: LayerFacts, place: int, shown: Sequence[int], cards: Sequence[str]) -> str:
    """A layer on the page of the study; `shown` are the units that are on the page."""
    here = frozenset(shown)
    body = layer_findings(facts, lambda unit: f"#unit-{place}-{unit}" if unit in here else None)
    left = len(facts.units) - len(shown)
    order = "those that agree best with a concept" if facts.dissection else "those that peak highest"
    note = f" Shown are {len(shown)} of {len(facts.units)}, {order}; a report in a folder shows all." if left else ""
    return (
        f'<section id="layer-{place}" class="study" aria-labelledby="layer-{place}-name">'
        f'<div><h2 id="layer-{place}-name"><code>{escape(facts.name)}</code></h2>{body}'
        f"<h3>Units</h3><p>The best first.{note}</p>"
        f'<div class="cards">{"".join(cards)}</div></div></section>'
    )


def write_study(
    store: Store, folder: str | os.PathLike[str], *, layers: Sequence[str] | None = None, max_units: int | None = None
) -> Path:
    """A whole study as a folder of pages: `index.html`, `layers/….html`, `units/…/….html`. Gives back the first.

    Pages are written as they are made, the index last, and take the place of those of an earlier report.

    Args:
        layers: which to show; None shows all.
        max_units: of each layer; those that agree best with a concept are shown, else those that peak highest.
    """
    root = Path(folder)
    index = root / "index.html"
    if root.exists() and not root.is_dir():
        raise BadInput(f"'{root}' is a file.", "Name a folder.")
    if index.exists() and MARK not in index.read_text("utf-8", "replace"):
        raise BadInput(f"'{index}' is no report, and would be replaced.", "Name another folder.")
    summaries: list[Summary] = []
    for name in chosen_layers(store, layers):
        facts = read_layer(store, name)
        place = folder_of(name)
        summaries.append(summarise(facts, f"layers/{place}.html"))
        shown = sorted(facts.numbers[:max_units])
        for row, unit in enumerate(shown):
            beside = {
                word: shown[at] for word, at in (("Previous", row - 1), ("Next", row + 1)) if 0 <= at < len(shown)
            }
            write_page(root / "units" / place / f"{unit}.html", unit_page_of(facts, unit, beside))
        write_page(root / "layers" / f"{place}.html", layer_page(facts, shown, summaries[-1]))
    foot = [HOW_TO_READ, provenance(store)]
    return write_page(index, html_page(title_of(store), [overview(store, summaries)], lede=lede_of(store), footer=foot))


def layer_page(facts: LayerFacts, shown: Sequence[int], summary: Summary) -> str:
    """A layer by itself, its units as small pictures that lead to their pages."""
    place, here = folder_of(facts.name), frozenset(shown)

    def link(unit: int) -> str | None:
        return f"../units/{place}/{unit}.html" if unit in here else None

    tiles = "".join(unit_tile(facts, unit, href) for unit in facts.numbers if (href := link(unit)))
    left = len(facts.units) - len(shown)
    note = f" Shown are {len(shown)} of {len(facts.units)}." if left else ""
    body = (
        f'<section class="study"><div>{layer_findings(facts, link, 2)}</div></section>'
        f'<section class="study" aria-labelledby="units"><div><h2 id="units">Units</h2><p>The best first.{note}</p>'
        f'<ul class="cards tiles">{tiles}</ul></div></section>'
    )
    crumbs = breadcrumbs({"Study": "../index.html"}, facts.name)
    title, tools = f"{facts.name} of {network_of(facts.store)}", crumbs + category_choice([summary])
    return html_page(title, [body], lede=lede_of(facts.store), tools=tools, footer=[HOW_TO_READ])


def unit_page_of(facts: LayerFacts, unit: int, beside: Mapping[str, int]) -> str:
    """A unit by itself; `beside` are its neighbours by number."""
    head = f"<h2>What it responds to</h2>{unit_label(facts, unit)}{unit_activation(facts, unit)}"
    parts = [head + unit_pictures(facts, unit)]
    if table := concept_table(facts, unit, intervals=True):
        parts.append(f"<h2>What it agrees with</h2>{table}")
    if damage := unit_damage(facts, unit) + damage_table(facts, unit):
        parts.append(f"<h2>What is lost without it</h2>{damage}")
    if said := remarks(facts, unit):
        parts.append(f"<h2>Remarks</h2>{said}")
    body = [f'<section class="study single"><div>{part}</div></section>' for part in parts]
    up = {"Study": "../../index.html", facts.name: f"../../layers/{folder_of(facts.name)}.html"}
    links = "".join(
        f' <a rel="{rel}" href="{beside[word]}.html">{word}: {beside[word]}</a>'
        for word, rel in (("Previous", "prev"), ("Next", "next"))
        if word in beside
    )
    tools = breadcrumbs(up, f"unit {unit}") + f'<nav class="crumbs" aria-label="Neighbours">{links}</nav>'
    title = f"Unit {unit} of {facts.name}"
    return html_page(title, body, lede=lede_of(facts.store), tools=tools, footer=[HOW_TO_READ])


def breadcrumbs(up: Mapping[str, str], here: str) -> str:
    """The way back to the first page."""
    links = "".join(
        f'<a href="{href}">{escape(name)}</a> <span aria-hidden="true">›</span> ' for name, href in up.items()
    )
    return (
        f'<nav class="crumbs" aria-label="Where you are">{links}<span aria-current="page">{escape(here)}</span></nav>'
    )


def category_choice(summaries: Sequence[Summary]) -> str:
    """Buttons that leave the units of one category; no script is needed for them."""
    hues: dict[int, list[str]] = {}
    for category, hue in dict(pair for one in summaries for pair in one.hues.items()).items():
        if any(category == key[0] for one in summaries for key in one.counts):
            hues.setdefault(hue, []).append(category)
    if not hues:
        return ""
    options = {"all": "All", **{str(hue): ", ".join(names) for hue, names in hues.items()}, "0": "no concept"}
    buttons = "".join(
        f'<label class="choice"><input type="radio" name="only" id="only-{key}"{" checked" * (key == "all")}>'
        f"<span>{escape(text)}</span></label>"
        for key, text in options.items()
    )
    return f"<fieldset><legend>Units</legend>{buttons}</fieldset>"


def network_of(store: Store) -> str:
    """What the network is called."""
    model = store.about["model"]
    return str(model.get("name") or model.get("class") or "a network")


def title_of(store: Store) -> str:
    """The title of the study."""
    return f"What units of {network_of(store)} detect"


def lede_of(store: Store) -> str:
    """The study in a sentence."""
    n = store.about["data"].get("n_items")
    return network_of(store) + ("." if n is None else f" on {plural(int(n), 'image')}.")


def write_page(path: Path, text: str) -> Path:
    """A page that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as file:
        file.write(text.encode())
    return path
