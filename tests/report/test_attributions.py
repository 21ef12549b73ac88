"""Units as bars."""

import re

import torch

from glasshouse import report
from glasshouse.attribute import UnitAttribution
from glasshouse.report.attributions import AGAINST, FOR


def noun(values: torch.Tensor, target: tuple[int, ...] = (3,)) -> UnitAttribution:
    return UnitAttribution(values, "channel_attribution", target, torch.ones(len(values)), "layer<4>", {})


def units(html: str) -> list[int]:
    return [int(unit) for unit in re.findall(r'<th scope="row"[^>]*>(\d+)</th>', html)]


def test_the_strongest_units_are_shown_those_for_the_target_first():
    html = report.draw(noun(torch.tensor([[0.1, -2.0, 4.0, 0.0, -1.0]])))
    assert units(html) == [2, 0, 4, 1]
    assert html.count(FOR) == 2
    assert html.count(AGAINST) == 2
    assert "margin-left:50.0%;width:50.0%" in html  # the strongest fills its half,
    assert "margin-left:25.0%;width:25.0%" in html  # and one against it of half its size the half of the other
    assert "class 3, score 1" in html
    assert "layer&lt;4&gt;" in html


def test_of_many_units_and_images_only_some_are_shown_and_the_rest_is_counted():
    html = report.draw(noun(torch.linspace(-1, 1, 40).expand(10, 40), ()))
    assert html.count("<table") == 8
    assert html.count("and 28 more units") == 8
    assert "and 2 more images" in html
    assert "class" not in re.sub(r"<[^>]*>", "", html)


def test_nothing_at_all_is_drawn_as_no_bars():
    assert units(report.draw(noun(torch.zeros(1, 4)))) == []
