"""Random moves beside plain slicing and resizing."""

import pytest
import torch
import torch.nn.functional as F

from glasshouse.core import BadInput, generator
from glasshouse.visualize import jitter, move, none, pad, robust, rotate, scale


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 12, 15, generator=generator(0), dtype=torch.float64)


def generators(n=2, first=0):
    return [generator(first + row) for row in range(n)]


def resized(pixels, size):
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)


def test_without_transforms_the_picture_is_not_touched(pixels):
    assert move(pixels, none(), generators()) is pixels


def test_padding_surrounds_with_grey(pixels):
    expected = resized(F.pad(pixels, (3, 3, 3, 3), value=0.5), (12, 15))
    torch.testing.assert_close(move(pixels, [pad(3)], generators()), expected)


def test_jitter_is_a_random_crop(pixels):
    moved = move(pixels, [jitter(4)], generators())
    for row in range(2):
        crops = [
            resized(pixels[row : row + 1, :, top : top + 8, left : left + 11], (12, 15))
            for top in range(5)
            for left in range(5)
        ]
        # Where a crop ends, resizing repeats its edge while one interpolation reads on; compare the inside.
        gaps = [(moved[row : row + 1] - crop)[..., 1:-1, 1:-1].abs().max() for crop in crops]
        assert sum(bool(gap < 1e-12) for gap in gaps) == 1


def test_jitter_reaches_every_crop_alike():
    ramp = torch.arange(20, dtype=torch.float64).expand(1, 1, 20, 20) / 100
    found = [move(ramp, [jitter(3)], [generator(seed)])[0, 0, 10, 10].item() for seed in range(400)]
    values, counts = torch.tensor(found).mul(1e4).round().unique(return_counts=True)
    assert len(values) == 4
    assert counts.min() > 60


def test_a_quarter_turn_is_rot90():
    pixels = torch.rand(2, 3, 9, 9, generator=generator(3), dtype=torch.float64)
    turned = move(pixels, [rotate([90])], generators())
    torch.testing.assert_close(turned, torch.rot90(pixels, 1, (2, 3)))


def test_scaling_enlarges_the_middle(pixels):
    square = pixels[..., :12]
    twice = move(square, [scale([2.0])], generators())
    expected = resized(square, (24, 24))[..., 6:18, 6:18]
    torch.testing.assert_close(twice, expected)


def test_all_moves_are_one_interpolation(pixels):
    square = pixels[..., :12]
    there_and_back = [rotate([33]), scale([0.7]), scale([1 / 0.7]), rotate([-33])]
    # 12 + 2 * 3 pixels are shown in 12 and enlarged by 18 / 12: interpolated twice, this would blur.
    moved = move(square, [*there_and_back, pad(3), scale([18 / 12])], generators())
    torch.testing.assert_close(moved, square)


def test_each_picture_draws_from_its_own_generator(pixels):
    same = pixels[:1].expand(2, -1, -1, -1)
    both = move(same, robust(), generators())
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(both[1:], move(same[1:], robust(), [generator(1)]))


def test_moving_leaves_the_global_generator_alone(pixels):
    before = torch.get_rng_state()
    move(pixels, robust(), generators())
    assert torch.equal(before, torch.get_rng_state())


def test_moves_that_leave_nothing_are_refused(pixels):
    with pytest.raises(BadInput, match="jitter of 12 px leaves nothing of 12 x 15 px"):
        move(pixels, [jitter(12)], generators())
    with pytest.raises(BadInput, match="not all above 0"):
        scale([0.0])
    with pytest.raises(BadInput, match="no angles"):
        rotate([])
