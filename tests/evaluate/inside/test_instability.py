"""Filters that follow a part, sit still, or point anywhere: what their instability must be."""

import math
from statistics import stdev

import pytest
import torch
from torch import nn

from glasshouse import data
from glasshouse.core import BadInput, geometry
from glasshouse.evaluate.inside.instability import Instability, location_instability
from glasshouse.evaluate.inside.peaks import peaks


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def peaked(at, grid, height=1.0):
    """Maps `n 1 i j` with a single peak at a row and column of the grid."""
    maps = torch.zeros(len(at), 1, *grid)
    maps[torch.arange(len(at)), 0, at[:, 0], at[:, 1]] = height
    return maps


def seen(points):
    """Landmarks `n 1 3`, all visible."""
    return torch.cat([points.float(), torch.ones(len(points), 1)], 1)[:, None]


def test_a_peak_at_a_constant_offset_from_the_landmark_scores_zero_exactly():
    at = torch.randint(0, 5, (40, 2), generator=source())
    parts = seen(2.5 + 7.0 * at + torch.tensor([3.125, -2.25]))
    found = location_instability(peaked(at, (5, 6)), parts, size=(37, 45), place=(2.5, 7))
    assert found.value == 0.0
    assert found.chance_value > 0.05
    assert found.shuffled_value > 0.05


@pytest.mark.parametrize(("landmark", "expected"), [((0.5, 0.5), 0.1007), ((0.0, 0.0), 0.2015), ((1.0, 0.0), 0.2015)])
def test_peaks_anywhere_score_a_tenth_on_a_central_landmark_and_twice_that_in_a_corner(landmark, expected):
    n = 20_000
    positions = 1000 * torch.rand(n, 1, 2, generator=source(1))
    parts = seen(1000 * torch.tensor(landmark).expand(n, 2))
    maps = torch.rand(n, 1, 1, 1, generator=source(2))
    found = location_instability(maps, parts, size=(1000, 1000), positions=positions, top=n, n_chance=3)
    assert found.value == pytest.approx(expected, abs=0.002)
    assert found.chance_value == pytest.approx(expected, abs=0.002)


def test_the_chance_level_of_a_grid_is_that_of_its_positions():
    at = torch.randint(0, 3, (100, 2), generator=source())
    parts = seen(torch.tensor([[4.0, 1.0]]).expand(100, 2))
    found = location_instability(peaked(at, (3, 3)), parts, size=(9, 9), n_chance=300)
    places = [math.dist((4, 1), (1 + 3 * i, 1 + 3 * j)) / math.hypot(9, 9) for i in range(3) for j in range(3)]
    mean = sum(places) / 9
    assert found.chance_value == pytest.approx(math.sqrt(sum((d - mean) ** 2 for d in places) / 9), rel=0.02)


def test_every_number_is_what_a_loop_finds():
    maps = torch.randn(30, 4, 3, 5, generator=source(), dtype=torch.float64)
    parts = torch.rand(30, 2, 3, generator=source(1)) * 20
    parts[..., 2] = (torch.rand(30, 2, generator=source(2)) < 0.6).float()
    found = location_instability(maps, parts, size=(12, 20), place=(1.5, 3), top=7)
    for f in range(4):
        for k in range(2):
            images = sorted(range(30), key=lambda i: -float(maps[i, f].max()))
            images = [i for i in images if parts[i, k, 2] > 0][:7]
            distances = []
            for i in images:
                flat = int(maps[i, f].argmax())
                peak = (1.5 + 3 * (flat // 5), 1.5 + 3 * (flat % 5))
                distances.append(math.dist(peak, parts[i, k, :2].tolist()) / math.hypot(12, 20))
            assert float(found.table[f, k]) == pytest.approx(stdev(distances), rel=1e-6)
            assert int(found.n_images[f, k]) == len(images)
    assert found.value == pytest.approx(float(found.table.mean()))


def test_neither_a_constant_nor_a_positive_scale_changes_anything():
    maps, parts = torch.rand(25, 3, 4, 4, generator=source()).double(), seen(8 * torch.rand(25, 2, generator=source(1)))
    plain = location_instability(maps, parts, size=(8, 8))
    moved = location_instability(maps * torch.tensor([2.0, 0.5, 4.0]).view(3, 1, 1) + 8, parts, size=(8, 8))
    torch.testing.assert_close(moved.table, plain.table)


def test_mirroring_images_and_landmarks_together_changes_nothing():
    maps, parts = torch.rand(25, 3, 4, 6, generator=source()), seen(8 * torch.rand(25, 2, generator=source(1)))
    mirrored = parts.clone()
    mirrored[..., 1] = 12 - 1 - parts[..., 1]
    plain = location_instability(maps, parts, size=(8, 12))
    torch.testing.assert_close(location_instability(maps.flip(3), mirrored, size=(8, 12)).table, plain.table)


def test_dead_filters_are_left_out_and_counted():
    at = torch.randint(0, 5, (20, 2), generator=source())
    maps = torch.cat([peaked(at, (5, 5)), torch.zeros(20, 1, 5, 5), torch.full((20, 1, 5, 5), 3.0)], 1)
    found = location_instability(maps, seen(at), size=(5, 5))
    assert found.dead.tolist() == [False, True, True]
    assert found.n_dead == 2
    assert found.table[1:].isnan().all()
    assert found.value == 0.0
    assert "2 dead" in repr(found)


def test_pairs_with_fewer_than_two_images_have_no_number():
    maps = torch.rand(5, 1, 3, 3, generator=source())
    parts = torch.rand(5, 2, 3, generator=source(1))
    parts[..., 2] = torch.tensor([[1.0, 0], [1, 1], [1, 0], [1, 0], [1, 0]])
    found = location_instability(maps, parts, size=(3, 3))
    assert found.n_images.tolist() == [[5, 1]]
    assert found.table[0, 1].isnan()
    assert found.value == pytest.approx(float(found.table[0, 0]))


def test_a_filter_is_judged_on_the_category_it_peaks_highest_in():
    at = torch.randint(0, 5, (20, 2), generator=source())
    kinds = torch.arange(20) % 2
    maps = peaked(at, (5, 5), height=1.0) * (1 + kinds).view(-1, 1, 1, 1)
    parts = seen(torch.where(kinds[:, None] == 1, at, torch.randint(0, 5, (20, 2), generator=source(3))))
    assert location_instability(maps, parts, size=(5, 5)).value > 0.05
    assert location_instability(maps, parts, size=(5, 5), categories=kinds).value == 0


def test_a_filter_that_sits_still_is_no_better_than_with_the_peaks_of_other_images():
    at = torch.full((50, 2), 10)
    parts = seen(10 + torch.randn(50, 2, generator=source()))
    found = location_instability(peaked(at, (21, 21)), parts, size=(21, 21))
    assert found.value < found.chance_value / 2  # looks good, as the landmark is always near the middle
    assert found.value == pytest.approx(found.shuffled_value, rel=1e-6)


def test_equal_peaks_are_drawn_and_not_taken_in_order():
    maps = torch.zeros(400, 1, 1, 3)
    maps[..., ::2] = 1.0
    found = peaks(maps, None, (1, 3), 0)
    assert float((found.at[:, 0, 1] == 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    assert found.there.all()


def test_eyes_are_followed_by_a_map_of_the_eye():
    scenes = data.scenes("creatures", 40, size=32, seed=1)
    eye = scenes.parts[:, scenes.part("eye")]
    rows, cols = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    near = -((rows - eye[:, 0, None, None]) ** 2 + (cols - eye[:, 1, None, None]) ** 2)
    maps = torch.stack([near, scenes.images.mean(1), scenes.masks[:, scenes.part("eye")].float()], 1)
    found = location_instability(maps, eye[:, None], size=(32, 32), place=(0, 1))
    assert float(found.table[0]) < 0.01
    assert float(found.table[2]) < 0.02
    assert float(found.table[1]) > 0.1
    assert float(found.chance[0]) > 0.1


def test_a_layers_own_geometry_says_where_its_peaks_are():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, bias=False)).eval()
    nn.init.zeros_(net[0].weight)
    net[0].weight.data[0, 0, 1, 1] = 1.0
    images = torch.zeros(6, 1, 11, 15)
    at = torch.tensor([[1, 1], [3, 5], [5, 13], [9, 9], [7, 3], [1, 11]])
    images[torch.arange(6), 0, at[:, 0], at[:, 1]] = 1.0
    place = geometry(net, images)["0"]
    maps = net(images).detach()
    assert peaks(maps, place, (11, 15), 0).at[:, 0].tolist() == at.tolist()
    assert location_instability(maps, seen(at), size=(11, 15), place=place).value == 0
    with pytest.raises(BadInput, match="has"):
        location_instability(maps[..., :3], seen(at), size=(11, 15), place=place)


def test_what_cannot_be_judged_is_refused():
    maps, parts = torch.rand(5, 1, 3, 3), torch.rand(5, 2, 3)
    with pytest.raises(BadInput, match="4 of parts"):
        location_instability(maps, parts[:4], size=(3, 3))
    maps[0, 0, 1, 1] = torch.nan
    with pytest.raises(BadInput, match="1 images have activations that are not finite"):
        location_instability(maps, parts, size=(3, 3))


def test_an_instability_is_saved_and_shown(tmp_path):
    found = location_instability(torch.rand(9, 2, 3, 3, generator=source()), torch.rand(9, 2, 3), size=(3, 3))
    assert repr(Instability.load(found.save(tmp_path / "noun"))) == repr(found)
