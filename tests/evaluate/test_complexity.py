"""The shape of a map, against closed forms."""

import math

import pytest
import torch

from glasshouse import evaluate
from glasshouse.core import BadInput
from glasshouse.evaluate.complexity import (
    distance_to_centre,
    edges,
    effective_complexity_count,
    high_frequency,
    parts,
    spread,
    total_variation,
)

ROUGHNESS = (effective_complexity_count, spread, total_variation, high_frequency)


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


def test_a_count_of_pixels_is_of_each_map_by_itself_where_quantus_divides_by_the_batch(cnn, images, explained):
    maps = torch.randn(3, 14, 18, generator=torch.Generator().manual_seed(0))
    maps[1] *= 1e6
    score = effective_complexity_count(cnn, images, explained(maps), eps=0.1)
    for index in range(3):
        flat = maps[index].abs().flatten().tolist()
        assert float(score.value[index]) == sum(value > 0.1 * max(flat) for value in flat)
    alone = effective_complexity_count(cnn, images[:1], explained(maps[:1]), eps=0.1)
    assert alone.value.equal(score.value[:1])
    torch.testing.assert_close(score.extras["share"], score.value / 252)


def test_what_was_chosen_is_recorded(shapes):
    assert effective_complexity_count(*shapes, eps=0.2).settings == {"eps": 0.2}
    assert spread(*shapes, share=0.2).settings == {"share": 0.2}
    assert high_frequency(*shapes, longest_px=3.0).settings == {"longest_px": 3.0}


def test_one_pixel_counts_as_one_and_an_even_map_as_all(shapes):
    assert effective_complexity_count(*shapes).value[:2].tolist() == [1, 48]


def test_one_spot_does_not_spread_and_an_even_map_covers_the_image(shapes):
    score = spread(*shapes)
    assert score.value[:2].tolist() == pytest.approx([0, 1])
    assert score.extras["components"][:2].tolist() == [1, 1]
    assert score.extras["pixels"].tolist() == [1, 48, 2]  # all that tie with the last one count


def test_two_corners_are_two_parts_as_far_apart_as_can_be(linear, inputs, explained):
    maps = torch.zeros(3, 6, 8)
    maps[:, 0, 0] = maps[:, 5, 7] = -1.0
    maps[1, 0, 1] = maps[1, 5, 6] = 2.0
    maps[2, 1, 1] = 1.0  # touches the first corner at its tip
    score = spread(linear, inputs, explained(maps), share=1.0)
    assert score.extras["components"].tolist() == [2, 2, 2]
    assert score.extras["pixels"].tolist() == [2, 4, 3]
    half = math.hypot(5, 7) / 2
    everywhere = sum(math.hypot(y - 2.5, x - 3.5) for y in range(6) for x in range(8)) / 48
    assert float(score.value[0]) == pytest.approx(half / everywhere)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_parts_are_those_that_scipy_finds(share):
    label = pytest.importorskip("scipy.ndimage").label
    masks = torch.rand(5, 23, 31, generator=torch.Generator().manual_seed(0)) < share
    masks[4] = torch.zeros(23, 31, dtype=torch.bool)
    masks[4, ::2] = True
    masks[4, 1::4, 0] = masks[4, 3::4, -1] = True  # one snake
    for found, mask in zip(parts(masks), masks, strict=True):
        peer = torch.from_numpy(label(mask.numpy(), torch.ones(3, 3).numpy())[0])
        pairs = torch.stack([found.flatten(), peer.flatten().long()]).unique(dim=1)
        assert len(pairs[0].unique()) == len(pairs[1].unique()) == pairs.shape[1]
    assert len(parts(masks)[4].unique()) == 2


def test_the_distance_to_the_centre_is_what_a_loop_finds():
    masks = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1)) < 0.3
    for distance, mask in zip(distance_to_centre(masks).tolist(), masks, strict=True):
        places = mask.nonzero().tolist()
        y, x = (sum(place[axis] for place in places) / len(places) for axis in (0, 1))
        assert distance == pytest.approx(sum(math.hypot(a - y, b - x) for a, b in places) / len(places))


def checkerboard(h, w):
    return ((torch.arange(h)[:, None] + torch.arange(w)) % 2).float()


@pytest.mark.parametrize("size", [(16, 16), (15, 11), (40, 64)])
@pytest.mark.parametrize("offset", [0.0, -0.5, 3.0])
def test_a_checkerboard_is_found_whatever_lies_under_it(linear, explained, size, offset):
    inputs = torch.zeros(2, 1, *size)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    blob = torch.exp(-3 * (y**2 + x**2))
    maps = torch.stack([checkerboard(*size) + offset, blob + offset])
    score = high_frequency(linear, inputs, explained(maps))
    assert float(score.value[0]) > 0.99
    assert float(score.value[1]) < 0.01
    assert score.direction == "diagnostic"


def test_white_noise_has_three_quarters_of_its_variance_in_fine_patterns(linear, explained):
    maps = torch.randn(50, 32, 48, generator=torch.Generator().manual_seed(0))
    score = high_frequency(linear, torch.zeros(50, 1, 32, 48), explained(maps))
    assert score.mean == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(("size", "longest_px"), [((6, 8), 4.0), ((5, 9), 3.0), ((7, 4), 2.5)])
def test_fine_patterns_are_those_of_the_cosine_transform(linear, explained, size, longest_px):
    dctn = pytest.importorskip("scipy.fft").dctn
    maps = torch.randn(4, *size, generator=torch.Generator().manual_seed(0))
    score = high_frequency(linear, torch.zeros(4, 1, *size), explained(maps), longest_px=longest_px)
    for value, heatmap in zip(score.value.tolist(), maps.double(), strict=True):
        energy = dctn(heatmap.numpy(), norm="ortho") ** 2
        energy[0, 0] = 0
        fine = sum(
            energy[a, b]
            for a in range(size[0])
            for b in range(size[1])
            if max(a / (2 * size[0]), b / (2 * size[1])) >= 1 / longest_px
        )
        assert value == pytest.approx(fine / energy.sum(), abs=1e-5)


def test_variation_is_what_a_loop_over_neighbours_finds(shapes):
    score = total_variation(*shapes)
    assert score.value[:2].tolist() == pytest.approx([4, 0])
    heatmap, total = shapes[2].heatmap[2].tolist(), 0.0
    for y in range(6):
        for x in range(8):
            total += abs(heatmap[y][x] - heatmap[y + 1][x]) if y < 5 else 0
            total += abs(heatmap[y][x] - heatmap[y][x + 1]) if x < 7 else 0
    assert float(score.value[2]) == pytest.approx(total / float(shapes[2].heatmap[2].abs().sum()), rel=1e-5)


def test_alternating_signs_vary_most_and_noise_as_the_docstring_says(linear, explained):
    maps = torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(0))
    maps[0] = 2 * checkerboard(64, 64) - 1
    value = total_variation(linear, torch.zeros(20, 1, 64, 64), explained(maps)).value
    assert float(value[0]) == pytest.approx(4 * 63 / 64)
    assert float(value[1:].mean()) == pytest.approx(2 * math.sqrt(2) * 63 / 64, abs=0.03)


@pytest.mark.parametrize("metric", ROUGHNESS)
def test_the_shape_has_no_scale_and_no_neighbours_and_maps_without_any_have_a_reason(metric, shapes, explained):
    linear, inputs, explanation = shapes
    whole = metric(linear, inputs, explanation)
    torch.testing.assert_close(
        whole.value, metric(linear, inputs, explained(explanation.heatmap * 1e-6)).value, equal_nan=True
    )
    for index in range(3):
        alone = metric(linear, inputs[index : index + 1], explanation[index])
        torch.testing.assert_close(alone.value[0], whole.value[index], equal_nan=True)
    maps = torch.zeros(3, 6, 8)
    maps[1, 0, 0] = torch.nan
    maps[2] = explanation.heatmap[2]
    reason = metric(linear, inputs, explained(maps)).reason
    assert reason == ("constant_map" if metric is high_frequency else "zero_total", "not_finite", "")


@pytest.mark.parametrize(
    ("metric", "settings"),
    [(effective_complexity_count, {"eps": 1.0}), (spread, {"share": 0.0}), (high_frequency, {"longest_px": 1.0})],
)
def test_what_makes_no_sense_is_refused(shapes, metric, settings):
    with pytest.raises(BadInput):
        metric(*shapes, **settings)
