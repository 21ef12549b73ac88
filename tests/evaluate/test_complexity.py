"""The shape of a map, against closed forms."""

import math

import pytest
import torch

from glasshouse import evaluate
from glasshouse.evaluate.complexity import edges


@pytest.fixture
def shapes(linear, inputs, explained):
    """A single pixel, an even map, and a random one."""
    maps = torch.zeros(3, 6, 8)
    maps[0, 2, 3] = -4.0
    maps[1] = 0.25
    maps[2] = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return linear, inputs, explained(maps)


def test_sparseness_is_the_mean_difference_of_two_pixels(shapes):
    score = evaluate.sparseness(*shapes)
    assert float(score.value[0]) == pytest.approx(1 - 1 / 48)
    assert float(score.value[1]) == pytest.approx(0, abs=1e-7)
    weight = shapes[2].heatmap[2].abs().flatten().double()
    gini = (weight[:, None] - weight).abs().mean() / (2 * weight.mean())
    assert float(score.value[2]) == pytest.approx(float(gini))


def test_entropy_counts_the_pixels_that_share_the_weight(shapes):
    score = evaluate.entropy(*shapes)
    assert score.value[:2].tolist() == pytest.approx([0, math.log(48)], abs=1e-6)
    assert score.extras["support"][:2].tolist() == pytest.approx([1, 48])
    assert score.extras["normalised"][:2].tolist() == pytest.approx([0, 1], abs=1e-6)
    weight = shapes[2].heatmap[2].abs().flatten().tolist()
    shares = [w / sum(weight) for w in weight]
    assert float(score.value[2]) == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_sign_balance_runs_from_all_against_to_all_for(shapes):
    assert evaluate.sign_balance(*shapes).value[:2].tolist() == pytest.approx([-1, 1])


def test_the_scale_of_a_map_does_not_matter(shapes, explained):
    linear, inputs, explanation = shapes
    for metric in (evaluate.sparseness, evaluate.entropy, evaluate.sign_balance, evaluate.edge_correlation):
        small = metric(linear, inputs, explained(explanation.heatmap * 1e-6)).value
        torch.testing.assert_close(metric(*shapes).value, small, equal_nan=True)


def test_a_map_of_zeros_has_a_reason(linear, inputs, explained):
    for metric in (evaluate.sparseness, evaluate.entropy, evaluate.sign_balance):
        assert set(metric(linear, inputs, explained(torch.zeros(3, 6, 8))).reason) == {"zero_total"}


def test_an_edge_detector_is_found_out(cnn, images, explained):
    score = evaluate.edge_correlation(cnn, images, explained(edges(images)))
    torch.testing.assert_close(score.value, torch.ones(3))


def test_edges_of_a_ramp_are_its_slope():
    ramp = 0.5 * torch.arange(7.0).expand(1, 3, 5, 7) + 2 * torch.arange(5.0).view(1, 1, 5, 1)
    torch.testing.assert_close(edges(ramp)[0, 1:-1, 1:-1], torch.full((3, 5), 8 * math.hypot(0.5, 2)))


def test_nothing_here_runs_the_model(images, cnn, explained, random_maps, counted):
    sizes = counted(cnn)
    card = evaluate.card(cnn, images, explained(random_maps(3, (14, 18))), tier="free")
    assert sizes == []
    assert all(score.n_forward == 0 for score in card.scores.values())
