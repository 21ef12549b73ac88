"""Statistics beside slow derivations: numpy in float64, sorted lists, Python's own integers."""

from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
import torch
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.stats import (
    Covariance,
    Histogram,
    Moments,
    Overlap,
    Quantiles,
    Sample,
    TopK,
    TopMaps,
    UpperTail,
)
from glasshouse.core.stats.hashing import scramble


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def flat(maps: Tensor) -> np.ndarray:
    """Units by values, in float64."""
    return maps.transpose(0, 1).flatten(1).double().numpy()


# Moments


def test_moments_equal_numpy_in_float64():
    x, moments = normal(200, 5) * 3 + 1, Moments()
    for batch in x.split(17):
        moments.update(batch)
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, x.double().numpy().var(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, x.double().numpy().std(0), rtol=1e-12)


def test_the_variance_survives_a_mean_a_million_times_larger():
    # In float32, or as mean of squares minus squared mean, nothing would be left of it.
    x, moments = normal(1000, 1).double() + 1e6, Moments()
    for batch in x.split(10):
        moments.update(batch)
    np.testing.assert_allclose(moments.variance, (x - 1e6).numpy().var(0), rtol=1e-9)


def test_covariance_and_correlation_equal_numpy():
    x, covariance = normal(100, 4) @ normal(4, 4, seed=1), Covariance()
    for batch in x.split(9):
        covariance.update(batch)
    np.testing.assert_allclose(covariance.matrix, np.cov(x.double().numpy().T, bias=True), rtol=1e-10)
    np.testing.assert_allclose(covariance.correlation, np.corrcoef(x.double().numpy().T), rtol=1e-10)


def test_a_constant_column_correlates_with_nothing():
    covariance = Covariance()
    covariance.update(torch.cat([normal(20, 1), torch.ones(20, 1)], 1))
    torch.testing.assert_close(covariance.correlation, torch.diag(torch.tensor([1.0, 0.0]).double()))


# Hashing


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63])
def test_scrambled_numbers_equal_splitmix64_in_plain_integers(seed: int):
    def plain(x: int) -> int:
        x = (x + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    numbers = [0, 1, 2, -1, 2**62, -(2**63)]
    assert [x % 2**64 for x in scramble(torch.tensor(numbers), seed).tolist()] == [plain(x) for x in numbers]


# Top k and sample


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_equals_a_sort_by_value_then_id_then_position(largest: bool):
    values = normal(60, 3).mul(2).round()  # many ties
    ids = torch.randperm(30, generator=torch.Generator().manual_seed(1)).repeat(2)  # two places per image
    positions = torch.arange(180).view(60, 3) * 31 % 49
    top = TopK(n_kept=20, largest=largest)
    for batch in torch.randperm(60, generator=torch.Generator().manual_seed(2)).split(7):
        top.update(values[batch], ids[batch], positions[batch])
    sign = -1 if largest else 1
    for unit in range(3):
        rows = zip(values[:, unit].tolist(), ids.tolist(), positions[:, unit].tolist(), strict=True)
        best = sorted(rows, key=lambda row: (sign * row[0], *row[1:]))[:20]
        columns = (top.values[unit].tolist(), top.ids[unit].tolist(), top.positions[unit].tolist())
        assert list(zip(*columns, strict=True)) == best


def test_top_k_of_fewer_images_keeps_them_all():
    top = TopK(n_kept=100)
    top.update(torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([4, 5, 6]), torch.zeros(3, 1, dtype=torch.long))
    assert top.ids.tolist() == [[5, 6, 4]]


@pytest.mark.parametrize("stat", [TopK(), Sample()])
def test_nan_is_an_error_that_names_the_image(stat: TopK | Sample):
    values = torch.tensor([[0.0, 1.0], [0.0, float("nan")]])
    with pytest.raises(BadInput, match="image 71 gives NaN in unit 1"):
        stat.update(values, torch.tensor([70, 71]), torch.zeros(2, 2, dtype=torch.long))


def draw(seed: int, n_images: int, n_kept: int) -> Sample:
    sample, ids = Sample(n_kept=n_kept, seed=seed), torch.arange(n_images)
    sample.update(ids[:, None] * torch.tensor([1.0, -1.0]), ids, ids[:, None] + torch.tensor([0, 1000]))
    return sample


def test_every_image_is_as_likely_to_be_sampled_and_brings_its_own_row():
    n_draws, hits = 2000, torch.zeros(20)
    for seed in range(n_draws):
        sample = draw(seed, n_images=20, n_kept=5)
        assert len(set(sample.ids.tolist())) == 5
        hits[sample.ids] += 1
    torch.testing.assert_close(sample.values, sample.ids[:, None] * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(sample.positions, sample.ids[:, None] + torch.tensor([0, 1000]))
    # Each count is binomial with p = 1/4: five standard deviations hold for all twenty.
    assert ((hits - n_draws / 4).abs() < 5 * (n_draws * 3 / 16) ** 0.5).all()


def test_another_seed_draws_another_sample():
    assert draw(0, 1000, 10).ids.tolist() != draw(1, 1000, 10).ids.tolist()


# Quantiles


LEVELS = (0.0, 0.004, 0.1, 0.25, 0.5, 0.77, 0.995, 1.0)


@pytest.mark.parametrize("change", [Tensor.clone, Tensor.relu, Tensor.round], ids=["smooth", "relu", "ties"])
def test_a_sketch_that_is_not_full_equals_numpy(change: Callable[[Tensor], Tensor]):
    maps, sketch = change(normal(12, 4, 3, 3)), Quantiles(width=200)
    for batch in maps.split(5):
        sketch.update(batch)
    for level in LEVELS:
        exact = np.quantile(flat(maps), level, axis=1, method="hazen")
        np.testing.assert_allclose(sketch.at(level), exact, rtol=1e-6, atol=1e-7)


def ranks(x: Tensor, sketch: Quantiles, levels: Tensor) -> Tensor:
    """The true level of what was read (x is smooth, so there is one), levels by units."""
    return torch.stack([(x < sketch.at(float(level))).double().mean(0) for level in levels])


@pytest.mark.parametrize("order", ["random", "ascending", "zigzag"])
@pytest.mark.parametrize("batch_size", [40, 3000])
def test_ranks_are_within_the_stated_error(order: str, batch_size: int):
    x = normal(12_000, 40)
    if order == "ascending":
        x = x.sort(0).values
    if order == "zigzag":
        x = torch.stack([x.sort(0).values, x.sort(0, descending=True).values], 1).flatten(0, 1)[:12_000]
    sketch, levels = Quantiles(width=64), torch.linspace(0.02, 0.98, 25)
    for batch in x.split(batch_size):
        sketch.update(batch)
    error = ranks(x, sketch, levels) - levels[:, None]
    assert (error.abs() <= sketch.rank_error).double().mean() >= 0.99
    assert error.square().mean().sqrt() <= sketch.rank_error / 8


def test_errors_of_many_shards_do_not_add_up():
    # Were the coin the same in every shard, all would err in the same direction, by 20 standard deviations.
    x, whole, levels = normal(64 * 500, 40), Quantiles(width=64), torch.linspace(0.05, 0.95, 10)
    for shard in x.split(500):
        part = Quantiles(width=64)
        part.update(shard)
        whole.merge(part)
    error = ranks(x, whole, levels) - levels[:, None]
    assert error.mean(1).abs().max() <= 0.3 * whole.rank_error / 8
    assert error.square().mean().sqrt() <= whole.rank_error / 8


def test_no_value_is_lost_and_memory_does_not_grow():
    sketch, widths = Quantiles(width=64), []
    for seed in range(40):
        sketch.update(normal(500, 6, seed=seed).relu())
        weight = 2 ** torch.arange(sketch.sizes.shape[1])
        assert ((sketch.sizes * weight).sum(1) + sketch.zeros == sketch.count).all()
        widths.append(sketch.values.shape[1])
    assert max(widths) <= 3 * 64 + 2 * sketch.sizes.shape[1]


def test_a_unit_reads_the_same_whatever_other_units_are_read_beside_it():
    x = torch.cat([normal(3000, 3).relu(), normal(3000, 2, seed=1)], 1)
    together = Quantiles(width=32)
    for batch in x.split(100):
        together.update(batch)
    for unit in range(5):
        alone = Quantiles(width=32)
        for batch in x[:, unit : unit + 1].split(100):
            alone.update(batch)
        assert [float(alone.at(q)) for q in LEVELS] == [float(together.at(q)[unit]) for q in LEVELS]


def test_zeros_of_a_sparse_unit_are_exact_and_cost_no_precision():
    # 3 values of 4 are 0: the atom ends at exactly 0.75, and the rest has a sketch of its own.
    x = normal(20_000, 30).abs() * (torch.arange(20_000) % 4 == 0)[:, None]
    sketch = Quantiles(width=64)
    for batch in x.split(250):
        sketch.update(batch)
    assert (sketch.at(0.7499) == 0).all()
    assert (sketch.at(0.7502) > 0).all()
    assert sketch.dense_zero(0.7499).all()
    assert not sketch.dense_zero(0.7502).any()
    levels = torch.linspace(0.76, 0.99, 12)
    error = ranks(x, sketch, levels) - levels[:, None]
    assert error.square().mean().sqrt() <= 0.25 * sketch.rank_error / 8


def test_another_seed_promotes_others():
    first, second = Quantiles(width=32, seed=0), Quantiles(width=32, seed=1)
    for sketch in (first, second):
        sketch.update(normal(5000, 3))
    assert (first.at(0.5) != second.at(0.5)).any()


def test_half_precision_is_read_without_loss():
    x, sketch = normal(50, 2).half(), Quantiles()
    sketch.update(x)
    torch.testing.assert_close(sketch.at(1.0), x.float().amax(0), rtol=0, atol=0)


@pytest.mark.parametrize("level", [-0.1, 1.1, 99.5])
def test_a_level_that_is_no_fraction_is_an_error(level: float):
    sketch = Quantiles()
    sketch.update(normal(3, 1))
    with pytest.raises(BadInput, match="is not in 0"):
        sketch.at(level)


def test_an_infinite_activation_is_an_error():
    with pytest.raises(BadInput, match="infinite"):
        Quantiles().update(torch.tensor([[float("inf")]]))


@pytest.mark.parametrize("batch_size", [1, 6, 40])
def test_the_upper_tail_equals_numpy_down_to_its_level(batch_size: int):
    maps = normal(40, 3, 5, 5).round(decimals=1)
    tail = UpperTail(level=0.95, n_max=1000)
    for batch in maps.split(batch_size):
        tail.update(batch)
    for level in (0.95, 0.951, 0.99, 0.995, 0.9999, 1.0):
        exact = np.quantile(flat(maps), level, axis=1, method="hazen")
        np.testing.assert_allclose(tail.at(level), exact, rtol=1e-6)


def test_the_upper_tail_keeps_no_more_than_twice_what_it_needs():
    tail = UpperTail(level=0.99, n_max=10_000)
    for seed in range(100):
        tail.update(normal(100, 2, seed=seed))
        assert tail.tail.shape[1] <= max(100, 2 * tail.n_kept)


def test_a_level_below_the_tail_says_how_to_keep_more():
    tail = UpperTail(level=0.99, n_max=1000)
    tail.update(normal(1000, 2))
    with pytest.raises(BadInput, match=r"Use UpperTail\(level=0.5, n_max=1000\)"):
        tail.at(0.5)


# Histogram


def test_a_histogram_equals_numpy_also_on_the_edges():
    histogram = Histogram(lo=-0.7, hi=1.9, n_bins=13)
    edges = histogram.edges
    on = torch.cat([edges, edges.nextafter(torch.tensor(9.0)), edges.nextafter(torch.tensor(-9.0))])
    x = torch.stack([torch.cat([normal(500, seed=seed), on, torch.zeros(7)]) for seed in range(3)], 1)
    for batch in x.split(60):
        histogram.update(batch)
    for unit, column in enumerate(x.T.double().numpy()):
        counts, _ = np.histogram(column, bins=edges.double().numpy())
        assert histogram.counts[unit].tolist() == counts.tolist()
        assert histogram.below[unit] == (column < float(edges[0])).sum()
        assert histogram.above[unit] == (column > float(edges[-1])).sum()
        assert histogram.zeros[unit] == (column == 0).sum()
        assert histogram.total[unit] == len(column)


def test_infinite_values_are_outside_the_histogram():
    histogram = Histogram(lo=0.0, hi=1.0, n_bins=4)
    histogram.update(torch.tensor([[float("inf")], [-float("inf")], [0.5]]))
    assert (int(histogram.below), int(histogram.above), histogram.counts.tolist()) == (1, 1, [[0, 0, 1, 0]])


def test_a_range_that_is_none_is_an_error():
    with pytest.raises(BadInput, match="is not below"):
        Histogram(lo=1.0, hi=1.0)


# Overlap


def test_overlap_equals_sets_of_pixels():
    units, concepts = normal(6, 3, 20) > 0.3, normal(6, 4, 20, seed=1) > 0.8
    overlap = Overlap()
    for at in torch.arange(6).split(4):
        overlap.update(units[at], concepts[at].to(torch.uint8) * 3)
    pixels = [(n, p) for n in range(6) for p in range(20)]
    for u in range(3):
        for c in range(4):
            unit, concept = ({at for at in pixels if m[at[0], i, at[1]]} for m, i in ((units, u), (concepts, c)))
            assert overlap.shared[u, c] == len(unit & concept)
            assert float(overlap.iou[u, c]) == len(unit & concept) / len(unit | concept)


def test_counts_beyond_what_float32_holds_are_exact():
    mask, overlap = torch.ones(1, 1, 2**24 + 3, dtype=torch.bool), Overlap()
    overlap.update(mask, mask)
    assert int(overlap.shared) == int(overlap.unit_area) == 2**24 + 3


def test_overlap_of_nothing_with_nothing_is_zero():
    overlap = Overlap()
    overlap.update(torch.zeros(1, 1, 4, dtype=torch.bool), torch.zeros(1, 2, 4, dtype=torch.bool))
    assert overlap.iou.tolist() == [[0.0, 0.0]]


def test_masks_of_different_pixels_are_an_error():
    with pytest.raises(BadInput, match="do not fit each other"):
        # Past the shape checker of the tests, which users do not have.
        unwrap(Overlap.update)(Overlap(), torch.ones(2, 1, 4).bool(), torch.ones(2, 1, 5).bool())


# All of them


def test_different_settings_do_not_merge():
    with pytest.raises(BadInput, match=r"cannot merge TopK\(n_kept=3, largest=True\)"):
        TopK(n_kept=5).merge(TopK(n_kept=3))


def test_different_layers_do_not_merge():
    narrow, wide = Moments(), Moments()
    narrow.update(normal(3, 2))
    wide.update(normal(3, 4))
    with pytest.raises(BadInput, match="the sizes differ"):
        narrow.merge(wide)


def test_the_state_of_another_statistic_does_not_load():
    with pytest.raises(BadInput, match=r"Moments counts \['count', 'mean', 'squares'\]"):
        Moments().load(Covariance().state())


@pytest.mark.parametrize("stat", [Moments(), Quantiles(), UpperTail(0.9, 10), Histogram(0.0, 1.0)])
def test_nan_is_an_error_in_every_statistic_of_values(stat: Moments | Quantiles | UpperTail | Histogram):
    with pytest.raises(BadInput, match="row 1 of this batch gives NaN in unit 0"):
        stat.update(torch.tensor([[0.0], [float("nan")]]))


@pytest.mark.parametrize(
    "make", [lambda: TopK(0), lambda: Sample(-1), lambda: Quantiles(3), lambda: Histogram(0.0, 1.0, 0)]
)
def test_a_size_that_holds_nothing_is_an_error(make: Callable[[], object]):
    with pytest.raises(BadInput, match="is too small"):
        make()


def test_the_maps_of_the_strongest_values_stay_with_them():
    seed = torch.Generator().manual_seed(0)
    maps = torch.rand(30, 4, 3, 2, generator=seed)
    peak = maps.flatten(2).max(2)
    halves: list[TopMaps] = []
    for rows in (torch.arange(0, 30, 2), torch.arange(1, 30, 2)):
        part = TopMaps(5)
        for batch in rows.split(4):
            part.update(peak.values[batch], batch, peak.indices[batch], maps[batch])
        halves.append(part)
    halves[0].merge(halves[1])
    again = TopMaps(5)
    again.load(halves[0].state())
    for unit in range(4):
        best = peak.values[:, unit].topk(5).indices
        assert torch.equal(again.ids[unit], best)
        assert torch.equal(again.maps[unit], maps[best, unit])
