"""The page: whole, safe, self-contained, readable without colour."""

import re
from dataclasses import replace

import pytest
import torch

from glasshouse import report, zoo
from glasshouse.core import BadInput, Card, Explanation, Score, draw
from glasshouse.report.commands import command_for, python_for
from glasshouse.report.picture import to_image
from glasshouse.report.words import measured, number, percent

EVIL = "<script>alert(1)</script>&\"'.png"


@pytest.fixture
def page(model, views) -> str:
    return report.explain_page(model, views, loading={"spec": "tiny"})


def test_the_page_is_well_formed_and_every_id_is_its_own(page, parsed):
    reader = parsed(page)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in reader.all("a"):
        assert link["href"].startswith("#")
        assert link["href"][1:] in ids


def test_nothing_is_fetched(page, parsed):
    reader = parsed(page)
    assert all(image["src"].startswith("data:image/") for image in reader.all("img"))
    assert not reader.all("link")
    assert all("src" not in script for script in reader.all("script"))
    assert re.findall(r"https?://", re.sub(r"<dd>.*?</dd>", "", page)) == []
    assert all(match.startswith("data:") for match in re.findall(r"url\(([^)]*)\)", page))


def test_the_policy_admits_our_script_and_no_other(page):
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", page, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_style_and_script_are_small(page):
    parts = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.S)
    assert sum(len(part) for part in parts) < 20_000


def test_names_from_outside_cannot_become_html(model, views, parsed):
    evil = [replace(view, photo=f"a/{EVIL}", skipped={"cam": EVIL}, top=((0, EVIL, 0.9),)) for view in views]
    card = replace(views[0].explanations[0].card, sentences=(EVIL,))
    evil[0] = replace(evil[0], explanations=(replace(views[0].explanations[0], attached=card, layer=EVIL),))
    page = report.explain_page(replace(model, name=EVIL, chosen=(EVIL,)), evil, title=EVIL, loading={"spec": EVIL})
    assert page.count("<script>") == 1
    assert EVIL not in page
    parsed(page)


def test_every_picture_has_words_and_every_control_a_name(page, views, parsed):
    reader = parsed(page)
    maps = [image["alt"] for image in reader.all("img") if image["alt"].startswith("Heat map")]
    assert len(maps) == sum(len(view.explanations) for view in views)
    assert "half of its weight" in maps[0]
    assert all(box["type"] == "radio" for box in reader.all("input"))
    assert page.count("<label") == len(reader.all("input"))


def test_the_legend_states_what_the_ends_stand_for(page, views):
    explanation = views[0].explanations[2]
    end = report.colour.scale(explanation.heatmap[0]).end
    assert f"<span>{number(-end)}</span><span>0</span><span>{number(end)}</span>" in page
    assert "99th percentile" in page


def test_verdicts_are_words_and_not_colour_alone(model, views):
    def with_score(value: float) -> str:
        one = torch.tensor([value]), torch.tensor([0.1])
        card = Card("lite", {"srg": Score("srg", *one, 0.0, "up", ("",))}, ("Said.",))
        view = replace(views[0], explanations=(replace(views[0].explanations[0], attached=card),))
        return report.explain_page(model, [view])

    assert "● better than chance" in with_score(0.31)
    assert "◐ not clearly better than chance" in with_score(0.29)
    assert "○ worse than chance" in with_score(-0.31)
    assert "higher is better" in with_score(0.31)


def test_a_method_known_to_ignore_the_class_says_so(model, photos):
    views = report.explain(model, photos[0], methods=["guided_backprop"], tier="none")
    assert "do not read it as evidence for this class" in report.explain_page(model, views)


def test_the_python_on_the_page_gives_the_same_map(model, photos, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    to_image(photos[0]).save("cat.png")
    (view,) = report.explain(model, "cat.png", methods=["grad_cam", "integrated_gradients"], tier="none")
    monkeypatch.setattr(zoo, "load", {"tiny": model}.get)
    for explanation in view.explanations:
        scope: dict = {}
        exec(python_for(view.photo, explanation, {"spec": "tiny"}), scope)
        torch.testing.assert_close(scope["explanation"].heatmap, explanation.heatmap)


def test_the_command_line_on_the_page_is_quoted(views):
    line = command_for("my cat.png", views[0].explanations[0], {"spec": "file:w.pt", "arch": "timm:x"})
    assert line.startswith(
        "glasshouse explain file:w.pt 'my cat.png' --arch timm:x --method grad_cam --target 0 --layer 4"
    )
    assert command_for("cat.png", views[0].explanations[0], {}) == ""


def test_overlays_leave_the_photograph_at_zero_and_hide_it_at_the_end():
    heat = torch.tensor([[[0.0, 1.0, -1.0]]])
    explanation = Explanation(heat, heat, "m", (0,), torch.zeros(1), {})
    pixels = torch.zeros(1, 3, 1, 3)
    shown = report.overlay(pixels, explanation)[0, :, 0]
    fade = report.picture.FADE[True]
    torch.testing.assert_close(shown[:, 0], torch.full((3,), 1 - fade))
    assert shown[0, 1] > shown[2, 1] + 0.2
    assert shown[2, 2] > shown[0, 2] + 0.2
    with pytest.raises(BadInput, match="do not belong"):
        report.overlay(torch.zeros(1, 3, 2, 2), explanation)


def test_a_page_of_thirty_maps_stays_under_six_megabytes(model):
    noise = torch.randn(1, 224, 224, generator=torch.Generator().manual_seed(0))
    explanation = Explanation(noise, noise, "saliency", (0,), torch.zeros(1), {})
    photo = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    view = report.View("a.png", photo, ((0, "cat", 0.5),), (explanation,) * 6, {}, 1.0)
    assert len(report.explain_page(model, [view] * 5)) < 6e6


def test_nouns_draw_themselves_without_scripts(views, parsed):
    explanation = views[0].explanations[0]
    for noun in (explanation, explanation.card, explanation.card.scores["srg"]):
        parsed(draw(noun))
        assert "<script" not in noun._repr_html_()
        assert len(noun._repr_html_()) < 300_000
    assert "data:image/png" in draw(explanation)


def test_a_page_without_views_is_an_error(model):
    with pytest.raises(BadInput, match="no views"):
        report.explain_page(model, [])


def test_numbers_read_well():
    assert [number(v) for v in (0.0, -1.234, 1e-5, 123456.0)] == ["0", "−1.23", "1.0e−5", "1.2e5"]
    assert measured(0.4123, 0.0312) == "0.412 ± 0.031"
    assert measured(-2.0, 0.0) == "−2"
    assert [percent(v) for v in (0.0, 0.394, 0.005, 0.0001)] == ["0 %", "39 %", "0.5 %", "< 0.1 %"]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours `#rrggbb`."""

    def luminance(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_in_both_themes(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r"{([^{}]*--paper:[^{}]*)}", style)
    ]
    assert len(themes) == 3, "light, dark by choice, dark by system"
    assert themes[1] == themes[2]
    for theme in themes:
        for name in ("ink", "soft", "accent", "good", "bad"):
            assert contrast(theme[name], theme["paper"]) >= 4.5, name
        assert contrast(theme["note"], theme["note-paper"]) >= 4.5
        assert contrast(theme["ink"], theme["tint"]) >= 4.5
