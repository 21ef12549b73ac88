"""The body plans of the creatures, and what decides the category."""

from itertools import combinations, product

import pytest
import torch

from glasshouse.data.world.creatures import CATEGORIES, PARTS, PLAN_PARTS, VARIANTS, body_plans, schema
from glasshouse.data.world.scene import scenes, strokes_of

pytestmark = pytest.mark.usefixtures("unchecked")


def test_two_body_plans_agree_in_at_most_one_part():
    plans = body_plans()
    assert plans.shape == (len(CATEGORIES), len(PLAN_PARTS))
    for one, other in combinations(plans, 2):
        assert int((one != other).sum()) >= 4


def test_every_variant_occurs_and_every_creature_has_a_head():
    plans = body_plans()
    assert (plans[:, 0] > 0).all()
    for part, name in enumerate(PLAN_PARTS):
        assert set(plans[:, part].tolist()) == set(range(len(VARIANTS[name]))) - ({0} if name == "head" else set())


def test_any_two_parts_that_are_there_tell_the_category():
    plans = body_plans().tolist()
    for plan in plans:
        there = [i for i, variant in enumerate(plan) if variant]
        for i, j in combinations(there, 2):
            assert [other for other in plans if other[i] == plan[i] and other[j] == plan[j]] == [plan]


def test_a_creature_shows_the_parts_of_its_plan_and_no_others():
    shown = scenes("creatures", 12, size=16, labels=False, grid=["category"])
    strokes = strokes_of(shown)
    variants = {name for names in VARIANTS.values() for name in names[1:]}
    for i, plan in enumerate(body_plans().tolist()):
        there = {PARTS[strokes.part[s]] for s in (strokes.shape[i] >= 0).nonzero().flatten().tolist()}
        expected = {VARIANTS[name][variant] for name, variant in zip(PLAN_PARTS, plan, strict=True) if variant}
        assert there & variants == expected


@pytest.mark.parametrize("part", PLAN_PARTS[1:])
def test_a_part_that_is_not_shown_has_no_stroke(part):
    strokes = strokes_of(scenes("creatures", 12, size=16, labels=False, fixed={f"{part}_shown": "no"}))
    slot = strokes.parts.index(part)
    assert (strokes.shape[:, [own == slot for own in strokes.slot]] == -1).all()


def test_colour_texture_size_and_pose_are_drawn_independently_of_the_category():
    drawn = scenes("creatures", 3000, size=16, labels=False)
    by_category = torch.nn.functional.one_hot(drawn.categories, 12).double()
    by_category = by_category - by_category.mean(0)
    for factor in drawn.schema:
        if factor.name == "category":
            continue
        values = drawn.factors[factor.name].double()
        values = (values - values.mean()) / values.std()
        correlation = (by_category * values[:, None]).mean(0) / by_category.std(0)
        assert correlation.abs().max() < 4.5 / 3000**0.5, factor.name


def test_the_second_creature_has_factors_of_its_own():
    names = [factor.name for factor in schema(2)]
    assert len(set(names)) == len(names)
    own = {name.removesuffix("_2") for name in names if name.endswith("_2")}
    assert own == {
        factor.name
        for factor in schema(1)
        if factor.group in ("content", "parts", "layout", "pose", "geometry", "appearance")
    }
    two = scenes("creatures", 4, size=32, n_objects=2, seed=1)
    assert {"body", "body_2", "eye_2"} <= set(two.part_names)
    assert two.labels["instance"].unique().tolist()[:3] == [0, 1, 2]


@pytest.mark.parametrize("parts", list(product(["yes", "no"], repeat=2)))
def test_a_hidden_part_is_that_part_removed(parts):
    fixed = {"category": "jurna", "tail_shown": parts[0], "legs_shown": parts[1]}
    gone = [name for name, shown in zip(("tail", "legs"), parts, strict=True) if shown == "no"]
    hidden = scenes("creatures", 3, size=24, fixed=fixed)
    removed = scenes("creatures", 3, size=24, fixed={**fixed, "tail_shown": "yes", "legs_shown": "yes"}).do(remove=gone)
    assert torch.equal(hidden.images, removed.images)
