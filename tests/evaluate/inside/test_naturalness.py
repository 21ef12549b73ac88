"""Clouds of features whose distance is known, and ways through layers that are natural, or another kind's."""

import math

import pytest
import torch
from scipy import linalg, stats
from sklearn.covariance import ledoit_wolf

from glasshouse.core import BadInput
from glasshouse.evaluate.inside.naturalness import frechet, picture_naturalness, processing_path


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_matrix_roots(first, second):
    """The published formula, with a matrix square root, and covariances by scikit-learn."""
    one, two = (torch.as_tensor(ledoit_wolf(rows.numpy())[0]) for rows in (first, second))
    root = torch.as_tensor(linalg.sqrtm((one @ two).numpy()).real)
    between = (first.mean(0) - second.mean(0)).square().sum()
    return float(between + one.trace() + two.trace() - 2 * root.trace())


@pytest.mark.parametrize(("m", "n", "d"), [(30, 80, 4), (30, 80, 29), (9, 12, 15)])
def test_the_distance_is_that_of_the_formula_with_a_matrix_root(m, n, d):
    first, second = 1.5 * draw(m, d) @ draw(d, d, seed=2) + 0.3, draw(n, d, seed=1)
    assert float(frechet(first, second).sum()) == pytest.approx(by_matrix_roots(first, second), rel=1e-6)


def test_features_that_only_turn_the_same_few_dimensions_change_nothing():
    inner, turn = draw(30, 5), torch.linalg.qr(draw(40, 5, seed=3)).Q.T
    few = picture_naturalness(inner[:6] + 1, inner[6:], n_splits=4)
    many = picture_naturalness(inner[:6] @ turn + turn.sum(0), inner[6:] @ turn, n_splits=4)
    assert (many.distance, many.stderr, many.p_value) == pytest.approx((few.distance, few.stderr, few.p_value))
    torch.testing.assert_close(many.real, few.real)


def test_a_shift_is_its_square_and_a_scale_the_square_of_what_it_adds():
    cloud = draw(50, 6)
    assert frechet(cloud, cloud + 2).tolist() == pytest.approx([24, 0], abs=1e-9)
    centred = cloud - cloud.mean(0)
    assert float(frechet(centred, 3 * centred)[1]) == pytest.approx(4 * float(cloud.T.cov(correction=0).trace()))


def test_natural_images_in_place_of_pictures_are_as_far_as_chance():
    clouds = [(draw(5, 4, seed=i), draw(20, 4, seed=100 + i)) for i in range(30)]
    p_values = [picture_naturalness(*pair, n_splits=4).p_value for pair in clouds]
    assert sum(p_values) / 30 == pytest.approx(0.6, abs=0.16)  # the mean of 1/5 … 5/5


def test_every_number_is_what_a_loop_over_splits_finds():
    pictures, natural = draw(4, 3, seed=5), draw(11, 3, seed=1)
    seen = picture_naturalness(pictures, natural, n_splits=6, seed=3)
    pool, source = torch.cat([pictures, natural]), torch.Generator().manual_seed(3)
    drawn, real, mixed = [], [], []
    for _ in range(6):
        order, every = torch.randperm(11, generator=source), torch.randperm(15, generator=source)
        drawn.append(by_matrix_roots(pictures, natural[order[4:]]))
        real.append(by_matrix_roots(natural[order[:4]], natural[order[4:]]))
        mixed.append(by_matrix_roots(pool[every[:4]], pool[every[4:]]))
    assert seen.distance == pytest.approx(sum(drawn) / 6, rel=1e-5)
    assert seen.real.tolist() == pytest.approx(real, rel=1e-5)
    whole = by_matrix_roots(pictures, natural)
    assert seen.p_value == pytest.approx((1 + sum(value >= whole for value in mixed)) / 7)
    assert seen.p_value > 1 / 7
    left = torch.tensor([by_matrix_roots(pictures[[j for j in range(4) if j != i]], natural) for i in range(4)])
    assert seen.stderr == pytest.approx(math.sqrt(3 / 4 * float((left - left.mean()).square().sum())), rel=1e-3)


def test_of_few_images_even_real_ones_are_far_and_chance_says_so():
    few, many = (picture_naturalness(draw(m, 20), draw(120, 20, seed=1), n_splits=5) for m in (5, 50))
    assert few.chance > 3 * many.chance > 0
    assert few.distance == pytest.approx(few.chance, rel=0.5)


def test_pictures_that_are_off_are_seen():
    natural = draw(100, 20)
    shifted, shrunk = draw(10, 20, seed=1) + 1.5, 0.1 * draw(10, 20, seed=1)
    seen = picture_naturalness(shifted, natural)
    assert seen.p_value == pytest.approx(1 / 51)
    assert seen.from_mean > 0.5 * seen.distance
    seen = picture_naturalness(shrunk, natural)
    assert seen.p_value == pytest.approx(1 / 51)
    assert seen.from_mean < 0.5 * seen.distance


def test_two_pictures_leave_the_error_unknown():
    assert math.isnan(picture_naturalness(draw(2, 3), draw(9, 3, seed=1)).stderr)


def test_clouds_that_do_not_fit_are_refused():
    for pictures, natural in ((draw(1, 3), draw(9, 3)), (draw(5, 3), draw(9, 3)), (draw(2, 3), draw(9, 4))):
        with pytest.raises(BadInput, match="twice as many natural images"):
            picture_naturalness(pictures, natural)
    with pytest.raises(BadInput, match="not finite"):
        picture_naturalness(draw(2, 3) * torch.nan, draw(9, 3))


def layer_of(n, centre, seed):
    return centre + 0.5 * draw(n, *centre.shape, seed=seed)


def test_the_path_is_what_a_loop_over_pairs_computes():
    pictures, same, other = draw(2, 4, 3, 5), draw(4, 4, 3, 5, seed=1) + draw(4, 3, 5, seed=4), draw(3, 4, 3, 5, seed=2)

    def likeness(first, second):
        return stats.spearmanr(first.flatten().numpy(), second.flatten().numpy()).statistic

    def mean(pairs):
        return sum(likeness(a, b) for a, b in pairs) / len(pairs)

    seen = processing_path([pictures], [same], [other])
    among = mean([(same[i], same[j]) for i in range(4) for j in range(4) if i != j])
    apart = mean([(a, b) for a in same for b in other])
    assert (float(seen.same), float(seen.other)) == pytest.approx((among, apart))
    expected = [(mean([(picture, a) for a in same]) - apart) / (among - apart) for picture in pictures]
    assert seen.per_picture[0].tolist() == pytest.approx(expected)
    assert float(seen.value) == pytest.approx(sum(expected) / 2)
    assert float(seen.stderr) == pytest.approx(abs(expected[0] - expected[1]) / 2)


def test_a_natural_image_goes_the_natural_way_and_a_false_picture_joins_it_only_at_the_end():
    kind, strange, own = (draw(40, seed=i) for i in (10, 11, 12))
    natural, rest = layer_of(30, kind, 1), layer_of(30, strange, 2)
    honest, false, alien = layer_of(10, kind, 3), layer_of(10, own, 4), layer_of(10, strange, 5)
    true = processing_path([honest, honest], [natural, natural], [rest, rest])
    assert true.value.tolist() == pytest.approx([1, 1], abs=0.1)
    fooled = processing_path([false, honest], [natural, natural], [rest, rest])
    assert abs(float(fooled.value[0])) < 0.5
    assert float(fooled.value[1]) == pytest.approx(1, abs=0.1)
    assert processing_path([alien], [natural], [rest]).value.tolist() == pytest.approx([0], abs=0.1)


def test_layers_that_treat_all_alike_and_pictures_that_leave_them_flat_have_no_path():
    natural, rest = draw(5, 9), draw(5, 9, seed=1)
    pictures = torch.cat([draw(1, 9, seed=2), torch.ones(1, 9)])
    assert processing_path([pictures], [natural], [natural]).value.isnan().all()
    kind = layer_of(5, draw(9, seed=6), 3)
    seen = processing_path([pictures], [kind], [rest])
    assert seen.per_picture.isnan().tolist() == [[False, True]]
    assert seen.value.isfinite().all()
    assert seen.stderr.isnan().all()
    with pytest.raises(BadInput, match="1, 2 and 1 layers"):
        processing_path([pictures], [kind, kind], [rest])
    with pytest.raises(BadInput, match="1 images of the kind"):
        processing_path([pictures], [kind[:1]], [rest])


def test_results_are_saved_and_shown(tmp_path):
    for seen in (
        picture_naturalness(draw(4, 3), draw(9, 3, seed=1), n_splits=3),
        processing_path([draw(2, 9)], [draw(3, 9, seed=1)], [draw(3, 9, seed=2)]),
    ):
        assert repr(type(seen).load(seen.save(tmp_path / "noun"))) == repr(seen)
