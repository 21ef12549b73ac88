"""Pages of a study made by hand, in which every answer is known."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import unquote

import pytest
import torch

from glasshouse import report
from glasshouse.core import BadInput, NotFound
from glasshouse.core.labelled import Label
from glasshouse.dissect import Ablation, Dissection, Exemplars, Picks, Selectivity, Traits
from glasshouse.report.study_charts import points
from glasshouse.report.study_question import answer, class_parts, grouped, label_names, trait_correlations
from glasshouse.study.store import Store, encode_jpeg

LAYER = "block.<u>1</u>"
EVIL = "<script>alert(1)</script>"
CLASSES = ("church and tree", "car", f"{EVIL} & tower")
LABELS = (
    Label(1, "tree", "object"),
    Label(2, "church", "object"),
    Label(3, EVIL, "object"),
    Label(4, "dotted", "texture"),
)
N_UNITS = 6


def dissection() -> Dissection:
    """Unit 0 is a tree detector, 1 a church detector, 2 detects dots, 3 and 4 nothing, 5 what is called a script."""
    groups = torch.ones(4, 1, 1, dtype=torch.int64)
    shared = torch.zeros(N_UNITS, 4, dtype=torch.int64)
    shared[0, 0], shared[1, 1], shared[2, 3], shared[3, 0], shared[5, 2] = 50, 30, 25, 3, 40
    shared = groups * shared
    shared[0, 0, 0] = 40  # one group differs, so that there is an interval
    return Dissection(
        layer=LAYER,
        units=torch.arange(N_UNITS),
        labels=LABELS,
        categories=("object", "texture"),
        threshold=torch.full((N_UNITS,), 1.0),
        level=0.995,
        n_for_threshold=40,
        shared=shared,
        area=(groups * 100).expand(4, N_UNITS, 3),
        truth=torch.full((4, 4), 100),
        n_images=torch.full((4,), 10),
        n_marked=torch.full((3,), 40),
        n_pixels=1000,
        chance=torch.full((N_UNITS, 4), 4.0).index_fill(0, torch.tensor(2), 130.0).double(),
        local=True,
    )


def ablation(lost: torch.Tensor | None = None) -> Ablation:
    """Units 0 and 1 damage the church class, unit 5 the tower; unit 2 damages cars."""
    if lost is None:
        lost = torch.zeros(N_UNITS, 3, dtype=torch.int64)
        lost[0, 0], lost[1, 0], lost[5, 2], lost[2, 1], lost[0, 1] = 20, 10, 30, 5, 2
    n = torch.ones(N_UNITS)
    traits = Traits(torch.eye(6)[:, :3], torch.arange(6.0), n, torch.arange(6.0).flip(0), n, n * torch.nan, n)
    none = torch.zeros(N_UNITS, 3, dtype=torch.int64)
    numbers = torch.full((3,), 100), torch.full((3,), 90), torch.full((3,), 100)
    names, members = tuple(map(str, range(N_UNITS))), tuple((unit,) for unit in range(N_UNITS))
    idle = torch.zeros(N_UNITS, dtype=torch.int64)
    return Ablation(LAYER, names, members, "zero", "linear", *numbers, lost, none, none, idle, 0, traits, CLASSES)


def exemplars() -> Exemplars:
    def picks(k: int) -> Picks:
        ids = torch.arange(k).expand(N_UNITS, k)
        return Picks(
            ids, torch.full((N_UNITS, k), 2.5), torch.zeros(N_UNITS, k, 2).long(), torch.ones(N_UNITS, k, 4).long()
        )

    values = torch.arange(6.0)
    return Exemplars(
        layer=LAYER,
        units=torch.arange(N_UNITS),
        score="max",
        strongest=picks(3),
        weakest=picks(3),
        random=picks(3),
        spectrum=picks(9),
        maps=torch.ones(N_UNITS, 3, 2, 2),
        peak=values,
        mean=values / 10,
        resting=torch.full((N_UNITS,), 0.5),
        threshold=values / 2,
        level=0.995,
        rank_error=0.0,
        local=True,
        window=(8, 8),
        image_size=(16, 16),
        n_images=40,
    )


def facts(unit: int, found: Dissection, lost: Ablation) -> dict:
    best = int(found.best[unit])
    low, high = found.interval()[unit].tolist()
    resting = 1.0 if unit == 4 else 0.5
    return {
        "unit": unit,
        "label": LABELS[best].name,
        "category": LABELS[best].category,
        "iou": float(found.iou[unit, best]),
        "iou_low": low,
        "iou_high": high,
        "chance_iou": float(found.chance_iou[unit, best]),
        "detector": bool(found.detectors[unit]),
        "peak": float(unit),
        "mean": 0.1,
        "resting": resting,
        "threshold": 0.5,
        "selectivity": 0.25,
        "preferred": CLASSES[0],
        "max_class_drop": float(lost.max_class_drop[unit]),
        "worst_class": CLASSES[int(lost.worst_class[unit])],
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    found, lost = dissection(), ablation()
    small = [[encode_jpeg(torch.full((3, 12, 12), unit / 8)) for _ in range(3)] for unit in range(N_UNITS)]
    root = tmp_path_factory.mktemp("studies") / "whole"
    layers = [{"name": LAYER, "kind": "Sequential", "units": 8, "grid": [2, 2]}, {"name": "bare"}]
    with Store.create(root, layers=layers, seed=3) as store:
        store.put_images([{"id": f"{EVIL}/{number}.jpg"} for number in range(40)])
        store.put_noun("exemplars", exemplars(), LAYER)
        store.put_noun("dissection", found, LAYER)
        store.put_noun("ablation", lost, LAYER)
        store.put_noun("selectivity", Selectivity(LAYER, found.units, torch.eye(6)[:, :3], torch.full((3,), 9)), LAYER)
        store.put_units(LAYER, [facts(unit, found, lost) for unit in range(N_UNITS)])
        store.put_patches(LAYER, small)
        store.put_patches(LAYER, small, "spectrum")
        store.note(LAYER, 0, f"looks like {EVIL}", EVIL)
        store.put_labels(LAYER, [{"unit": 0, "label": EVIL}], "person")
        store.put_units("bare", [{"unit": unit, "peak": float(unit)} for unit in range(3)])
        store.put_patches("bare", small[:3])
    return root


@pytest.fixture
def store(path):
    with Store.open(path) as store:
        yield store


@pytest.fixture(scope="module")
def pages(path, tmp_path_factory) -> dict[Path, str]:
    """A report in a folder, by page."""
    with Store.open(path) as store:
        index = report.write_study(store, tmp_path_factory.mktemp("reports") / "new" / "report")
    assert index.name == "index.html"
    return {page: page.read_text("utf-8") for page in sorted(index.parent.rglob("*.html"))}


def check_safe(text: str) -> None:
    """Nothing is fetched, and no name has become a tag."""
    assert "http:" not in text
    assert "https:" not in text
    assert "alert(1)</script>" not in text
    assert text.count("<script") == 1
    assert "<u>" not in text
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,|#|(\.\./)*[\w.~-]+(/[\w.~-]+)*\.html")', text)


def test_one_page_fetches_nothing_and_its_links_lead_somewhere(store, parsed):
    page = report.study_page(store)
    check_safe(page)
    reader = parsed(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in reader.all("a")]
    assert {link[1:] for link in links} <= set(ids)
    assert {f"unit-0-{unit}" for unit in range(N_UNITS)} <= set(ids)
    assert all(image["alt"] for image in reader.all("img"))


def test_a_folder_has_a_page_per_layer_and_unit_and_no_link_leads_nowhere(pages, parsed):
    assert len(pages) == 1 + 2 + N_UNITS + 3
    goals = set()
    for page, text in pages.items():
        check_safe(text)
        links = [a["href"] for a in parsed(text).all("a")]
        goals |= {(page.parent / unquote(link)).resolve() for link in links if not link.startswith("#")}
    assert goals == set(pages)


def test_next_leads_through_all_units_in_order(pages):
    page = next(page for page in pages if page.name == "0.html" and "block" in page.parent.name)
    walk = [page]
    while following := re.search(r'rel="next" href="(\d+\.html)"', pages[walk[-1]]):
        walk.append(page.with_name(following[1]))
    assert [int(page.stem) for page in walk] == list(range(N_UNITS))
    assert 'rel="prev"' not in pages[walk[0]]


def test_the_same_study_gives_the_same_bytes(store, pages, tmp_path):
    assert report.study_page(store) == report.study_page(store)
    (first,) = (page.parent for page in pages if page.name == "index.html")
    again = report.write_study(store, tmp_path).parent
    written = {page.relative_to(again): page.read_text("utf-8") for page in again.rglob("*.html")}
    assert written == {page.relative_to(first): text for page, text in pages.items()}


def test_units_are_left_out_until_the_page_is_small_enough_and_it_says_so(store):
    whole, none = report.study_page(store), report.study_page(store, max_units=0)
    limit = (len(whole.encode()) + len(none.encode())) / 2
    page = report.study_page(store, max_mb=limit / 1e6)
    assert len(none.encode()) < len(page.encode()) <= limit
    assert "Shown are" in page
    assert "Shown are" not in whole
    assert whole.count("<article") == N_UNITS + 3 > page.count("<article") > 0


def test_the_units_that_are_shown_agree_best_with_a_concept(store):
    page = report.study_page(store, layers=[LAYER], max_units=2)
    assert re.findall(r'<article [^>]*id="unit-0-(\d+)"', page) == ["0", "5"]
    assert "Shown are 2 of 6" in page


def test_a_label_stands_with_its_interval_and_what_position_alone_gives(store):
    page = report.study_page(store, layers=[LAYER])
    found = dissection()
    low, high = found.interval()[0].tolist()
    card = page[page.index('id="unit-0-0"') :]
    wanted = f"IoU {float(found.iou[0, 0]):.3f}, 95 % interval {low:.3f}–{high:.3f}; by position alone 0.005"
    assert wanted in card[: card.index("</article>")]


def test_a_unit_that_position_explains_as_well_is_marked(store):
    page = report.study_page(store, layers=[LAYER])
    doubted = [card for card in page.split("<article")[1:] if "not clearly more than position alone" in card]
    assert len(doubted) == 1
    assert 'id="unit-0-2"' in doubted[0]


def test_units_without_concept_and_dead_units_are_called_so(store):
    page = report.study_page(store, layers=[LAYER])
    cards = {unit: next(c for c in page.split("<article")[1:] if f'id="unit-0-{unit}"' in c) for unit in (3, 4)}
    assert "No concept of this data set; the nearest is tree, IoU 0.015" in cards[3]
    assert "Dead: 0 at every position" in cards[4]
    assert "Best concepts" not in cards[4]


def test_damage_is_told_as_a_change_with_its_interval(store):
    page = report.study_page(store, layers=[LAYER])
    low, high = (float(end[0, 0]) for end in ablation().interval())
    assert f"church and tree: −20.0 points, 95 % interval {points(high)} … {points(low)}" in page
    assert points(0.083) == "−8.3"
    assert points(-0.01) == "+1.0"
    assert points(-1e-9) == points(0.0) == "0"


def test_remarks_stand_on_the_page_of_the_unit(pages):
    (text,) = (text for page, text in pages.items() if page.name == "0.html" and "block" in page.parent.name)
    assert "looks like &lt;script&gt;" in text
    assert "person</span>" in text


def test_units_of_a_class_are_held_against_its_damage():
    found = answer(dissection(), ablation())
    named = {pair.concept.name: pair for pair in found.pairings}
    assert set(named) == {"tree", "church", EVIL}
    tree = named["tree"]
    assert (tree.classes, tree.units) == ((0,), (0,))
    assert (tree.own, tree.elsewhere) == pytest.approx((0.2, 0.01))
    assert tree.others == pytest.approx(0.1 / 5)
    assert (found.n_units, found.n_harmful, found.hits) == (3, 3, 3)
    assert found.expected == pytest.approx(3 * 1 / 3)
    excess = [0.2 - 0.01, 0.1, 0.3]
    reach = 4.30265 * stdev(excess) / 3**0.5  # Student's t with 2 degrees of freedom
    assert found.excess == pytest.approx(mean(excess))
    assert (found.low, found.high) == pytest.approx((mean(excess) - reach, mean(excess) + reach), abs=1e-4)


def test_the_correlation_of_iou_and_damage_is_that_of_ranks():
    pairs = {pair.concept.name: pair.correlation for pair in answer(dissection(), ablation()).pairings}
    ranks = torch.tensor([6.0, 2.5, 2.5, 5.0, 2.5, 2.5]), torch.tensor([6.0, 5.0, 2.5, 2.5, 2.5, 2.5])
    assert pairs["tree"].value == pytest.approx(float(torch.corrcoef(torch.stack(ranks))[0, 1]))
    assert pairs["tree"].low < pairs["tree"].value < pairs["tree"].high
    assert trait_correlations(ablation(), dissection())["iou"].n == N_UNITS


def test_a_class_is_named_for_its_parts_and_no_more():
    assert class_parts("church and tree") == {"church and tree", "church", "tree"}
    assert class_parts("traffic_light, signal") == {"traffic light, signal", "traffic light", "signal"}
    assert class_parts("house finch") == {"house finch"}
    assert class_parts("sand") == {"sand"}
    assert label_names(Label(1, "art_gallery-s", "scene", synonyms=("Gallery",))) == {"art gallery", "gallery"}
    assert not label_names(Label(1, "orange-c", "color")) & class_parts("orange")


def test_groups_named_for_a_concept_are_held_against_its_classes(path, tmp_path):
    whole = ablation()
    lost = torch.tensor([[60, 1, 0], [5, 0, 40]])
    none = torch.zeros(2, 3, dtype=torch.int64)
    parts = {"total": whole.total, "right": whole.right, "predicted": whole.predicted}
    groups = Ablation(
        LAYER, ("tree", "church"), ((0, 3), (1,)), "zero", "linear", **parts, lost=lost, won=none, shift=none,
        idle=none[:, 0], reruns=0, class_names=CLASSES,
    )  # fmt: skip
    tree, church = grouped(dissection(), groups)
    assert tree.own == pytest.approx((0.6, (0.6 * 0.4 / 100) ** 0.5))
    assert tree.elsewhere[0] == pytest.approx(0.005)
    assert (tree.worst, church.worst) == (0, 2)
    with Store.create(tmp_path / "groups") as store:
        store.put_noun("dissection", dissection(), LAYER)
        store.put_noun("concept_ablation", groups, LAYER)
        page = report.study_page(store)
    assert "of 2 concepts whose units do damage, 1 damage a class named for them most" in page
    assert "✓ church and tree, −60.0" in page


@pytest.mark.parametrize("left_out", ["dissection", "ablation", "exemplars", "all"])
def test_whatever_was_not_studied_is_left_out(left_out, path, tmp_path, parsed):
    with Store.open(path) as store, Store.create(tmp_path / "study") as part:
        if left_out != "all":
            for name, kind in (("dissection", Dissection), ("ablation", Ablation), ("exemplars", Exemplars)):
                if name != left_out:
                    part.put_noun(name, store.noun(name, kind, LAYER), LAYER)
            kept = ("peak", "resting") if left_out == "dissection" else ("iou", "label", "category", "detector")
            part.put_units(LAYER, [{key: row[key] for key in ("unit", *kept)} for row in store.units(LAYER)])
        page = report.study_page(part)
        parsed(page)
        assert ("What its units detect" in page) == (left_out in ("ablation", "exemplars"))
        assert ("Do the units of a class" in page) == (left_out == "exemplars")
        assert page.count("<article") == (0 if left_out == "all" else N_UNITS)
        assert report.write_study(part, tmp_path / "report").exists()


def test_no_damage_at_all_is_said_rather_than_correlated(tmp_path):
    with Store.create(tmp_path / "study") as store:
        store.put_noun("dissection", dissection(), LAYER)
        store.put_noun("ablation", ablation(torch.zeros(N_UNITS, 3, dtype=torch.int64)), LAYER)
        page = report.study_page(store)
    assert "No image of 300 changes between right and wrong when any one unit is taken away" in page
    assert "Correlation</th>" not in page


def test_what_is_not_known_never_shows_as_nan(tmp_path):
    found, lost = dissection(), ablation()
    few = {name: getattr(found, name)[:1] for name in ("shared", "area", "truth", "n_images")}
    found = replace(found, **few)  # a single group of images gives no interval
    lost = replace(lost, total=torch.tensor([100, 0, 100]), right=torch.tensor([90, 0, 90]))
    with Store.create(tmp_path / "study") as store:
        store.put_noun("dissection", found, LAYER)
        store.put_noun("ablation", lost, LAYER)
        store.put_noun("exemplars", exemplars(), LAYER)
        store.put_units(LAYER, [facts(unit, found, lost) | {"selectivity": torch.nan} for unit in range(N_UNITS)])
        index = report.write_study(store, tmp_path / "report")
        texts = [report.study_page(store), *(page.read_text("utf-8") for page in index.parent.rglob("*.html"))]
    texts += [found._repr_html_(), lost._repr_html_()]
    assert not [found for text in texts for found in re.findall(r".{20}\b(?:nan|None)\b.{9}", text)]
    assert "no interval: too few images" in texts[0]


def test_what_cannot_be_shown_or_written_is_an_error(store, tmp_path):
    with pytest.raises(NotFound, match="no studied layer 'block'"):
        report.study_page(store, layers=["block"])
    (tmp_path / "index.html").write_text("my own page")
    with pytest.raises(BadInput, match="is no report"):
        report.write_study(store, tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        report.write_study(store, tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == "my own page"


def test_nouns_show_themselves_as_tables(parsed):
    shown = [dissection(), ablation(), Selectivity(LAYER, torch.arange(2), torch.eye(3)[:2], torch.full((3,), 9))]
    for noun in shown:
        text = noun._repr_html_()
        parsed(text)
        assert "<table" in text
        assert EVIL not in text
        assert "<b>" not in text
    assert "none (nearest: tree)" in dissection()._repr_html_()
    assert "church and tree" in ablation()._repr_html_()
