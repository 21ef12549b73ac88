"""What the taxonomy says of metrics, held against the metrics."""

from dataclasses import fields
from functools import cache
from inspect import Parameter
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

import glasshouse
from glasshouse import attribute
from glasshouse.core import Explanation, Score, find_method, list_methods
from glasshouse.evaluate import taxonomy
from glasshouse.evaluate.taxonomy.specs import Family, Kind

glasshouse.list_methods()  # fills the registry
REGISTERED = [name.partition(".")[2] for name in list_methods("evaluate.*")]
WRITTEN = list(taxonomy.metric_names())
KNOWN = [name for name in WRITTEN if name in REGISTERED]


@cache
def explained() -> tuple[nn.Module, Tensor, Explanation]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ).eval()
    images = torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return net, images, attribute.integrated_gradients(net, images, n_steps=4)


def boxes(count: int, *, start: int = 2) -> Tensor:
    masks = torch.zeros(count, 12, 16, dtype=torch.bool)
    masks[:, start : start + 4, 3:9] = True
    return masks


GIVEN = {
    "masks": lambda: boxes(1),
    "own_masks": lambda: boxes(1),
    "other_masks": lambda: boxes(1, start=7),
    "parts": lambda: torch.stack([boxes(1), boxes(1, start=7)], 1),
    "adversarial": lambda: -explained()[1],
    "other_model": lambda: explained()[0],
}
"""What a metric may ask for besides model, images and map, by the name of the argument."""


def wanted(name: str) -> list[str]:
    """Arguments of a metric without a default; all of them if it is not about a map."""
    parameters = list(find_method(name, "evaluate").parameters.parameters.values())
    about = 3 if [p.name for p in parameters[:3]] == ["model", "inputs", "explanation"] else 0
    return [p.name for p in parameters[about:] if p.default is Parameter.empty]


@cache
def scored(name: str) -> Score | None:
    """What a metric makes of a map; None for one that needs what this file has not."""
    if not set(wanted(name)) <= set(GIVEN):
        return None
    info = find_method(name, "evaluate")
    return info.function(*explained(), **{key: GIVEN[key]() for key in wanted(name)}, **info.example)


def test_every_registered_metric_says_what_it_asks():
    unsaid = set(REGISTERED) - set(WRITTEN)
    assert not unsaid, "say what they ask, in glasshouse/evaluate/taxonomy/measuring.py"


@pytest.mark.parametrize("name", KNOWN)
def test_direction_chance_and_range_are_those_of_the_score(name):
    spec, score = taxonomy.metric_spec(name), scored(name)
    if score is None:
        pytest.skip("it needs more than this file has; its own tests call it")
    assert score.direction == spec.direction
    if not score.valid.any():
        return
    if isinstance(spec.chance, int | float):
        assert score.chance == pytest.approx(spec.chance)
    elif spec.chance is None:
        assert score.chance is None
    values = score.value[score.valid]
    assert spec.low is None or (values >= spec.low - 1e-6).all()
    assert spec.high is None or (values <= spec.high + 1e-6).all()


def test_a_metric_that_needs_nothing_more_can_be_called_with_nothing_more():
    assert {name for name in KNOWN if taxonomy.metric_spec(name).needs} == {name for name in KNOWN if wanted(name)}


def test_what_takes_a_map_applies_to_maps_and_what_does_not_needs_more_than_one():
    of_grad_cam = {each.metric for each in taxonomy.evaluations("grad_cam")}
    for name in KNOWN:
        spec, parameters = taxonomy.metric_spec(name), list(find_method(name, "evaluate").parameters.parameters)
        if parameters[:3] == ["model", "inputs", "explanation"]:
            assert spec.applies_to == {"heatmap", "mask"}, name
            assert name in of_grad_cam or spec.claim, name
        elif spec.applies_to & {"heatmap", "mask"}:
            assert spec.needs & {"dataset", "training", "human"}, name


def test_every_entry_is_sound():
    for name in WRITTEN:
        spec = taxonomy.metric_spec(name)
        assert spec.question.endswith("?"), name
        assert spec.kind in get_args(Kind), name
        assert spec.applies_to, name
        assert spec.low is None or spec.high is None or spec.low < spec.high, name
        assert not isinstance(spec.chance, float) or spec.low is None or spec.chance >= spec.low, name
        assert not spec.given_by or (spec.aspect == "inside" and name not in REGISTERED), name


def test_results_hold_the_numbers_that_they_are_said_to_hold():
    places = [spec.given_by for name in WRITTEN if (spec := taxonomy.metric_spec(name)).given_by]
    assert len(places) > 10
    for method, number in places:
        noun = get_type_hints(find_method(method).function)["return"]
        assert number in {field.name for field in fields(noun)} | set(dir(noun)), method


def test_every_metric_is_for_something():
    waiting = set(WRITTEN) - {each.metric for method in taxonomy.find() for each in taxonomy.evaluations(method)}
    assert {taxonomy.metric_spec(name).families for name in waiting} <= {
        ("processing.rule_extraction",),
        ("producing.generated",),
    }


def test_complexity_is_never_called_truth():
    kinds = {name: taxonomy.metric_spec(name).kind for name in WRITTEN}
    assert {name for name, kind in kinds.items() if kind == "size"} == {
        name for name in WRITTEN if taxonomy.metric_spec(name).aspect == "complexity"
    }


def test_words_are_explained():
    assert set(taxonomy.MEANINGS) == set(get_args(Family))
    assert set(taxonomy.KINDS) == set(get_args(Kind))
