"""Imputation against a sparse factorisation, a slow relaxation, and what a soap film must do."""

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from glasshouse.core import BadInput
from glasshouse.evaluate import imputation
from glasshouse.evaluate.engine import Answers
from glasshouse.evaluate.imputation import impute
from glasshouse.evaluate.questions import Order, Ranked, keeping

SIZES = [(3, 21, 34), (1, 40, 23), (3, 7, 6), (2, 1, 30), (1, 3, 41), (1, 2, 2)]


def pictures(n, c, h, w, seed=0):
    noise = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed))
    return noise + 3 * torch.sin(torch.arange(w) / 7) + torch.linspace(-2, 5, h)[:, None]


def scattered(n, h, w, share, seed=1):
    keep = torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed)) < share
    keep[:, h // 2, w // 3] = True
    return keep


def blob(n, h, w):
    """One hole of nine tenths of the image, in the middle."""
    keep = torch.ones(n, h, w, dtype=torch.bool)
    keep[:, h // 40 : h - h // 40, w // 40 : w - w // 40] = False
    return keep


def neighbours(y, x, h, w):
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        if 0 <= y + dy < h and 0 <= x + dx < w:
            yield y + dy, x + dx, 1 / 12 if dy and dx else 1 / 6


def factorised(image, keep):
    """One image by a sparse direct solver, row by row as the equations are written."""
    image, keep = image.double().numpy().copy(), keep.numpy()
    place = {tuple(p): k for k, p in enumerate(np.argwhere(~keep))}
    matrix, right = lil_matrix((len(place), len(place))), np.zeros((len(place), len(image)))
    for (y, x), row in place.items():
        for ny, nx, weight in neighbours(y, x, *keep.shape):
            matrix[row, row] += weight
            if keep[ny, nx]:
                right[row] += weight * image[:, ny, nx]
            else:
                matrix[row, place[ny, nx]] -= weight
    solved = spsolve(matrix.tocsr(), right).reshape(right.shape)
    for (y, x), row in place.items():
        image[:, y, x] = solved[row]
    return torch.from_numpy(image)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_equals_a_sparse_direct_solve(size, share):
    images, keep = pictures(2, *size), scattered(2, *size[1:], share)
    found = impute(images, keep)
    for image, mask, mine in zip(images, keep, found, strict=True):
        extent = image.amax() - image.amin()
        assert (factorised(image, mask) - mine).abs().max() < 1e-3 * extent


@pytest.mark.parametrize("hole", ["blob", "all but a stripe", "all but two pixels", "all but lines", "a frame"])
def test_large_holes_equal_a_sparse_direct_solve(hole):
    images = pictures(1, 2, 33, 46) / 5
    keep = torch.zeros(1, 33, 46, dtype=torch.bool)
    if hole == "blob":
        keep = blob(1, 33, 46)
    elif hole == "all but a stripe":
        keep[:, :, :5] = True
    elif hole == "all but two pixels":
        keep[:, 3, 4] = keep[:, 30, 38] = True
    elif hole == "all but lines":
        keep[:, ::7] = True
    else:
        keep[:, 10:-10, 12:-12] = True
    assert (factorised(images[0], keep[0]) - impute(images, keep)[0]).abs().max() < 1e-3


def test_in_float64_it_equals_a_direct_solve_to_many_digits():
    images, keep = pictures(1, 2, 20, 31).double(), scattered(1, 20, 31, 0.1)
    found = impute(images, keep, tolerance=1e-11)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found[0], factorised(images[0], keep[0]), atol=1e-9, rtol=0)


def test_every_imputed_pixel_is_the_weighted_mean_of_its_neighbours():
    images, keep = pictures(1, 1, 12, 17), scattered(1, 12, 17, 0.3)
    found = impute(images, keep)[0, 0].tolist()
    for y, x in np.argwhere(~keep[0].numpy()):
        around = [(found[ny][nx], weight) for ny, nx, weight in neighbours(y, x, 12, 17)]
        mean = sum(value * weight for value, weight in around) / sum(weight for _, weight in around)
        assert found[y][x] == pytest.approx(mean, abs=2e-3)


def test_colour_images_are_imputed_channel_by_channel_under_one_mask_where_quantus_raises():
    images, keep = pictures(2, 3, 17, 24), scattered(2, 17, 24, 0.2)
    found = impute(images, keep)
    for channel in range(3):
        grey = impute(images[:, channel : channel + 1], keep)
        torch.testing.assert_close(found[:, channel : channel + 1], grey, atol=1e-5, rtol=0)


def test_known_pixels_stay_to_the_bit_and_nothing_is_changed_in_place():
    images, keep = pictures(2, 3, 15, 22), scattered(2, 15, 22, 0.4)
    before = images.clone()
    found = impute(images, keep, noise=0.5)
    where = keep[:, None].expand_as(images)
    assert found[where].equal(images[where])
    assert images.equal(before)
    assert impute(images, torch.ones_like(keep), noise=0.5).equal(images)


def test_removed_values_do_not_matter():
    images, keep = pictures(2, 3, 15, 22), scattered(2, 15, 22, 0.4)
    for strange in (1e6, torch.nan, torch.inf):
        assert impute(torch.where(keep[:, None], images, strange), keep).equal(impute(images, keep))


@pytest.mark.parametrize("value", [0.0, 0.1, -2.117904, 1e-30, 1e30])
def test_a_constant_image_is_reproduced_to_the_bit(value):
    images = torch.full((2, 3, 19, 26), value)
    assert impute(images, scattered(2, 19, 26, 0.05)).equal(images)
    assert impute(images, torch.zeros(2, 19, 26, dtype=torch.bool)).allclose(images)


def test_a_constant_image_stays_so_among_others():
    images = torch.cat([pictures(1, 1, 19, 26), torch.full((1, 1, 19, 26), 0.3), pictures(1, 1, 19, 26, seed=4)])
    found = impute(images, blob(3, 19, 26))
    assert found.isfinite().all()
    assert found[1].equal(images[1])


@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.0, 1.0), (0.3, -0.7)], ids=str)
def test_a_ramp_is_reproduced_where_holes_do_not_touch_the_border(slope):
    rows, cols = torch.meshgrid(torch.linspace(0, 1, 45), torch.linspace(0, 1, 38), indexing="ij")
    ramp = (slope[0] * rows + slope[1] * cols).expand(2, 3, 45, 38)
    for keep in (blob(2, 45, 38), scattered(2, 45, 38, 0.1)):
        keep[:, 0], keep[:, -1], keep[:, :, 0], keep[:, :, -1] = True, True, True, True
        torch.testing.assert_close(impute(ramp, keep), ramp, atol=4e-4, rtol=0)


def test_holes_are_inpainted_harmonically():
    # All symmetric weights agree with Laplace's equation up to degree 3.
    sides = (torch.linspace(-end, end, count, dtype=torch.float64) for end, count in ((1.0, 31), (1.2, 37)))
    y, x = torch.meshgrid(*sides, indexing="ij")
    harmonic = torch.stack([x * y, x**2 - y**2, x**3 - 3 * x * y**2, torch.exp(2 * x) * torch.sin(2 * y)])[None]
    keep = blob(1, 31, 37)
    keep[:, 0], keep[:, -1], keep[:, :, 0], keep[:, :, -1] = True, True, True, True
    found = impute(harmonic, keep, tolerance=1e-10)
    torch.testing.assert_close(found[:, :3], harmonic[:, :3], atol=1e-8, rtol=0)
    torch.testing.assert_close(found[:, 3], harmonic[:, 3], atol=5e-3, rtol=0)
    bowl = (x**2 + y**2)[None, None]
    assert (impute(bowl, keep) - bowl).amax() > 0.5


def test_road_0_as_a_baseline_is_the_direct_solve(cnn, images):
    keep = scattered(3, *images.shape[2:], 0.2)
    order = Order(tuple(images.shape[2:]), (~keep).int().flatten(1), "by hand")
    table = Answers(cnn, images, 1).read([keeping(Ranked(order, 0, 1), "road:0")], "logit")
    solved = torch.stack([factorised(image, mask) for image, mask in zip(images, keep, strict=True)])
    torch.testing.assert_close(table[:, 0], cnn(solved.float())[:, 1].detach().double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_no_pixel_leaves_the_range_of_the_known_ones(share):
    images, keep = pictures(4, 3, 37, 52, seed=6), scattered(4, 37, 52, share)
    found = impute(images, keep)
    for image, mask, mine in zip(images, keep, found, strict=True):
        known = image[:, mask]
        slack = 1e-3 * (known.amax(1) - known.amin(1))
        assert (mine.amax((1, 2)) <= known.amax(1) + slack).all()
        assert (mine.amin((1, 2)) >= known.amin(1) - slack).all()


def test_twice_is_once():
    images, keep = pictures(3, 3, 37, 52), scattered(3, 37, 52, 0.1)
    keep[2] = False
    once = impute(images, keep)
    torch.testing.assert_close(impute(once, keep)[:2], once[:2], atol=0, rtol=0)
    torch.testing.assert_close(impute(once, keep)[2], once[2])


def test_it_commutes_with_a_scale_and_a_shift_of_each_channel():
    images, keep = pictures(2, 3, 29, 34), scattered(2, 29, 34, 0.1)
    keep[1] = False
    scale, shift = (torch.tensor(row).view(3, 1, 1) for row in ([0.25, -8.0, 1e3], [0.0, 7.0, -50.0]))
    after = impute(images, keep) * scale + shift
    error = (impute(images * scale + shift, keep) - after).abs()
    assert (error < 1e-5 * scale.abs() * 20).all()


def test_where_all_is_removed_each_channel_becomes_its_mean():
    images = pictures(2, 3, 9, 14)
    keep = torch.stack([torch.zeros(9, 14), torch.ones(9, 14)]).bool()
    found = impute(images, keep)
    torch.testing.assert_close(found[0], images[0].mean((1, 2), keepdim=True).expand(3, 9, 14))
    assert found[1].equal(images[1])
    one = torch.tensor([[[[2.5]]]])
    assert impute(one, torch.zeros(1, 1, 1, dtype=torch.bool)).equal(one)


def test_an_image_is_imputed_the_same_alone_and_among_others():
    images = torch.cat([pictures(2, 3, 30, 43), 100 * pictures(2, 3, 30, 43, seed=5)])
    keep = torch.cat([scattered(1, 30, 43, 0.9), blob(1, 30, 43), scattered(1, 30, 43, 0.02), ~blob(1, 30, 43)])
    together = impute(images, keep, noise=0.01, seed=3)
    for index in range(4):
        one = slice(index, index + 1)
        alone = impute(images[one], keep[one], noise=0.01, seed=3)
        torch.testing.assert_close(alone, together[one], atol=1e-6 * float(images[one].abs().max()), rtol=0)


def test_noise_is_the_same_field_for_all_images_and_has_the_deviation_asked_for():
    images, keep = pictures(2, 3, 60, 80), scattered(2, 60, 80, 0.2)
    state = torch.random.get_rng_state()
    added = [impute(images, keep, noise=0.1, seed=seed) - impute(images, keep) for seed in (0, 0, 1)]
    assert added[0].equal(added[1])
    assert not added[0].equal(added[2])
    assert state.equal(torch.random.get_rng_state())
    both = (~keep[0] & ~keep[1]).expand(3, 60, 80)
    torch.testing.assert_close(added[0][0][both], added[0][1][both], atol=1e-5, rtol=0)
    assert added[0][0][both].std().item() == pytest.approx(0.1, rel=0.05)
    assert added[0][0][both].mean().item() == pytest.approx(0, abs=0.01)
    twice = impute(images, keep, noise=0.2) - impute(images, keep)
    torch.testing.assert_close(twice, 2 * added[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_comes_back_as_it_was(dtype):
    images, keep = pictures(1, 3, 20, 20).to(dtype), blob(1, 20, 20)
    found = impute(images, keep)
    assert found.dtype == dtype
    torch.testing.assert_close(found, impute(images.float(), keep).to(dtype), atol=0, rtol=0)


def test_autocast_inference_mode_and_gradients_change_nothing():
    images, keep = pictures(1, 3, 20, 20), blob(1, 20, 20)
    plain = impute(images, keep)
    with torch.autocast("cpu", torch.bfloat16):
        assert impute(images, keep).equal(plain)
    with torch.inference_mode():
        assert impute(images, keep).equal(plain)
    assert not impute(images.requires_grad_(), keep).requires_grad


@pytest.mark.parametrize("kind", ["blob", "tenth", "thousandth"])
@pytest.mark.parametrize("size", [(32, 32), (128, 150), (224, 224)], ids=str)
def test_about_a_dozen_iterations_do_whatever_the_size_of_holes(size, kind, monkeypatch):
    keep = blob(2, *size) if kind == "blob" else scattered(2, *size, {"tenth": 0.1, "thousandth": 0.001}[kind])
    seen, whole = [], imputation.cycle
    monkeypatch.setattr(imputation, "cycle", lambda load, levels: seen.append(load.shape[2:]) or whole(load, levels))
    impute(pictures(2, 1, *size), keep)
    assert seen.count(size) <= 15


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 4), (1, 9)], ids=str)
def test_the_preconditioner_is_symmetric_and_positive(size):
    # Written out as a matrix on the hole, from its answers to unit loads.
    keep = scattered(1, *size, 0.15, seed=3)
    levels = imputation.levels_of(~keep[:, None], torch.float64)
    places = (~keep[0]).flatten().nonzero()[:, 0]
    loads = torch.eye(keep[0].numel(), dtype=torch.float64)[places].view(-1, 1, *size)
    matrix = imputation.cycle(
        loads, [imputation.Level(g.hole.expand(len(loads), -1, -1, -1), g.degree) for g in levels]
    )
    matrix = matrix.flatten(1)
    assert (matrix[:, keep[0].flatten()] == 0).all()
    matrix = matrix[:, places]
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_running_out_of_iterations_is_said():
    images, keep = pictures(1, 3, 40, 40), blob(1, 40, 40)
    with pytest.warns(UserWarning, match="3 channels are not imputed to 0.0001 after 1 iterations"):
        impute(images, keep, max_iterations=1)


@pytest.mark.parametrize(
    "bad", [{"noise": -0.1}, {"noise": float("nan")}, {"tolerance": 0.0}, {"max_iterations": 0}], ids=str
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadInput, match="too small"):
        impute(pictures(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), **bad)
