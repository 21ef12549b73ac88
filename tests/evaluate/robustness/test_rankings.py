"""Top pixels under noise and other seeds: by hand, by chance, and where there is nothing random."""

import pytest
import torch
from scipy.stats import hypergeom, spearmanr
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, Images, Target, method, select
from glasshouse.evaluate.robustness.rankings import overlap, overlap_by_luck, ranking_stability


@pytest.mark.parametrize(("total", "count"), [(10, 1), (40, 7), (30, 25), (2000, 100)])
def test_chance_is_the_mean_over_the_hypergeometric_distribution(total, count):
    expected = sum(hypergeom.pmf(k, total, count, count) * k / (2 * count - k) for k in range(count + 1))
    assert overlap_by_luck(total, count) == pytest.approx(expected, rel=1e-6)


def test_random_maps_overlap_as_chance_says(random_maps):
    first, second = random_maps(4000, (5, 8), 0), random_maps(4000, (5, 8), 1)
    found = overlap(first, second, 7, 0)
    assert float(found.mean()) == pytest.approx(overlap_by_luck(40, 7), abs=4 * float(found.std()) / 4000**0.5)


def test_ties_are_broken_at_random_in_each_map_by_itself():
    flat = torch.zeros(1, 10, 10)
    found = torch.stack([overlap(flat, flat, 10, seed)[0] for seed in range(300)])
    assert float(found.mean()) == pytest.approx(overlap_by_luck(100, 10), abs=0.02)


def by_hand(first, second, count):
    one, two = (set(maps.flatten().argsort(descending=True)[:count].tolist()) for maps in (first, second))
    return len(one & two) / len(one | two), spearmanr(first.flatten(), second.flatten()).statistic


def test_seeds_of_a_stochastic_method_are_compared_by_hand(cnn, images):
    options = {"n_samples": 3, "sigma": 0.4}
    explanation = attribute.smooth(cnn, images, seed=5, **options)
    score = ranking_stability(cnn, images, explanation, across="seeds", n_samples=4, share=0.1)
    for index in range(3):
        found = []
        for number in range(4):
            again = attribute.smooth(cnn, images, list(explanation.target), seed=6 + number, **options)
            found.append(by_hand(explanation.heatmap[index], again.heatmap[index], 25))
        jaccard, rank = torch.tensor(found, dtype=torch.float64).T
        assert float(score.value[index]) == pytest.approx(float(jaccard.mean()), abs=1e-6)
        assert float(score.stderr[index]) == pytest.approx(float(jaccard.std()) / 2, abs=1e-6)
        assert float(score.extras["spearman"][index]) == pytest.approx(float(rank.mean()), abs=1e-5)
    assert (score.n_forward, score.n_backward) == (3 * 3 * 4, 3 * 3 * 4)
    assert score.chance == pytest.approx(overlap_by_luck(252, 25))


def test_more_samples_make_a_stochastic_method_more_stable(cnn, images):
    few, many = (
        ranking_stability(
            cnn, images, attribute.smooth(cnn, images, n_samples=n, sigma=0.5), across="seeds", n_samples=4
        )
        for n in (2, 40)
    )
    assert many.mean > few.mean


def test_a_method_without_a_seed_has_none_to_vary(cnn, images):
    explanation = attribute.saliency(cnn, images)
    assert set(ranking_stability(cnn, images, explanation, across="seeds").reason) == {"no_seed"}


def test_noise_that_is_too_small_to_matter_leaves_the_ranking(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    still = ranking_stability(cnn, images, explanation, radius=1e-7)
    assert (still.value > 0.95).all()
    rough = ranking_stability(cnn, images, explanation, radius=1.0, same_prediction=False)
    assert (rough.value < still.value).all()
    assert (rough.extras["spearman"] < still.extras["spearman"]).all()
    assert (rough.direction, rough.n_forward, rough.n_backward) == ("up", 30, 30)


def test_a_copy_under_noise_is_compared_by_hand(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    score = ranking_stability(cnn, images, explanation, radius=0.5, n_samples=1, same_prediction=False, seed=3)
    source = torch.Generator().manual_seed(3 * 1_000_003)
    step = 0.5 * (2 * torch.rand(3, 14, 18, generator=source, dtype=torch.float64) - 1).float()
    moved = attribute.input_x_gradient(cnn, images + step, list(explanation.target)).heatmap
    for index in range(3):
        jaccard, rank = by_hand(explanation.heatmap[index], moved[index], 13)
        assert float(score.value[index]) == pytest.approx(jaccard, abs=1e-6)
        assert float(score.extras["spearman"][index]) == pytest.approx(rank, abs=1e-5)


def test_a_map_that_fails_on_a_copy_is_no_map_whose_pixels_moved(cnn, images, own_methods):
    @method
    def fussy(model: nn.Module, inputs: Images, target: Target = None, *, seed: int = 0) -> Images:
        select(model(inputs), target)
        known = torch.tensor([any(each.equal(image) for image in images) and seed == 0 for each in inputs])
        return torch.where(known[:, None, None, None], inputs, torch.nan)

    explanation = fussy(cnn, images)
    for across in ("noise", "seeds"):
        score = ranking_stability(cnn, images, explanation, across=across, n_samples=2, same_prediction=False)
        assert set(score.reason) == {"neighbour_not_finite"}


def test_reasons_and_wrong_settings(cnn, images, explained):
    maps = torch.randn(3, 14, 18)
    maps[0], maps[1] = 1.0, torch.nan
    score = ranking_stability(cnn, images, explained(maps, 1, method="saliency"))
    assert score.reason == ("constant_map", "not_finite", "")
    explanation = attribute.saliency(cnn, images)
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"n_samples": 0}):
        with pytest.raises(BadInput, match="not all in range"):
            ranking_stability(cnn, images, explanation, **wrong)
