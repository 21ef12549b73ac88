"""The most important features and the others: closed forms on models whose truth is known."""

import math

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, find_method
from glasshouse.core.mask import cells
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.faithfulness.needed import effective_complexity, n_rounds, pgi, pgu
from glasshouse.evaluate.questions import Elements, Segments

EXACT = {"score": "logit", "baseline": 0.0}
METRICS = (pgi, pgu, effective_complexity)


class Gate(nn.Module):
    """1 if both ("and") or one ("or") of two pixels are lit."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        lit = x[:, 0, 2, [1, 6]].clamp(0, 1)
        score = lit.amin(1) if self.kind == "and" else lit.amax(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def gate_map(explained):
    """Both pixels marked, one a little more."""
    maps = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    maps[0, 2, 1], maps[0, 2, 6] = 2.0, -1.0
    return explained(maps)


def test_noise_on_a_linear_model_moves_it_by_the_weights_it_falls_on(linear, inputs, contributions, explained):
    explanation, settings = explained(contributions.float()), {"score": "logit", "noise": 0.3, "n_samples": 120}
    weight = linear.weight.detach().flatten()
    top, rest = (metric(linear, inputs, explanation, **settings) for metric in (pgi, pgu))
    for index, c in enumerate(contributions.flatten(1)):
        order = c.abs().argsort(descending=True)
        for score, chosen in ((top, order[:12]), (rest, order[12:])):
            expected = 0.3 * float(weight[chosen].norm()) * math.sqrt(2 / math.pi)  # mean of |normal|
            assert float(score.value[index]) == pytest.approx(expected, abs=4 * float(score.stderr[index]))
            relative = math.sqrt((math.pi / 2 - 1) / 120)
            assert float(score.stderr[index]) == pytest.approx(expected * relative, rel=0.3)
    assert (top.direction, rest.direction) == ("up", "down")


def test_a_baseline_in_place_of_noise_is_exact(linear, inputs, contributions, explained):
    explanation = explained(contributions.float())
    top, rest = (metric(linear, inputs, explanation, share=0.125, **EXACT) for metric in (pgi, pgu))
    for index, c in enumerate(contributions.flatten(1)):
        order = c.abs().argsort(descending=True)
        assert float(top.value[index]) == pytest.approx(abs(float(c[order[:6]].sum())), abs=1e-5)
        assert float(rest.value[index]) == pytest.approx(abs(float(c[order[6:]].sum())), abs=1e-5)
    assert top.stderr.tolist() == rest.stderr.tolist() == [0, 0, 0]
    assert top.n_forward == 6


@pytest.mark.parametrize(("kind", "lost"), [("and", 1.0), ("or", 0.0)])
def test_one_of_two_pixels_gone_is_all_for_and_and_nothing_for_or(gate_map, kind, lost):
    ones, one_pixel = torch.ones(1, 1, 6, 8), {"share": 1 / 48, **EXACT}
    assert pgi(Gate(kind), ones, gate_map, **one_pixel).value.item() == pytest.approx(lost)
    assert pgu(Gate(kind), ones, gate_map, **one_pixel).value.item() == pytest.approx(lost)
    assert pgu(Gate(kind), ones, gate_map, share=2 / 48, **EXACT).value.item() == 0


def test_single_values_of_an_rgb_image_are_disturbed_by_themselves(linear):
    linear.weight.data = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    explanation = attribute.input_x_gradient(linear, images, 0)
    score = pgi(linear, images, explanation, share=0.1, grid=Elements((3, 6, 8)), score="logit", n_samples=100)
    for index, c in enumerate((linear.weight * images).detach().flatten(1)):
        weight = linear.weight.detach().flatten()[c.abs().argsort(descending=True)[:14]]
        expected = 0.1 * float(weight.norm()) * math.sqrt(2 / math.pi)
        assert float(score.value[index]) == pytest.approx(expected, abs=4 * float(score.stderr[index]))


def test_noise_is_shared_by_all_maps_and_not_by_all_samples(cnn, images, explained, random_maps):
    explanation = explained(random_maps(3, (14, 18)), 1)
    answers = Answers(cnn, images, 1)
    first = pgi(cnn, images, explanation, n_samples=5, answers=answers)
    assert pgi(cnn, images, explanation, n_samples=5, answers=answers).n_forward == 0
    assert (first.stderr > 0).all()


def smallest(c, eps):
    """The fewest contributions, by size, whose rest is small, and stays so for more."""
    falling = sorted(c, key=abs, reverse=True)
    return next(k for k in range(len(c) + 1) if all(sum(falling[m:]) ** 2 <= eps for m in range(k, len(c) + 1)))


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5, 20.0])
def test_bisection_finds_the_smallest_number_of_features(linear, inputs, explained, eps):
    linear.weight.data = linear.weight.abs()  # and images above 0: more features never hurt
    images = inputs.abs()
    contributions = (linear.weight * images).detach()[:, 0]
    score = effective_complexity(linear, images, explained(contributions.float()), eps=eps + 1e-12, **EXACT)
    slow = [smallest(c, eps + 1e-12) for c in contributions.flatten(1).tolist()]
    assert score.value.tolist() == slow
    assert score.extras["share"].tolist() == pytest.approx([k / 48 for k in slow])
    assert score.stderr.tolist() == [0, 0, 0]
    assert score.n_forward == 3 * (1 + 1 + 6)


@pytest.mark.parametrize("n_used", [0, 1, 5, 17, 32, 47, 48])
def test_a_model_of_few_pixels_needs_these_whatever_is_drawn_for_the_rest(linear, inputs, explained, n_used):
    order = torch.randperm(48, generator=torch.Generator().manual_seed(n_used))
    linear.weight.data = 10 * (order < n_used).double().view(1, 6, 8)
    maps = torch.where(order < n_used, -2.0 - order, 0.1 + order / 1e3).view(1, 6, 8).expand(3, 6, 8)
    score = effective_complexity(linear, inputs, explained(maps), score="logit", eps=1e-9)
    assert score.value.tolist() == [n_used] * 3
    assert score.stderr.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("kind", "needed"), [("and", 2), ("or", 1)])
def test_and_needs_both_pixels_and_or_needs_one(gate_map, kind, needed):
    score = effective_complexity(Gate(kind), torch.ones(1, 1, 6, 8), gate_map, **EXACT)
    assert score.value.tolist() == [needed]


def test_the_error_is_the_mean_over_draws(linear, explained):
    """One pixel of weight 1: kept, there is no error; drawn anew, it is (x - u)² in the mean."""
    linear.weight.data = torch.zeros(1, 6, 8, dtype=torch.float64)
    linear.weight.data[0, 4, 4] = 1.0
    images = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images[0, 0, 0, 0], images[0, 0, 1, 1], images[0, 0, 4, 4] = 0.0, 1.0, 0.5  # u is uniform over 0…1
    maps = linear.weight.detach().float() + torch.linspace(0, 0.1, 48).view(1, 6, 8)
    error = 1 / 12
    for eps, needed in ((error * 1.4, 0), (error / 1.4, 1)):
        settings = {"score": "logit", "eps": eps, "n_samples": 120, "grid": (3, 4)}
        score = effective_complexity(linear, images, explained(maps), **settings)
        assert score.value.tolist() == [needed]
    unsure = effective_complexity(linear, images, explained(maps), score="logit", eps=error, n_samples=10)
    assert 0 < unsure.stderr.item() <= 0.51  # 0 or 1, by luck of the draw


def test_it_does_not_depend_on_the_map_of_another_image_where_quantus_counts_by_the_batch(cnn, images, explained):
    maps = torch.rand(3, 14, 18, generator=torch.Generator().manual_seed(0))
    alone = effective_complexity(cnn, images[:1], explained(maps[:1], 1), eps=1e-4)
    maps[1] *= 1e6
    together = effective_complexity(cnn, images, explained(maps, 1), eps=1e-4)
    torch.testing.assert_close(alone.value, together.value[:1])
    torch.testing.assert_close(alone.stderr, together.stderr[:1])


def test_images_of_different_numbers_of_segments_bisect_for_themselves(linear, inputs, contributions, explained):
    fine = cells((6, 8), (3, 4))
    labels, maps = torch.stack([fine, fine // 4 + 7, fine // 2]), contributions.float()
    for metric in METRICS:
        together = metric(linear, inputs, explained(maps), grid=Segments.of(labels), n_samples=4)
        for index in range(3):
            one = slice(index, index + 1)
            alone = metric(linear, inputs[one], explained(maps[one]), grid=Segments.of(labels[one]), n_samples=4)
            torch.testing.assert_close(alone.value, together.value[one])
            torch.testing.assert_close(alone.stderr, together.stderr[one])


@pytest.mark.parametrize(
    ("grid", "baseline"),
    [(None, "noise"), (None, "blur"), ((1, 1), "noise"), ((1, 2), "permute"), ((5, 7), "blur"), ((8, 8), "permute")],
)
def test_bisection_makes_the_passes_that_it_declares(cnn, images, explained, random_maps, counted, grid, baseline):
    settings = {"grid": grid, "baseline": baseline, "n_samples": 3}
    declared = find_method("effective_complexity", "evaluate").cost(settings, images.shape).forward
    sizes = counted(cnn)
    for n in (1, 3):
        sizes.clear()
        score = effective_complexity(cnn, images[:n], explained(random_maps(n, (14, 18)), 1), **settings)
        assert score.n_forward == sum(sizes) == n * declared
    assert n_rounds(total=252) == 8


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_that_cannot_be_ranked_has_a_reason_and_harms_no_other(metric, cnn, images, explained, random_maps):
    maps = random_maps(3, (14, 18))
    whole = metric(cnn, images, explained(maps, 1), n_samples=4, seed=3)
    torch.testing.assert_close(whole.value, metric(cnn, images, explained(maps, 1), n_samples=4, seed=3).value)
    maps[0], maps[2, 3, 4] = 0.7, torch.nan
    score = metric(cnn, images, explained(maps, 1), n_samples=4, seed=3)
    assert score.reason == ("constant_map", "", "not_finite")
    torch.testing.assert_close(score.value[1], whole.value[1])
    assert set(metric(cnn, images, explained(maps, None)).reason) == {"custom_target"}


def test_drawn_noise_comes_from_the_seed_alone(cnn, images, explained, random_maps):
    explanation, before = explained(random_maps(3, (14, 18)), 1), torch.random.get_rng_state()
    one, two = (pgi(cnn, images, explanation, n_samples=4, seed=seed).value for seed in (0, 1))
    assert not one.equal(two)
    assert before.equal(torch.random.get_rng_state())


BAD = [
    (pgi, {"share": 0.0}),
    (pgu, {"share": 1.0}),
    (pgi, {"n_samples": 1}),
    (pgi, {"noise": 0.0}),
    (effective_complexity, {"eps": -1.0}),
    (effective_complexity, {"n_samples": 1}),
]


@pytest.mark.parametrize(("metric", "settings"), BAD)
def test_what_makes_no_sense_is_refused(cnn, images, explained, random_maps, metric, settings):
    with pytest.raises(BadInput, match="at least"):
        metric(cnn, images, explained(random_maps(3, (14, 18)), 1), **settings)
