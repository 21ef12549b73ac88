"""Objectives that compare, beside literal sums, and what they draw."""

import math

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, generator
from glasshouse.visualize import Sight, render, unit
from glasshouse.visualize.composition import (
    activation_difference,
    alignment,
    best_match,
    change,
    interpolate,
    likeness,
    style_difference,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def sight():
    return Sight(draw(3, 2, 4, 5), {"a": draw(3, 6, 4, 3), "b": draw(3, 2, 1, 1)}, draw(3, 7), int)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 3])
def test_likeness_is_a_product_over_all_units_and_positions_times_a_power_of_the_cosine(sight, power, rows):
    other, expected = draw(rows, 6, 4, 3, seed=1), []
    for row in range(3):
        a, b = sight.maps["a"][row].flatten().tolist(), other[row % rows].flatten().tolist()
        product = sum(x * y for x, y in zip(a, b, strict=True))
        cosine = product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
        expected.append(product / 12 * max(0.1, cosine) ** power)
    value = likeness("a", other, cosine_power=power)(sight)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_likeness_of_maps_with_themselves_is_their_energy_per_position(sight):
    maps = sight.maps["a"]
    value = likeness("a", maps, cosine_power=3)(sight)
    torch.testing.assert_close(value, maps.square().sum((1, 2, 3)) / 12, rtol=1e-6, atol=0)


def test_the_best_match_of_a_position_is_the_largest_product_with_any_position_of_the_guide(sight):
    guide, expected = draw(2, 6, 2, 5, seed=1), []
    for row in range(3):
        best = [
            max(
                float(sight.maps["a"][row, :, i, j] @ guide[m, :, p, q])
                for m in range(2)
                for p in range(2)
                for q in range(5)
            )
            for i in range(4)
            for j in range(3)
        ]
        expected.append(sum(best) / 12)
    torch.testing.assert_close(best_match("a", guide)(sight), torch.tensor(expected, dtype=torch.float64))


def test_differences_are_means_of_powers_and_vanish_for_the_same_image(sight):
    other = draw(1, 6, 4, 3, seed=1)
    expected = [
        sum(abs(float(x - y)) ** 2 for x, y in zip(row.flatten(), other.flatten(), strict=True)) / 72
        for row in sight.maps["a"]
    ]
    value = activation_difference("a", other, power=2)(sight)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))
    assert not activation_difference("a", sight.maps["a"])(sight).any()
    assert not change(sight.pixels)(sight).any()
    torch.testing.assert_close(change(0 * sight.pixels[:1])(sight), sight.pixels.square().mean((1, 2, 3)))


def test_style_is_blind_to_where_things_are(sight):
    shuffled = sight.maps["a"].flatten(2)[:, :, torch.randperm(12, generator=generator(3))].unflatten(2, (2, 6))
    assert float(style_difference("a", shuffled)(sight).max()) < 1e-12
    other, expected = draw(3, 6, 5, 5, seed=1), []
    for row in range(3):
        total = 0.0
        for k in range(6):
            for m in range(6):
                own = float((sight.maps["a"][row, k] * sight.maps["a"][row, m]).sum()) / 12
                total += abs(own - float((other[row, k] * other[row, m]).sum()) / 25)
        expected.append(total / 36)
    torch.testing.assert_close(style_difference("a", other)(sight), torch.tensor(expected, dtype=torch.float64))


def test_alignment_sums_to_that_of_lucid_over_the_batch():
    maps = draw(7, 2, 3, 2)
    sight = Sight(draw(7, 1, 2, 2), {"a": maps}, None, int)
    total = 0.0
    for distance in (1, 2, 3, 4):
        for first in range(7 - distance):
            gap = (maps[first] - maps[first + distance]).square().mean()
            total -= float(gap) / 3.0**distance
    value = alignment("a", decay_ratio=3)(sight)
    assert float(value.sum()) == pytest.approx(total)
    assert not alignment("a")(Sight(draw(1, 1, 2, 2), {"a": maps[:1]}, None, int)).any()


def test_interpolation_weighs_two_objectives_by_the_place_in_the_batch(sight):
    objective = interpolate(2 * unit("a", 4), unit("a", 1) - unit("b", 0), 3)
    a, b = sight.maps["a"].mean((2, 3)), sight.maps["b"].mean((2, 3))
    expected = [2 * a[0, 4], a[1, 4] + (a[1, 1] - b[1, 0]) / 2, a[2, 1] - b[2, 0]]
    torch.testing.assert_close(objective(sight), torch.stack(expected))
    assert len(objective.labels) == 3
    assert len(set(objective.labels)) == 3
    assert objective.layers == ("a", "b")


def test_pictures_go_over_from_one_unit_to_another(cnn):
    ends = unit("3", 1), unit("3", 5)
    picture = render(cnn, interpolate(*ends, 3) + 0.01 * alignment("0"), size=16, steps=24, preset="fourier")
    with torch.no_grad():
        first, last = (cnn[:4](picture.pixels)[:, k].mean((1, 2)) for k in (1, 5))
    assert first[0] > first[2]
    assert last[2] > last[0]
    assert (picture.history[:, -1] > picture.history[:, 0]).all()


def test_a_picture_near_a_goal_is_found_by_subtracting_the_difference():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten()).eval()
    goal = torch.rand(1, 3, 12, 10, generator=generator(4))
    with torch.no_grad():
        maps = net[0](goal)
    picture = render(net, -activation_difference("0", maps, power=2), size=(12, 10), steps=100, transforms=())
    assert picture.activation > 0.4 * picture.history[0, 0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (likeness("a", torch.zeros(1, 6, 4, 4)), "to compare with layer 'a'"),
        (likeness("a", torch.zeros(2, 6, 4, 3)), "one row, or one per picture"),
        (best_match("a", torch.zeros(1, 5, 4, 3)), "5 units for layer 'a' of 6"),
        (style_difference("a", torch.zeros(1, 5, 4, 3)), "style of 5 units"),
        (change(torch.zeros(1, 2, 4, 4)), "change from pixels"),
    ],
)
def test_what_cannot_be_compared_is_an_error(sight, objective, message):
    with pytest.raises(BadInput, match=message):
        objective(sight)


@pytest.mark.parametrize(("start", "n"), [(unit("a", [0, 1]), 3), (unit("a", 0), 1)])
def test_interpolation_needs_two_single_objectives_and_two_pictures(start, n):
    with pytest.raises(BadInput, match="at least 2 pictures"):
        interpolate(start, unit("a", 2), n)
