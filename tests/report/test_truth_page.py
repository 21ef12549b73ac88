"""What was measured against the truth: charts that say what the numbers say, on a page that needs nothing else."""

import base64
import hashlib
import re

import pytest
import torch

from glasshouse import report
from glasshouse.core import BadInput, Score, draw
from glasshouse.diagnose import Detection
from glasshouse.evaluate import Benchmark, BiasDetection, Judgement, PartGame, Simulatability, Suite
from glasshouse.evaluate.truth.controls import CONTROLS, IGNORANT
from glasshouse.evaluate.truth.funnybirds import CHECKS
from glasshouse.evaluate.truth.judgements import JudgedTwice
from glasshouse.evaluate.truth.tracks import TRACKS
from glasshouse.report.truth_charts import EDGE, PAD, STRIP, WIDTH, Span, fixed, ladder, whisker
from glasshouse.report.truth_judged import against
from glasshouse.report.truth_tables import ASKS, clear

EVIL = "<script>alert(1)</script>&\"'"
NAN = float("nan")
ACCENT = "fill:var(--accent"


def score(name: str, *values: float, direction: str = "up", chance: float | None = None, stderr: float = 0.0) -> Score:
    value = torch.tensor(values)
    reason = tuple("constant_map" if v != v else "" for v in values)
    return Score(name, value, torch.where(value.isnan(), value, stderr), chance, direction, reason)


def track(name: str, *values: float) -> Score:
    return score(name, *values, direction=TRACKS[name].direction, chance=TRACKS[name].chance)


def spread(mean: float, n: int = 16, size: float = 0.1) -> list[float]:
    """Values around a mean, half of them above it."""
    return [mean + size * (-1) ** place for place in range(n)]


def benchmark(**methods: float) -> Benchmark:
    """Every track at one level for each method; the controls know nothing, the oracle everything."""
    levels = {"oracle": 1.0, **dict.fromkeys(IGNORANT, 0.0), **methods}
    scores = {
        who: {
            t: track(t, *spread((TRACKS[t].chance or 0.0) + 0.5 * level, size=-0.1 if who in CONTROLS else 0.1))
            for t in TRACKS
        }
        for who, level in levels.items()
    }
    checks = {who: {c: score(c, *spread(0.5 + level / 2)) for c in CHECKS} for who, level in levels.items()}
    return Benchmark(scores, {"cam": "needs a linear layer"}, {"model": "tiny", "n": 16, "seed": 3}, checks)


def judgement() -> Judgement:
    """`good` and `low` rank the maps as they should, `upside` the other way round; `same` cannot tell them apart."""
    maps = ["oracle", "25 % noise", "50 % noise", "75 % noise", *IGNORANT]
    falling = dict(zip(maps, (1.0, 0.8, 0.6, 0.4, 0.2, 0.2, NAN, 0.0), strict=True))
    means = {
        "good": falling,
        "upside": {who: -value for who, value in falling.items()},
        "low": {who: 5 - value for who, value in falling.items()},
        "same": dict.fromkeys(maps, 1.0),
    }
    gaps = {"good": 10.0, "upside": -10.0, "low": 10.0, "same": 0.0}
    behind = {name: {who: 0.0 if who == "oracle" else gap for who in maps} for name, gap in gaps.items()}
    above = {name: {who: gap for who in maps if who != "random"} for name, gap in gaps.items()}
    directions = {"good": "up", "upside": "up", "low": "down", "same": "up"}
    auroc = {"good": 0.9, "upside": 0.1, "low": 0.95, "same": 0.5}
    return Judgement(means, behind, above, directions, auroc, {"gone": "no such metric"}, {"model": "tiny"})


def detection() -> BiasDetection:
    reliance = {"biased one": 0.9, "biased two": 0.6, "clean one": 0.0, "between": 0.2}
    shares = {"biased one": 0.4, "biased two": 0.2, "clean one": 0.0}
    flat = dict.fromkeys(shares, 0.0)
    return BiasDetection(
        {"constant": 0.5, "grad_cam": 0.9},
        {"constant": 0.2, "grad_cam": 0.1},
        {"constant": flat, "grad_cam": shares},
        {"constant": NAN, "grad_cam": 0.3},
        reliance,
        {"lime": "too few segments"},
        {"seed": 0},
    )


def suite() -> Suite:
    return Suite(
        {
            "first": {"srg": score("srg", *spread(0.4), chance=0.0), "deletion": score("deletion", NAN, NAN)},
            "second": {"srg": score("srg", *spread(0.01), chance=0.0)},
        },
        {"first": {}, "second": {"deletion": "it needs more"}},
        120,
    )


@pytest.fixture
def page() -> str:
    results = {
        "methods": benchmark(grad_cam=0.6, deconvnet=0.0),
        "metrics": judgement(),
        "bias": detection(),
        "my suite": suite(),
    }
    return report.truth_page(results)


def rows_of(html: str, who: str) -> str:
    """The table rows at whose head a name stands, one after the other."""
    rows = re.findall(r"<tr.*?</tr>", html, re.S)
    return "".join(row for row in rows if re.search(rf"<th scope=\"row\"[^>]*>(<code>)?{re.escape(who)}<", row))


def dots(html: str) -> list[tuple[float, bool]]:
    """Where each dot is, and whether it is filled."""
    found = re.findall(r'<circle cx="([\d.]+)"[^>]*style="([^"]*)"', html)
    return [(float(x), style.startswith(ACCENT)) for x, style in found]


def test_every_result_draws_itself_without_a_script_and_from_itself_alone(parsed):
    for noun in (benchmark(rise=0.3), judgement(), detection(), suite()):
        html = draw(noun)
        parsed(html)
        assert "<script" not in html
        assert not re.search(r"https?://|url\(|<img|<link", html)
        assert html == noun._repr_html_()


def test_a_dot_lies_where_its_mean_is_and_the_whisker_is_one_error_to_each_side():
    html = whisker(0.25, 0.1, Span(-1.0, 1.0), line=0.0)
    inner = WIDTH - 2 * PAD
    assert dots(html) == [(pytest.approx(PAD + inner * 1.25 / 2, abs=0.06), True)]
    low, high = (float(x) for x in re.search(r'd="M([\d.]+) 6H([\d.]+)" style="stroke', html).groups())
    assert low == pytest.approx(PAD + inner * 1.15 / 2, abs=0.06)
    assert high == pytest.approx(PAD + inner * 1.35 / 2, abs=0.06)
    assert f'd="M{PAD + inner / 2:.1f} 0V12"' in html


def test_what_is_undefined_or_has_no_spread_or_lies_beyond_the_ends_is_still_drawn_or_left_out():
    assert whisker(NAN, 0.1, Span(0.0, 1.0)) == ""
    assert dots(whisker(0.3, NAN, Span(0.3, 0.3))) == [(WIDTH / 2, True)]
    assert dots(whisker(7.0, 0.0, Span(0.0, 1.0)))[0][0] == WIDTH - PAD
    assert Span.of([NAN, None]) == Span(0.0, 1.0)


def test_numbers_have_a_true_minus_and_zero_has_none():
    assert [fixed(v) for v in (-0.234, -0.001, 0.0, NAN)] == ["−0.23", "0.00", "0.00", "–"]
    assert Span(-0.04, 0.03).text == "−0.04 … 0.03"
    assert Span(-1.0, 1.0).text == "−1.0 … 1.0"


def test_methods_stand_best_first_and_controls_apart_from_them():
    html = draw(benchmark(deconvnet=0.1, grad_cam=0.8, rise=0.4))
    table = re.search(r"<table>.*?</table>", html, re.S)[0]
    names = re.findall(r'<th scope="row">(?:<code>)?(\w+)', table)
    assert names == ["grad_cam", "rise", "deconvnet", *CONTROLS]
    methods, controls = re.findall(r"<tbody>(.*?)</tbody>", table, re.S)
    assert "grad_cam" in methods
    assert "oracle" not in methods
    assert ">controls<" in controls
    assert "oracle" in controls


def test_a_filled_dot_is_better_than_chance_by_three_errors_and_a_hollow_one_is_not():
    found = benchmark(good=0.8, poor=0.02)
    up = [t for t in found.tracks if TRACKS[t].direction == "up"]
    places = [found.tracks.index(t) for t in up]
    good, poor = ([filled for _, filled in dots(rows_of(draw(found), who))] for who in ("good", "poor"))
    assert all(good[place] for place in places)
    assert not any(poor[place] for place in places)
    null = found.tracks.index("null_mass")  # lower is better, so 0.4 of it is not
    assert not good[null]


def test_a_dot_is_filled_exactly_where_the_mean_lead_is_above_three_standard_errors():
    values = torch.tensor([0.1, 0.5, 0.3, 0.7])
    error = values.std() / 2
    assert clear(score("m", *values.tolist()), float(values.mean() - 3.01 * error))
    assert not clear(score("m", *values.tolist()), float(values.mean() - 2.99 * error))
    assert clear(score("m", *values.tolist(), direction="down"), float(values.mean() + 3.01 * error))
    assert clear(score("m", 0.1), None)
    assert not clear(score("m", 0.4), 0.0), "one image says nothing of the others"
    assert clear(score("m", 0.4, stderr=0.1), 0.0, least=1)
    assert not clear(score("m", 0.2, stderr=0.1), 0.0, least=1)
    assert not clear(score("m", NAN, NAN), 0.0)


def test_importance_is_compared_with_the_constant_map_scene_by_scene():
    levels = torch.linspace(-0.9, 0.9, 16).tolist()
    found = benchmark(ahead=0.5)
    found.scores["constant"]["importance"] = track("importance", *levels)
    ahead = [level + 0.05 + 0.01 * (-1) ** place for place, level in enumerate(levels)]
    found.scores["ahead"]["importance"] = track("importance", *ahead)
    html = draw(found)
    assert dots(rows_of(html, "ahead"))[0][1], "0.05 ahead in each, though the scenes differ by far more"
    line = float(re.search(r'd="M([\d.]+) 0V12"', rows_of(html, "ahead"))[1])
    assert line == dots(rows_of(html, "constant"))[0][0]
    found.scores["constant"]["importance"] = track("importance", *[NAN] * 16)  # parts of equal size: it says nothing
    assert not dots(rows_of(draw(found), "ahead"))[0][1]


def test_what_speaks_against_a_method_is_said_in_words():
    html = draw(benchmark(blind=1.2, none=0.0))
    assert "class-insensitive" in rows_of(html, "blind")
    assert "not above chance" in rows_of(html, "none")
    assert "Of 2 methods, <code>blind</code> ranks parts best" in html
    assert "Not clearly above chance: 1. Much the same map for another class: 1." in html
    assert "<code>cam</code>: needs a linear layer" in html


def test_every_column_says_what_it_asks_and_which_way_is_better():
    html = draw(benchmark(rise=0.3))
    heads = re.findall(r'<th scope="col" title="([^"]+)" aria-label="([^"]+)">', html)
    assert len(heads) == len(TRACKS) + 7
    assert all(question for question, _ in heads)
    assert ("null mass, lower is better") in [label for _, label in heads]
    assert set(TRACKS) <= set(ASKS)
    assert "null mass&nbsp;↓" in html


def test_a_benchmark_without_methods_or_without_parts_to_rank_is_drawn_too(parsed):
    html = draw(benchmark())
    parsed(html)
    assert "no method was asked" in html
    poor = benchmark(rise=0.3)
    for own in poor.scores.values():
        own["importance"] = track("importance", *[NAN] * 16)
    assert "no scene has enough parts to rank" in draw(poor)
    assert "importance" not in poor.tracks


def test_a_score_that_is_missing_is_a_dash_with_its_reason():
    found = benchmark(rise=0.3)
    found.scores["rise"]["pointing"] = track("pointing", *[NAN] * 16)
    del found.scores["rise"]["steady"]
    row = rows_of(draw(found).split("<h3>")[0], "rise")
    assert '<span title="constant map">–</span>' in row
    assert "<td>–</td>" in row


def test_metrics_that_pass_come_first_and_the_others_are_grey_with_their_reason():
    html = draw(judgement())
    names = re.findall(r"<tr(?: class=\"failing\"[^>]*)?><th scope=\"row\"[^>]*><code>(\w+)", html)[:4]
    assert names == ["low", "good", "same", "upside"]
    assert "2 of 4 metrics put the map that knows the model first" in html
    assert "passes" in rows_of(html, "good")
    assert "failing" not in rows_of(html, "good")
    for who in ("same", "upside"):
        assert 'class="failing"' in rows_of(html, who)
    assert "oracle not first (not clearly behind the oracle: centre, edges, constant, random)" in rows_of(html, "same")
    assert "clearly ahead of the oracle: 25 % noise" in rows_of(html, "upside")
    assert "clearly behind noise: oracle, 25 % noise" in rows_of(html, "upside")
    assert "no such metric" in html


def test_a_reason_is_given_exactly_where_a_metric_has_faults():
    found = judgement()
    for name in found.means:
        assert bool(against(found, name)) == bool(found.faults(name))
        assert against(found, name).startswith(", ".join(found.faults(name)))
    del found.behind_oracle["good"]["random"]
    assert against(found, "good") == "random not last (noise has no score)"


def test_the_best_map_is_on_the_right_whichever_way_a_metric_goes():
    means = judgement().means
    knowing = ("oracle", "25 % noise", "50 % noise", "75 % noise")
    inner = STRIP - 2 * EDGE
    for name, down in (("good", False), ("low", True)):
        places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', ladder(means[name], knowing, down))]
        assert places == pytest.approx([EDGE + inner * share for share in (1.0, 0.8, 0.6, 0.4)], abs=0.06)
        (random,) = re.findall(r'translate\(([\d.]+) \d+\)"><title>random', ladder(means[name], knowing, down))
        assert float(random) == EDGE
    same = ladder(means["same"], knowing, False)
    assert {float(x) for x in re.findall(r'<circle cx="([\d.]+)"', same)} == {STRIP / 2}


def test_the_strip_says_its_numbers_and_leaves_out_a_map_without_one():
    html = ladder(judgement().means["good"], ("oracle", "25 % noise", "50 % noise", "75 % noise"), False)
    assert 'role="img" aria-label="oracle 1, 25 % noise 0.8,' in html
    assert "constant undefined" in html
    assert "<title>constant" not in html


def test_auroc_is_a_bar_of_its_length():
    row = rows_of(draw(judgement()).split("<details>")[0], "good")
    (width,) = re.findall(r'<rect x="5" y="2" width="([\d.]+)"', row)
    assert float(width) == pytest.approx(0.9 * (WIDTH - 2 * PAD), abs=0.06)
    assert ">0.90<" in row


def test_the_plain_criterion_stands_beside_the_verdict_of_the_rule():
    html = draw(judgement())
    for who, plain in (("good", "holds"), ("upside", "centre, edges, random ahead of the oracle")):
        cells = re.findall(r'<td class="words">(.*?)</td>', rows_of(html, who))
        assert len(cells) == 2
        assert cells[1].startswith(plain)
    assert ">means alone</th>" in html
    assert "with no allowance for luck: 2." in html


def test_how_many_scenes_would_tell_is_said_where_they_are_too_few():
    found = judgement()
    found.settings["n"] = 16
    found.behind_oracle["good"]["edges"] = 1.92
    assert "(not clearly behind the oracle: edges; some 64 scenes would tell)" in rows_of(draw(found), "good")


def twice() -> JudgedTwice:
    """On fresh scenes `good` fails; `same` failed before as well."""
    first, again = judgement(), judgement()
    first.settings["seed"], again.settings["seed"] = 1000, 2026
    again.behind_oracle["good"]["edges"] = 0.0
    return JudgedTwice(first, again)


def test_both_verdicts_stand_side_by_side_and_what_changed_is_marked(parsed):
    html = draw(twice())
    parsed(html)
    table = re.search(r"<table>.*?</table>", html, re.S)[0]
    assert "scenes that the rule was settled on (seed 1000)" in table
    assert "scenes that were kept back (seed 2026)" in table
    assert "Changed: good." in html
    assert "On fresh ones 1 of 4 metrics pass, where 2 of 4 did." in html
    row = rows_of(table, "good")
    assert re.findall(r'<td class="words">(.*?)</td>', row) == [
        *("passes", "holds"),
        *("oracle not first", "holds"),
    ]
    assert row.endswith("<td><b>changed</b></td></tr>")
    assert "changed" not in rows_of(table, "same")
    assert 'class="failing"' in rows_of(table, "same")
    assert 'class="failing"' not in row
    assert html.count("<details><summary>Map by map") == 2
    missing = twice()
    for one in TABLES:
        del getattr(missing.fresh, one)["low"]
    assert rows_of(re.search(r"<table>.*?</table>", draw(missing), re.S)[0], "low").count("<td>–</td>") == 3


TABLES = ("means", "behind_oracle", "above_random", "directions", "auroc")


def pupil(gain: float, half: float = 0.1) -> Simulatability:
    right = torch.ones(4)
    ends = (gain - half, gain + half)
    return Simulatability("knn", gain, ends, gain / 2, ends, 0.0, (0.0, 0.0), 0.2, 32, right, right / 2, right)


def caught(accuracy: float, stderr: float = 0.05) -> Detection:
    return Detection("saliency", accuracy, stderr, 0.5, 0.02, torch.zeros(9, 2), torch.arange(9), {"seed": 3})


def test_what_maps_taught_and_whether_they_give_attacks_away_are_tables_on_the_page(parsed):
    students = {"poor": pupil(0.14), "constant": pupil(0.0, 0.0), "good": pupil(0.4), EVIL: pupil(-0.1)}
    page = report.truth_page({"students": students, "attacks": {"saliency": caught(0.9), "lime": caught(0.6)}})
    parsed(page)
    assert EVIL not in page
    first, second = re.findall(r"<table>.*?</table>", page, re.S)
    names = re.findall(r'<th scope="row">(?:<code>)?(\w+)', first)
    assert names == ["good", "poor", "constant"], "the fourth is no word"
    assert first.index(">controls<") < first.index(">constant<")
    error = 0.1 / 1.96
    assert f">0.40 ± {error:.2f}<" in rows_of(first, "good")
    assert [dots(rows_of(first, who))[0][1] for who in ("good", "poor", "constant")] == [True, False, False]
    assert "32 lessons" in page
    assert "right in 0.50; always the most frequent answer would be in 0.20" in page
    assert [filled for _, filled in dots(rows_of(second, "saliency"))] == [True, False]
    assert [filled for _, filled in dots(rows_of(second, "lime"))] == [False, False]
    assert "9 images and the same after an attack" in page
    mixed = report.truth_page({"several": {"a": suite(), "b": judgement()}, "none": {}})
    assert "<h3>a</h3>" in mixed
    assert "Nothing was found" in mixed


def test_each_biased_model_is_a_filled_dot_and_each_clean_one_a_hollow_one():
    html = draw(detection())
    row = rows_of(html, "grad_cam")
    auroc, *models = dots(row)
    assert auroc[1]
    assert [filled for _, filled in models] == [True, True, False]
    inner = STRIP / 2 - 2 * PAD
    assert [x for x, _ in models] == pytest.approx([PAD + inner, PAD + inner / 2, PAD], abs=0.06)
    assert ">0.90 ± 0.10<" in row
    assert ">0.30</td>" in row
    assert ">0.00</td>" in row
    constant = rows_of(html, "constant")
    assert not dots(constant)[0][1]
    assert constant.endswith(">–</td></tr>")
    assert html.index("grad_cam") < html.index(">controls<") < html.index(">constant<")
    assert "2 biased models from 1 clean one" in html
    assert "too few segments" in html


def test_a_suite_has_a_row_for_each_metric_and_says_what_is_missing():
    html = draw(suite())
    row = rows_of(html, "srg")
    assert [filled for _, filled in dots(row)] == [True, False]
    assert 'aria-label="srg, higher is better"' in row
    assert "Symmetric relevance gain" in row
    assert "– <small>constant map</small>" in rows_of(html, "deletion")
    assert "<td>–</td>" in rows_of(html, "deletion").replace(" <small></small>", "")
    assert "<code>deletion, second</code>: it needs more" in html
    assert "2 explanations of 16 images" in html


def test_the_page_has_a_section_for_each_result_and_every_link_leads_to_one(page, parsed):
    reader = parsed(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert list(re.findall(r"<h2[^>]*>(.*?)</h2>", page)) == [
        *("Methods", "Metrics", "Shortcuts", "My suite"),
        *("How to read this page", "How it was made"),
    ]
    links = [link["href"] for link in reader.all("a")]
    assert len(links) == 1 + 4 + 1
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert '<nav class="crumbs" aria-label="Results">' in page
    for part in reader.all("section"):
        assert "aria-labelledby" not in part or part["aria-labelledby"] in ids


def test_the_page_fetches_nothing_and_admits_its_own_script_alone(page, parsed):
    reader = parsed(page)
    assert not reader.all("link")
    assert not reader.all("img")
    assert re.findall(r"https?://", page) == []
    assert page.count("<script>") == 1
    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_the_page_can_be_read_without_eyes_or_a_mouse(page, parsed):
    reader = parsed(page)
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in reader.all("th"))
    assert all(chart.get("aria-hidden") == "true" or chart.get("aria-label") for chart in reader.all("svg"))
    frames = [a for _, a in reader.tags if a.get("class") == "scroll"]
    assert len(frames) == len(reader.all("table")) == 6
    assert all(frame["tabindex"] == "0" and frame["role"] == "region" and frame["aria-label"] for frame in frames)
    assert "Skip to the results" in page
    assert len(reader.all("h1")) == 1


def test_the_page_prints_and_says_how_to_read_it_and_how_it_was_made(page):
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page
    assert "Truth is about the model, not the picture" in page
    assert "Benchmark(7 methods, 9 tracks); model tiny; n 16; seed 3" in page
    assert "torch" in page.rpartition("Versions")[2]


def test_grey_rows_can_still_be_read_in_both_themes(page):
    def luminance(parts: list[float]) -> float:
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    opacity = float(re.search(r'class="failing" style="opacity:([\d.]+)"', page)[1])
    for block in re.findall(r"{([^{}]*--paper:[^{}]*)}", style):
        codes = dict(re.findall(r"--([\w-]+): #(\w{6})", block))
        paper, ink = ([int(codes[name][i : i + 2], 16) / 255 for i in (0, 2, 4)] for name in ("paper", "ink"))
        shown = [opacity * a + (1 - opacity) * b for a, b in zip(ink, paper, strict=True)]
        low, high = sorted((luminance(shown), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_names_from_outside_cannot_become_html(parsed):
    first = benchmark(**{EVIL: 0.4})
    methods = Benchmark(first.scores, {EVIL: EVIL}, {"model": EVIL}, first.checks)
    judged = judgement()
    tables = (judged.means, judged.behind_oracle, judged.above_random, judged.directions, judged.auroc)
    judged = Judgement(*({EVIL: table["same"]} for table in tables), {EVIL: EVIL}, {EVIL: EVIL})
    one = detection()
    bias = BiasDetection({EVIL: 0.9}, {EVIL: 0.1}, {EVIL: one.on_shortcut["grad_cam"]}, {EVIL: 0.1}, {EVIL: 0.9})
    scores = {EVIL: {EVIL: score("m", NAN)}}
    html = report.truth_page({EVIL: methods, "b": judged, "c": bias, "d": Suite(scores)}, title=EVIL, lede=EVIL)
    parsed(html)
    assert html.count("<script>") == 1
    assert EVIL not in html


def test_a_page_of_thirty_five_methods_stays_under_a_megabyte():
    names = {f"method_with_a_long_name_{i}": i / 35 for i in range(35)}
    judged = judgement()
    tables = (judged.means, judged.behind_oracle, judged.above_random, judged.directions, judged.auroc)
    many = Judgement(*({f"metric_{i}": table["upside"] for i in range(26)} for table in tables))
    html = report.truth_page({"methods": benchmark(**names), "metrics": many, "bias": detection()})
    assert len(html.encode()) < 600_000


def test_another_result_is_shown_by_its_own_words_and_none_at_all_is_an_error():
    masks = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    game = PartGame(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), masks, ("p",), (0,), torch.zeros(1, 3, 4, 4))
    html = report.truth_page({"game_of_parts": game})
    assert "<code>PartGame(1 scenes, 1 parts, 2 choices)</code>" in html
    assert ">Game of parts</h2>" in html
    with pytest.raises(BadInput, match="no results to show"):
        report.truth_page({})
    assert "No metric was judged" in draw(Judgement({}, {}, {}, {}, {}))
