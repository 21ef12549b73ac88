"""Pictures that excite a unit by a known amount, and readers that can, cannot, or must guess."""

import numpy as np
import pytest
import torch
from scipy import stats

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.pictures import activation_percentile, forced_choice, picture_transfer


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
    with pytest.raises(BadInput, match="not finite"):
        forced_choice(draw(2, 4), draw(2, 4), draw(1, 4), torch.full((1, 4), torch.nan))
    with pytest.raises(BadInput, match="level=95"):
        forced_choice(draw(2, 4), draw(2, 4), draw(1, 4), level=95.0)


def test_no_opposites_are_like_opposites_that_are_not_given():
    margins = [forced_choice(draw(3, 4), draw(3, 4, seed=1), draw(2, 4), shown).margin for shown in (None, draw(0, 4))]
    assert margins[0].equal(margins[1])


def test_pictures_carry_over_to_the_same_units_in_another_order():
    order, natural = torch.tensor([3, 0, 2, 1]), draw(500, 4)
    other = 2 * natural[:, order] + 0.3 * draw(500, 4, seed=1)  # unit v of the other network is unit order[v] of this
    pictures = 10 * torch.eye(4)[:, order]
    seen = picture_transfer(pictures, other, own=natural)
    assert order[seen.match].tolist() == [0, 1, 2, 3]
    assert seen.likeness.tolist() == pytest.approx(
        [np.corrcoef(natural[:, u], other[:, v])[0, 1] for u, v in enumerate(seen.match.tolist())], abs=1e-6
    )
    assert seen.value == 100
    assert seen.seen.exceeds.all()
    assert seen.others.tolist() == pytest.approx([50] * 4, abs=10)  # a zero is an ordinary activation
    assert float(seen.gap.min()) > 40


def test_pictures_that_excite_everything_are_no_better_than_those_of_other_units():
    seen = picture_transfer(torch.full((3, 3), 9.0), draw(200, 3))
    assert seen.value == 100
    assert seen.gap.tolist() == [0, 0, 0]


def test_transferred_percentiles_are_what_a_loop_counts():
    pictures, natural = draw(3, 5).round(), draw(40, 5, seed=1).round()
    matches = torch.tensor([4, 0, 4])
    seen = picture_transfer(pictures, natural, matches, wanted=80)

    def percentile(picture, unit):
        values = [float(v) for v in natural[:, unit]]
        return 100 * sum((v < picture) + 0.5 * (v == picture) for v in values) / 40

    for u, v in enumerate(matches.tolist()):
        assert float(seen.seen.percentile[u]) == pytest.approx(percentile(float(pictures[u, v]), v))
        rest = [percentile(float(pictures[w, v]), v) for w in range(3) if w != u]
        assert float(seen.others[u]) == pytest.approx(sum(rest) / 2)
    assert seen.seen.wanted == 80
    assert seen.likeness.isnan().all()
    assert seen.stderr == pytest.approx(float(seen.seen.percentile.std()) / 3**0.5)
    alone = picture_transfer(pictures[:1], natural, matches[:1])
    assert alone.others.isnan().all()


def test_natural_images_in_place_of_pictures_stand_at_fifty():
    natural = draw(2000, 60)
    seen = picture_transfer(natural[:60], natural[60:])
    assert seen.value == pytest.approx(50, abs=3 * seen.stderr)
    assert float(seen.gap.mean()) == pytest.approx(0, abs=3 * seen.stderr)


def test_pictures_without_a_match_are_refused():
    with pytest.raises(BadInput, match="not units 0…2"):
        picture_transfer(draw(2, 3), draw(9, 3), torch.tensor([0, 3]))
    with pytest.raises(BadInput, match="not units 0…1"):
        picture_transfer(draw(3, 2), draw(9, 2))
    with pytest.raises(BadInput, match="matches none"):
        picture_transfer(draw(2, 3), draw(9, 3), own=torch.ones(9, 2))
    with pytest.raises(BadInput, match="not of 9 images and 2 units"):
        picture_transfer(draw(2, 3), draw(9, 3), own=torch.ones(9, 3))


def test_results_are_saved_and_shown(tmp_path):
    for seen in (
        activation_percentile(torch.ones(2), draw(50, 2)),
        forced_choice(draw(9, 4), draw(9, 4, seed=1), draw(1, 4)),
        picture_transfer(draw(2, 2), draw(9, 2)),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
