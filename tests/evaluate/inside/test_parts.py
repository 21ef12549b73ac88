"""Filters that mark a part by construction, and positions whose distance is known."""

import math

import pytest
import torch

from glasshouse import data
from glasshouse.core import BadInput
from glasshouse.evaluate.inside.locating import part_localisation
from glasshouse.evaluate.inside.parts import part_interpretability


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def creatures():
    return data.scenes("creatures", 30, size=32, seed=2)


def test_a_filter_that_is_the_mask_of_a_part_marks_it_in_every_image(creatures):
    head, body = (creatures.masks[:, creatures.part(name)] for name in ("head", "body"))
    maps = torch.stack([head, body, torch.zeros_like(head)], 1).float()
    share = float(head.double().mean())
    found = part_interpretability(maps, torch.stack([head, body], 1), level=1 - share)
    assert found.share[0].tolist()[0] == 1.0
    assert found.rate(0, 0).interval[0] > 0.85
    assert found.best.tolist()[0] == 0
    assert found.dead.tolist() == [False, False, True]
    assert found.score[2].isnan()
    assert found.chance < found.value


def test_every_count_is_what_a_loop_finds():
    maps = torch.rand(12, 3, 3, 4, generator=source())
    masks = torch.rand(12, 2, 6, 8, generator=source(1)) < 0.4
    masks[:4, 1] = False
    found = part_interpretability(maps, masks, level=0.7, min_iou=0.3)
    for f in range(3):
        values = sorted(maps[:, f].flatten().tolist())
        threshold = values[math.ceil(0.7 * len(values)) - 1]
        assert float(found.threshold[f]) == threshold
        for k in range(2):
            hits = total = 0
            for i in range(12):
                if not masks[i, k].any():
                    continue
                total += 1
                shared = either = 0
                for y in range(6):
                    for x in range(8):
                        on, real = float(maps[i, f, y // 2, x // 2]) > threshold, bool(masks[i, k, y, x])
                        shared, either = shared + (on and real), either + (on or real)
                hits += shared / either > 0.3
            assert (int(found.hits[f, k]), int(found.total[f, k])) == (hits, total)


def test_the_threshold_leaves_exactly_the_share_above_it():
    maps, masks = torch.arange(100.0).view(1, 1, 10, 10), torch.ones(1, 1, 10, 10).bool()
    for percent in range(1, 100):  # 0.07 * 100 is a little more than 7
        found = part_interpretability(maps, masks, level=percent / 100, n_shuffles=1)
        assert float(found.threshold) == percent - 1


def test_a_position_marks_its_receptive_field_where_one_is_given():
    maps = torch.zeros(2, 1, 3, 3)
    maps[:, 0, 1, 1] = 1.0
    masks = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    masks[:, :, 2:7, 2:7] = True
    narrow = part_interpretability(maps, masks, level=0.8, min_iou=0.5)
    wide = part_interpretability(maps, masks, level=0.8, min_iou=0.99, field_px=5)
    assert (narrow.value, wide.value) == (0.0, 1.0)


def test_masks_of_other_images_show_what_position_alone_gives():
    always = torch.zeros(20, 1, 8, 8)
    always[:, :, 2:5, 2:5] = 1.0
    found = part_interpretability(always, always.bool(), level=0.85)
    assert found.value == found.chance == 1.0  # the part is always there: nothing is known of the filter
    moved = torch.stack([torch.roll(always[i], (i % 4 * 2, i // 4), (1, 2)) for i in range(20)])
    assert part_interpretability(moved, moved.bool(), level=0.85).chance < 0.6


def test_parts_are_refused_where_images_do_not_match():
    with pytest.raises(BadInput, match="2 images of maps, 3 of masks"):
        part_interpretability(torch.rand(2, 1, 2, 2), torch.zeros(3, 1, 4, 4).bool())


def test_part_detectors_are_saved_and_shown(tmp_path):
    found = part_interpretability(torch.rand(4, 2, 2, 2), torch.ones(4, 1, 4, 4).bool())
    assert repr(type(found).load(found.save(tmp_path / "noun"))) == repr(found)


def test_distances_are_shares_of_the_diagonal_to_the_nearest_truth():
    parts = torch.tensor([[[0.0, 0, 1], [9, 9, 1]], [[0, 0, 1], [9, 9, 0]], [[1, 1, 0], [2, 2, 0]]])
    positions = torch.tensor([[6.0, 9.0], [3.0, 4.0], [0.0, 0.0]])
    found = part_localisation(positions, parts, size=(12, 16))
    assert found.distance[:2].tolist() == pytest.approx([3 / 20, 5 / 20])
    assert found.distance[2].isnan()
    assert found.value == pytest.approx(0.2)
    assert found.inside.total == found.overlapping.total == 0


def test_chance_is_the_mean_over_all_pixels():
    parts, box = torch.tensor([[[2.0, 3.0, 1.0]]]), torch.tensor([[[1, 2, 4, 5]]])
    found = part_localisation(torch.zeros(1, 2), parts, size=(6, 9), boxes=box)
    away = [math.dist((2, 3), (y, x)) for y in range(6) for x in range(9)]
    assert found.chance_distance == pytest.approx(sum(away) / 54 / math.hypot(6, 9))
    assert found.chance_inside == pytest.approx(9 / 54)


def test_a_position_is_inside_from_the_first_to_the_last_pixel():
    positions = torch.tensor([[1.0, 2.0], [3.4, 4.4], [0.4, 3.0], [2.0, 4.6]])
    box = torch.tensor([[1, 2, 4, 5]]).expand(4, 1, 4)
    found = part_localisation(positions, torch.ones(4, 1, 3), size=(6, 9), boxes=box)
    assert found.inside.hits == 2


def test_boxes_count_from_half_an_overlap():
    truth = torch.tensor([[[0, 0, 4, 4]], [[0, 0, 4, 4]], [[0, 0, 0, 0]]])
    predicted = torch.tensor([[0, 0, 4, 2], [0, 0, 3, 2], [0, 0, 4, 4]])
    found = part_localisation(
        torch.ones(3, 2), torch.ones(3, 1, 3), size=(20, 20), boxes=truth, predicted=predicted, n_chance=200
    )
    assert (found.overlapping.hits, found.overlapping.total) == (1, 2)
    assert 0 < found.chance_overlapping < 0.05


def test_predictions_on_mirror_images_are_turned_back():
    parts, box = torch.tensor([[[2.0, 3.0, 1.0]]]), torch.tensor([[[1, 2, 4, 5]]])
    there = part_localisation(
        torch.tensor([[2.0, 10 - 1 - 3.0]]),
        parts,
        size=(6, 10),
        boxes=box,
        predicted=torch.tensor([[1, 5, 4, 8]]),
        mirrored=torch.tensor([True]),
    )
    assert (there.value, there.inside.share, there.overlapping.share) == (0.0, 1.0, 1.0)


def test_the_middle_of_a_mask_is_found_in_its_box(creatures):
    row = creatures.part("body")
    found = part_localisation(
        creatures.parts[:, row, :2],
        creatures.parts[:, row : row + 1],
        size=(32, 32),
        boxes=creatures.boxes[:, row : row + 1],
        predicted=creatures.boxes[:, row],
    )
    assert found.value == 0
    assert found.inside.share > 0.95
    assert found.overlapping.share == 1.0
    assert found.chance_inside < 0.5
    assert found.chance_distance > 0.1


def test_a_location_is_the_same_alone_and_among_others():
    positions, parts = torch.rand(6, 2, generator=source()) * 9, torch.rand(6, 2, 3, generator=source(1)) * 9
    together = part_localisation(positions, parts, size=(9, 11)).distance
    alone = [part_localisation(positions[i : i + 1], parts[i : i + 1], size=(9, 11)).distance for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_positions_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(BadInput, match="not finite"):
        part_localisation(torch.tensor([[torch.nan, 1.0]]), torch.ones(1, 1, 3), size=(4, 4))
    with pytest.raises(BadInput, match=r"of \[2, 3\] images"):
        part_localisation(torch.ones(3, 2), torch.ones(3, 1, 3), size=(4, 4), boxes=torch.zeros(2, 1, 4).long())
    found = part_localisation(torch.ones(2, 2), torch.ones(2, 1, 3), size=(4, 4))
    assert repr(type(found).load(found.save(tmp_path / "noun"))) == repr(found)
