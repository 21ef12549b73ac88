"""Pairs of models whose gap is known, and surrogates that name known features."""

import math

import pytest
import torch
from scipy import stats

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.alternatives import compare_models, rashomon
from glasshouse.evaluate.inside.surrogates import surrogate_fidelity

LABELS = torch.arange(200) % 4


def wrong_on(rows):
    said = LABELS.clone()
    said[rows] = (said[rows] + 1) % 4
    return said


def test_the_gap_its_error_and_its_test_are_those_of_paired_counts():
    first, second = wrong_on(range(0, 10)), wrong_on(range(5, 35))
    seen = compare_models(first, second, LABELS)
    gained, lost, n = 5, 25, 200
    assert seen.gap == pytest.approx((gained - lost) / n)
    assert seen.stderr == pytest.approx(math.sqrt((gained + lost) / n - seen.gap**2) / math.sqrt(n), rel=0.1)
    assert seen.p_value == pytest.approx(stats.binomtest(5, 30).pvalue)
    assert seen.interval[0] < seen.gap < seen.interval[1] < 0
    assert (seen.model.share, seen.interpretable.share, seen.chance) == (0.95, 0.85, 0.25)
    assert seen.sentence == "The interpretable model gives up 10.0 points of accuracy."


def test_the_draws_of_counts_are_draws_of_images():
    first, second = wrong_on(range(0, 10)), wrong_on(range(5, 35))
    gain = (second == LABELS).double() - (first == LABELS).double()
    drawn = gain[torch.randint(200, (4000, 200), generator=torch.Generator().manual_seed(0))].mean(1)
    seen = compare_models(first, second, LABELS, n_resamples=4000)
    assert seen.stderr == pytest.approx(float(drawn.std()), rel=0.06)
    limits = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    assert seen.interval == pytest.approx(limits, abs=0.0051)


def test_mistakes_on_the_same_images_leave_no_doubt():
    seen = compare_models(wrong_on(range(50)), wrong_on(range(50)), LABELS)
    assert (seen.gap, seen.stderr, seen.interval, seen.p_value) == (0, 0, (0, 0), 1)
    assert seen.sentence.startswith("No difference in accuracy is seen on 200 images")


def test_a_model_that_is_always_right_beats_one_that_is_always_wrong():
    seen = compare_models(wrong_on(range(200)), LABELS, LABELS)
    assert (seen.gap, seen.interval) == (1.0, (1.0, 1.0))
    assert "gains 100.0 points" in seen.sentence


def test_logits_are_read_as_classes():
    logits = torch.nn.functional.one_hot(wrong_on(range(20)), 4).float()
    assert compare_models(logits, LABELS, LABELS).gap == pytest.approx(0.1)
    with pytest.raises(BadInput, match="no images"):
        compare_models(LABELS[:0], LABELS[:0], LABELS[:0])
    with pytest.raises(BadInput, match="1 and 200 images"):
        compare_models(LABELS[:1], LABELS, LABELS)


def test_logits_that_are_not_a_number_are_no_vote_for_the_first_class():
    with pytest.raises(BadInput, match="not-a-number"):
        compare_models(torch.full((200, 4), torch.nan), LABELS, LABELS)


def test_logits_that_are_equal_name_a_class_at_random():
    share = compare_models(torch.zeros(200, 4), LABELS, LABELS).model.share
    assert share == pytest.approx(0.25, abs=0.1)
    assert compare_models(torch.zeros(200, 4), torch.zeros(200, 4), LABELS).gap == 0


def test_the_same_features_overlap_wholly_and_others_not_at_all():
    first, second = torch.zeros(2, 20), torch.zeros(2, 20)
    first[:, :3], second[:, 10:13] = torch.tensor([3.0, -2, 1]), torch.tensor([-3.0, 2, 1])
    assert rashomon(first, [0.9, 0.9]).mean_overlap == 1
    torch.testing.assert_close(rashomon(first, [0.9, 0.9]).correlation, torch.ones(2, 2).double())
    other = rashomon(torch.stack([first[0], second[0]]), [0.9, 0.9], top=3)
    assert other.mean_overlap == 0
    assert other.chance == pytest.approx(3 / 20)
    assert other.mean_correlation == pytest.approx(
        stats.spearmanr(first[0].abs().numpy(), second[0].abs().numpy()).statistic
    )


def test_the_overlap_of_random_weights_is_the_chance_named():
    seen = rashomon(torch.randn(60, 30, generator=torch.Generator().manual_seed(0)), torch.ones(60), top=6)
    assert seen.chance == pytest.approx(0.2)
    assert seen.mean_overlap == pytest.approx(0.2, abs=0.01)
    pairs = [(a, b) for a in range(60) for b in range(a)]
    slow = [float(seen.overlap[a, b]) for a, b in pairs]
    assert seen.mean_overlap == pytest.approx(sum(slow) / len(slow))
    assert 0 < seen.stderr < 0.02


def test_two_surrogates_that_name_nothing_count_neither_for_the_overlap_nor_for_chance():
    weights = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [4, 3, 0, 0], [4, 0, 3, 0]])
    seen = rashomon(weights, [1.0] * 4, top=2)
    assert seen.overlap[0, 1].isnan()  # nothing beside nothing; nothing beside something is 0, by chance too
    assert seen.mean_overlap == pytest.approx(0.5 / 5)
    assert seen.chance == pytest.approx(0.5 / 5)
    assert seen.correlation[0].isnan().all()
    expected = stats.spearmanr([4, 3, 0, 0], [4, 0, 3, 0]).statistic
    assert seen.mean_correlation == pytest.approx(expected)


def test_what_is_not_a_number_is_no_surrogate():
    for weights, fidelities in ((torch.rand(2, 4), [0.9, math.nan]), (torch.tensor([[1.0, math.nan], [1, 2]]), [1, 1])):
        with pytest.raises(BadInput, match="not finite"):
            rashomon(weights, [float(value) for value in fidelities])


def test_only_those_near_the_best_count():
    weights = torch.eye(3, 5)
    seen = rashomon(weights, [0.90, 0.85, 0.895], 0.01, top=1)
    assert seen.within.tolist() == [True, False, True]
    assert seen.mean_overlap == 0
    alone = rashomon(weights, [0.90, 0.85, 0.80])
    assert math.isnan(alone.mean_overlap)
    assert "nothing to compare" in repr(alone)


def test_rankings_are_read_like_weights_of_that_order():
    rankings = torch.tensor([[2, 0, 1, 3], [2, 1, 0, 3]])
    seen = rashomon(rankings, [0.5, 0.5], top=2)
    assert seen.mean_overlap == pytest.approx(0.5)
    assert seen.mean_correlation == pytest.approx(stats.spearmanr([1, 2, 0, 3], [2, 1, 0, 3]).statistic)
    with pytest.raises(BadInput, match=r"0…3 once"):
        rashomon(torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]]), [0.5, 0.5])


def test_equal_weights_share_the_last_places():
    weights = torch.tensor([[3.0, 1, 1, 1], [3, 1, 0, 0]])
    seen = rashomon(weights, [1.0, 1.0], top=2)  # {0, a third each of 1, 2, 3} and {0, 1}
    assert seen.mean_overlap == pytest.approx((1 + 1 / 3) / 2)


def test_fidelities_themselves_can_be_given():
    box = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    good, bad = surrogate_fidelity(box, box), surrogate_fidelity(box, -box)
    assert rashomon(torch.rand(2, 4), [good, bad]).within.tolist() == [True, False]
    with pytest.raises(BadInput, match="1 fidelities for 2"):
        rashomon(torch.rand(2, 4), [good])


def test_results_are_saved_and_shown(tmp_path):
    for seen in (
        compare_models(wrong_on(range(9)), LABELS, LABELS),
        rashomon(torch.rand(3, 9, generator=torch.Generator().manual_seed(0)), [1.0, 1.0, 1.0]),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
