"""Parts as players: gates whose single effects and Shapley values are known by hand."""

import math
from itertools import combinations, permutations
from math import factorial

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from glasshouse import data, evaluate
from glasshouse.core import BadInput
from glasshouse.evaluate.baselines import substrate
from glasshouse.evaluate.faithfulness.players import part_single_deletion, shapley_gap, shapley_values
from glasshouse.evaluate.imputation import impute

PARTS = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
PARTS[0, 0, :2, :3], PARTS[0, 1, 2:, 3:] = True, True


class Gate(nn.Module):
    """Reads the brightness of two parts: their lesser ("and"), or their greater ("or")."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, 0, :2, :3].mean((1, 2)), x[:, 0, 2:, 3:].mean((1, 2))
        both = torch.minimum(first, second) if self.kind == "and" else torch.maximum(first, second)
        return torch.stack([both, 0 * both], 1)


def on_parts(weights: list[float], parts: Tensor = PARTS) -> Tensor:
    share = torch.tensor(weights) / parts[0].flatten(1).sum(1)
    return torch.einsum("p,nphw->nhw", share, parts.float())


def test_where_both_parts_are_needed_each_has_the_whole_effect_and_half_the_value(explained):
    score = shapley_gap(Gate("and"), torch.ones(1, 1, 4, 6), explained(on_parts([0.5, 0.5])), PARTS)
    assert score.value.item() == pytest.approx(0, abs=1e-6)
    assert score.extras["shapley"].tolist() == [[0.5, 0.5]]


def test_where_either_part_is_enough_single_deletion_sees_nothing_and_shapley_values_half_each(explained):
    images, explanation = torch.ones(1, 1, 4, 6), explained(on_parts([0.5, 0.5]))
    assert shapley_gap(Gate("or"), images, explanation, PARTS).extras["shapley"].tolist() == [[0.5, 0.5]]
    three = torch.cat([PARTS, torch.zeros(1, 1, 4, 6, dtype=torch.bool)], 1)
    three[0, 2, 0, 5] = True
    blind = part_single_deletion(Gate("or"), images, explanation, three)
    assert blind.reason == ("constant_score",)
    assert blind.extras["drops"].tolist() == [[0.0, 0.0, 0.0]]


def test_shapley_values_are_means_over_all_orders():
    worth = torch.rand(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for player in range(4):
        rest = [p for p in range(4) if p != player]
        for size in range(4):
            for chosen in combinations(rest, size):
                number = sum(1 << p for p in chosen)
                share = factorial(size) * factorial(3 - size) / factorial(4)
                expected[:, player] += share * (worth[:, number | 1 << player] - worth[:, number])
    torch.testing.assert_close(shapley_values(worth), expected)
    torch.testing.assert_close(shapley_values(worth).sum(1), worth[:, -1] - worth[:, 0])


def test_shapley_values_are_those_of_the_glass_models():
    glass = data.glass.weighted_sum()
    images = data.scenes("shapes", 3, size=64, seed=2).images
    masks = glass.truth.regions(images)
    maps = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    settings = {"baseline": 0.0, "target": [0, 0, 0]}
    from glasshouse.core import Explanation

    explanation = Explanation(maps, maps, "by_hand", (0, 0, 0), torch.zeros(3), {})
    outside = ~masks.any(1, keepdim=True)
    score = shapley_gap(glass, images * ~outside, explanation, masks, **settings)
    torch.testing.assert_close(
        score.extras["shapley"], glass.truth.shapley(images)[:, :, 0].float(), atol=1e-4, rtol=1e-3
    )


@pytest.fixture
def five() -> Tensor:
    labels = torch.arange(48).view(6, 8) // 10
    return torch.stack([labels == part for part in range(5)])[None].expand(3, 5, 6, 8)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_exact_contributions_of_a_linear_model_order_its_parts(
    linear, inputs, contributions, explained, five, sign, expected
):
    score = part_single_deletion(linear, inputs, explained(sign * contributions.float()), five, baseline=0.0)
    assert score.value.tolist() == pytest.approx([expected] * 3)
    gap = shapley_gap(linear, inputs, explained(sign * contributions.float()), five, baseline=0.0)
    assert gap.value.tolist() == pytest.approx([1 - sign] * 3, abs=1e-5)


def test_renderings_without_a_part_may_take_the_place_of_a_fill(linear, inputs, contributions, explained, five):
    removed = torch.stack([inputs * ~five[:, part, None] for part in range(5)], 1)
    explanation = explained(contributions.float())
    both = [
        part_single_deletion(linear, inputs, explanation, five, baseline=0.0),
        part_single_deletion(linear, inputs, explanation, five, removed=removed),
    ]
    assert both[0].value.equal(both[1].value)
    torch.testing.assert_close(both[0].extras["drops"], both[1].extras["drops"])


def test_random_maps_are_at_chance_and_the_error_says_how_far_they_stray(linear, inputs, explained, random_maps, five):
    many, parts = inputs[:1].expand(300, 1, 6, 8), five[:1].expand(300, 5, 6, 8)
    maps = explained(random_maps(300))
    deletion = part_single_deletion(linear, many, maps, parts, baseline=0.0)
    assert abs(deletion.mean - 0.5) < 3 * deletion.error
    torch.testing.assert_close(deletion.stderr, deletion.value.std().expand(300), rtol=0.15, atol=0)
    gap = shapley_gap(linear, many, maps, parts, baseline=0.0)
    assert abs(gap.mean - 1) < 3 * gap.error


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_right_order_of_few_parts_may_be_luck(linear, inputs, contributions, explained, count):
    labels = torch.arange(48).view(6, 8) * count // 48
    parts = torch.stack([labels == part for part in range(count)])[None].expand(3, count, 6, 8)
    score = part_single_deletion(linear, inputs, explained(contributions), parts, baseline=0.0)
    assert score.value.tolist() == pytest.approx([1] * 3)
    variance = sum(spearmanr(range(count), order).statistic ** 2 for order in permutations(range(count)))
    assert score.stderr.tolist() == pytest.approx([0.5 * math.sqrt(variance / factorial(count))] * 3)
    assert (score.value - 0.5 < 3 * score.stderr).all()


def test_values_of_one_sign_have_an_even_map_to_beat(linear, inputs, explained, five):
    linear.weight.data = linear.weight.abs()
    score = shapley_gap(linear, inputs.abs(), explained(torch.rand(3, 6, 8)), five, baseline=0.0)
    area = torch.tensor([10.0, 10, 10, 10, 8])
    for even, shapley in zip(score.extras["even"], score.extras["shapley"], strict=True):
        assert float(even) == pytest.approx(float(1 - shapley @ area / shapley.norm() / area.norm()), abs=1e-6)
    assert (score.extras["even"] < 0.5).all()


@pytest.mark.parametrize("baseline", ["mean", "blur:2", "road:0", "image_mean"])
def test_parts_that_overlap_leave_together_and_any_baseline_takes_their_place(cnn, images, explained, baseline):
    parts = torch.rand(3, 4, 14, 18, generator=torch.Generator().manual_seed(0)) < 0.4
    parts[1, 2] = False
    explanation = explained(torch.randn(3, 14, 18, generator=torch.Generator().manual_seed(1)), 1)
    shapley = shapley_gap(cnn, images, explanation, parts, baseline=baseline)
    drops = part_single_deletion(cnn, images, explanation, parts, baseline=baseline).extras["drops"]

    def seen(image, gone):
        """The score of one image, all of whose pixels in any of these parts are replaced."""
        keep = ~parts[image, gone].any(0)[None]
        one = images[image : image + 1]
        fill = impute(one, keep, noise=0.0) if baseline == "road:0" else substrate(one, baseline)
        return float(cnn(torch.where(keep, one, fill))[0, 1].detach())

    for image in range(3):
        worth = [seen(image, [p for p in range(4) if not number >> p & 1]) for number in range(16)]
        expected = shapley_values(torch.tensor([worth], dtype=torch.float64))[0].float()
        torch.testing.assert_close(shapley.extras["shapley"][image], expected, atol=1e-5, rtol=1e-3)
        slow = torch.tensor([worth[15] - worth[15 - (1 << p)] for p in range(4)])
        torch.testing.assert_close(drops[image], slow, atol=1e-5, rtol=1e-3)


def test_an_image_scores_the_same_alone(linear, inputs, explained, random_maps, five):
    explanation = explained(random_maps(3))
    for metric in (part_single_deletion, shapley_gap):
        together = metric(linear, inputs, explanation, five)
        alone = metric(linear, inputs[1:2], explanation[1], five[1:2])
        torch.testing.assert_close(alone.value, together.value[1:2])


def test_parts_that_do_not_fit_and_too_many_of_them_are_refused(linear, inputs, explained, random_maps, five):
    explanation = explained(random_maps(3))
    with pytest.raises(BadInput, match="n p h w"):
        part_single_deletion(linear, inputs, explained(random_maps(2)), five)
    with pytest.raises(BadInput, match="Join some"):
        shapley_gap(linear, inputs, explanation, five.repeat(1, 3, 1, 1))


def test_hidden_parts_take_no_part_and_few_are_too_few(linear, inputs, explained, random_maps, five):
    parts = five.clone()
    parts[0, 2:] = False
    score = part_single_deletion(linear, inputs, explained(random_maps(3)), parts)
    assert score.reason == ("few_parts", "", "")
    assert evaluate.list_metrics("part_*") == ["part_single_deletion"]
