"""Objectives beside literal sums."""

import math

import pytest
import torch

from glasshouse.core import BadInput, generator
from glasshouse.visualize import (
    Sight,
    direction,
    diversity,
    l2,
    layer_energy,
    logit,
    neuron,
    total_variation,
    unit,
)


@pytest.fixture
def sight():
    def draw(*shape):
        return torch.randn(shape, generator=generator(0), dtype=torch.float64)

    return Sight(draw(3, 2, 4, 5), {"a": draw(3, 6, 4, 3), "b": draw(3, 2, 1, 1)}, draw(3, 7), int)


def test_units_are_means_over_positions_of_each_pictures_own_unit(sight):
    maps = sight.maps["a"]
    expected = torch.stack([maps[row, k].sum() / 12 for row, k in enumerate((5, 0, 2))])
    torch.testing.assert_close(unit("a", [5, 0, 2])(sight), expected)
    torch.testing.assert_close(unit("a", 4)(sight), maps[:, 4].mean((1, 2)))


def test_neurons_are_single_positions_by_default_the_middle_one(sight):
    maps = sight.maps["a"]
    assert torch.equal(neuron("a", 1)(sight), maps[:, 1, 2, 1])
    assert torch.equal(neuron("a", [0, 1, 5], at=(3, 0))(sight), maps[[0, 1, 2], [0, 1, 5], 3, 0])


@pytest.mark.parametrize("power", [0, 2])
def test_directions_are_projections_weighted_by_the_cosine(sight, power):
    v = torch.randn(3, 6, generator=generator(1), dtype=torch.float64)
    expected = []
    for row in range(3):
        total = 0.0
        for i in range(4):
            for j in range(3):
                a = sight.maps["a"][row, :, i, j]
                cosine = float(a @ v[row]) / math.sqrt(float(a @ a) * float(v[row] @ v[row]))
                total += float(a @ v[row]) * max(0.1, cosine) ** power
        expected.append(total / 12)
    value = direction("a", v, cosine_power=power)(sight)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-8)
    one = direction("a", v[0], at=(1, 2))(sight)
    torch.testing.assert_close(one, sight.maps["a"][:, :, 1, 2] @ v[0])


def test_a_unit_is_the_direction_of_its_own_axis(sight):
    axis = torch.eye(6, dtype=torch.float64)[3]
    torch.testing.assert_close(direction("a", axis)(sight), unit("a", 3)(sight))


def test_diversity_is_the_double_sum_over_pairs_of_gram_matrices(sight):
    grams = []
    for maps in sight.maps["a"]:
        a = maps.reshape(6, 12)
        grams.append((a @ a.T) / (a @ a.T).norm())
    expected = [-sum(float((grams[n] * grams[m]).sum()) for m in range(3) if m != n) for n in range(3)]
    torch.testing.assert_close(diversity("a")(sight), torch.tensor(expected, dtype=torch.float64))


def test_copies_are_least_diverse(sight):
    copies = Sight(sight.pixels, {"a": sight.maps["a"][:1].expand(3, -1, -1, -1)}, None, int)
    torch.testing.assert_close(diversity("a")(copies), torch.full((3,), -2.0, dtype=torch.float64))


def test_penalties_are_literal_sums_over_pixels(sight):
    pixels, expected = sight.pixels.tolist(), []
    for picture in pixels:
        rough = sum(abs(c[i + 1][j] - c[i][j]) for c in picture for i in range(3) for j in range(5))
        expected.append(rough + sum(abs(c[i][j + 1] - c[i][j]) for c in picture for i in range(4) for j in range(4)))
    torch.testing.assert_close(total_variation()(sight), torch.tensor(expected, dtype=torch.float64))
    grey = [sum((v - 0.5) ** 2 for c in picture for row in c for v in row) for picture in pixels]
    torch.testing.assert_close(l2()(sight), torch.tensor(grey, dtype=torch.float64))


def test_objectives_add_and_scale_like_numbers(sight):
    mixed = -unit("a", 1) + 3 * logit(2) - 0.5 * layer_energy("b") * 2
    maps = sight.maps
    expected = -maps["a"][:, 1].mean((1, 2)) + 3 * sight.logits[:, 2] - maps["b"].square().mean((1, 2, 3))
    torch.testing.assert_close(mixed(sight), expected)
    assert mixed.layers == ("a", "b")
    assert repr(mixed) == "- unit('a', 1) + 3 * logit(2) - layer_energy('b')"


def test_the_activation_is_what_is_left_without_penalties(sight):
    whole = unit("a", 1) + 100 * diversity("a") - total_variation() - l2()
    torch.testing.assert_close(whole.activation(sight), unit("a", 1)(sight))
    assert not l2().activation(sight).any()


def test_terms_must_agree_on_the_number_of_pictures():
    assert (unit("a", [1, 2]) + logit(0)).labels == ("a unit 1", "a unit 2")
    with pytest.raises(BadInput, match="are for 2 and 3 pictures"):
        _ = (unit("a", [1, 2]) + logit([0, 1, 2])).labels


def test_what_is_not_there_is_named(sight):
    with pytest.raises(BadInput, match=r"layer 'a' has no unit 6: it has 6. Use 0…5."):
        unit("a", 6)(sight)
    with pytest.raises(BadInput, match="outside the 4 x 3 grid of layer 'a'"):
        neuron("a", 0, at=(4, 0))(sight)
    with pytest.raises(BadInput, match="class 7 is out of range: the model has 7"):
        logit(7)(sight)
    with pytest.raises(BadInput, match="direction of 2 numbers in layer 'a' of 6 units"):
        direction("a", torch.ones(2))(sight)
    with pytest.raises(BadInput, match="name no channel"):
        unit("a", [])
