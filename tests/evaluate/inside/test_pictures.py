"""Pictures that excite a unit by a known amount, and readers that can, cannot, or must guess."""

import pytest
import torch
from scipy import stats

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.pictures import activation_percentile, forced_choice


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_percentile_counts_the_images_that_excite_the_unit_less():
    natural = torch.arange(1000.0)[:, None].expand(1000, 4)
    seen = activation_percentile(torch.tensor([-1.0, 499.5, 998.5, 5000.0]), natural)
    assert seen.percentile.tolist() == pytest.approx([0, 50, 99.9, 100])
    assert seen.exceeds.tolist() == [False, False, True, True]
    assert seen.ratio.tolist() == pytest.approx([-1 / 999, 0.5, 998.5 / 999, 5000 / 999])


def test_equal_activations_count_half():
    seen = activation_percentile(torch.zeros(1), torch.zeros(10, 1))
    assert seen.percentile.tolist() == [50.0]
    assert not seen.exceeds.any()
    assert seen.ratio.isnan().all()


def test_it_takes_2995_images_to_be_sure_of_999_in_1000():
    for n, sure in ((2994, False), (2995, True)):
        seen = activation_percentile(torch.ones(1), torch.zeros(n, 1))
        assert seen.exceeds.all()
        assert bool(seen.proven) == sure
        assert float(seen.lower) == pytest.approx(100 * stats.beta.ppf(0.05, n, 1))


def test_an_image_in_place_of_the_picture_exceeds_at_chance():
    values = draw(2000, 300)
    seen = activation_percentile(values[0], values[1:], wanted=90)
    assert float(seen.exceeds.double().mean()) == pytest.approx(0.1, abs=0.05)
    assert float(seen.percentile.mean()) == pytest.approx(50, abs=5)


def test_a_reader_picks_the_image_that_looks_like_the_exemplars():
    concept = torch.nn.functional.one_hot(torch.tensor(0), 8).float()
    strong, weak = 3 * concept + draw(40, 8) * 0.3, draw(40, 8, seed=1)
    seen = forced_choice(strong, weak, concept[None] + 0.1 * draw(3, 8, seed=2))
    assert seen.rate.share > 0.9
    assert seen.p_value < 1e-6
    swapped = forced_choice(weak, strong, concept[None])
    assert swapped.rate.share < 0.1


def test_exemplars_that_say_nothing_leave_a_coin():
    seen = forced_choice(draw(600, 8), draw(600, 8, seed=1), draw(4, 8, seed=2))
    assert seen.rate.interval[0] < 0.5 < seen.rate.interval[1]
    assert seen.p_value > 0.01


def test_images_that_look_the_same_are_chosen_by_tossing_a_coin():
    same = draw(1000, 4)
    seen = forced_choice(same, same, draw(2, 4, seed=1))
    assert seen.margin.abs().max() < 1e-12
    assert seen.rate.share == pytest.approx(0.5, abs=0.05)
    assert forced_choice(same, same, draw(2, 4, seed=1), seed=0).correct.equal(seen.correct)


def test_the_reader_is_what_a_loop_computes():
    strong, weak, shown, other = draw(6, 5), draw(6, 5, seed=1), draw(3, 5, seed=2), draw(2, 5, seed=3)
    seen = forced_choice(strong, weak, shown, other)

    def score(x):
        near, far = (max(float(x @ e / (x.norm() * e.norm())) for e in group) for group in (shown, other))
        return near - far

    expected = [score(a) - score(b) for a, b in zip(strong, weak, strict=True)]
    assert seen.margin.tolist() == pytest.approx(expected, abs=1e-6)
    assert seen.correct.tolist() == [margin > 0 for margin in expected]
    assert seen.p_value == pytest.approx(stats.binom.sf(seen.rate.hits - 1, 6, 0.5))


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="2 pictures for 3 units"):
        activation_percentile(torch.zeros(2), torch.zeros(5, 3))
    with pytest.raises(BadInput, match="not finite"):
        activation_percentile(torch.tensor([torch.nan]), torch.zeros(5, 1))
    with pytest.raises(BadInput, match="2 strong and 3 weak"):
        forced_choice(draw(2, 4), draw(3, 4), draw(1, 4))


def test_results_are_saved_and_shown(tmp_path):
    for seen in (
        activation_percentile(torch.ones(2), draw(50, 2)),
        forced_choice(draw(9, 4), draw(9, 4, seed=1), draw(1, 4)),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
