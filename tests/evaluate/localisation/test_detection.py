"""Boxes against scipy's labelling and a loop, and pixel precision against a loop over thresholds."""

import pytest
import torch

from glasshouse.core import BadInput, Explanation
from glasshouse.evaluate.localisation.components import box_overlap, components, labelled
from glasshouse.evaluate.localisation.detection import (
    checked_boxes,
    choose_threshold,
    mask_boxes,
    max_box_acc,
    pooled_precision,
    pxap,
)
from glasshouse.evaluate.localisation.ranking import localisation_ap

EIGHT = torch.ones(3, 3, dtype=torch.int64)


def patchy(n, size=(23, 31), seed=0, share=0.5):
    """Masks of blobs of all shapes."""
    draws = torch.Generator().manual_seed(seed)
    noise = torch.nn.functional.avg_pool2d(torch.randn(n, 1, *size, generator=draws), 3, 1, 1)[:, 0]
    return noise > noise.flatten(1).quantile(1 - share, dim=1).view(-1, 1, 1)


def boxes_by_scipy(mask):
    """(pixels, box) of each connected part."""
    ndimage = pytest.importorskip("scipy.ndimage")
    labels, _ = ndimage.label(mask.numpy(), structure=EIGHT.numpy())
    found = []
    for number, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
        found.append((int((labels == number).sum()), (rows.start, cols.start, rows.stop, cols.stop)))
    return found


def overlap_of(one, two):
    high, wide = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    common = max(0, high) * max(0, wide)
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return common / (sum(area) - common)


def hits_by_loop(a, objects, threshold, overlap, match="largest"):
    low, high = a.min(), a.max()
    found = boxes_by_scipy((a - low).double() / (high - low).double() >= threshold)
    hits = [(size, float(max(overlap_of(box, o) for o in objects) >= overlap)) for size, box in found]
    if match == "any":
        return max(hit for _, hit in hits)
    kept = [hit for size, hit in hits if size == max(hits)[0]]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4, 0.5, 0.7, 1.0])
def test_connected_parts_are_those_of_scipy(share):
    masks = patchy(8, share=share) if share < 1 else torch.ones(8, 5, 7, dtype=torch.bool)
    found = components(masks)
    for image, mask in enumerate(masks):
        here = found.image == image
        ours = [(int(size), tuple(box.tolist())) for size, box in zip(found.size[here], found.box[here], strict=True)]
        assert sorted(ours) == sorted(boxes_by_scipy(mask))


def test_a_spiral_is_one_part_and_corners_connect():
    size = 25
    spiral, row, col, step = torch.zeros(size, size, dtype=torch.bool), 0, 0, (0, 1)
    spiral[0, 0] = True
    for length in [size - 1, *(leg for side in range(size - 1, 0, -2) for leg in (side, side))]:
        for _ in range(length):
            row, col = row + step[0], col + step[1]
            spiral[row, col] = True
        step = (step[1], -step[0])
    corners = torch.eye(size, dtype=torch.bool)
    both = torch.stack([spiral, corners, torch.zeros_like(spiral)])
    labels = labelled(both)
    assert len(labels[0][spiral].unique()) == len(labels[1][corners].unique()) == 1
    assert not labels[~both].any()
    assert components(both).image.tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("match", ["largest", "any"])
def test_box_hits_are_those_of_a_slow_loop(asked, threshold, match):
    draws = torch.Generator().manual_seed(3)
    maps = torch.nn.functional.interpolate(torch.randn(24, 1, 5, 6, generator=draws), (23, 31), mode="bilinear")[:, 0]
    masks = maps + 0.5 * torch.nn.functional.interpolate(torch.randn(24, 1, 5, 6, generator=draws), (23, 31))[:, 0] > 1
    masks[:, 4, 5] = True
    score = asked(max_box_acc, maps, masks, threshold=threshold, match=match)
    for row, (a, s) in enumerate(zip(maps, masks, strict=True)):
        at = s.nonzero()
        box = (*at.amin(0).tolist(), *(at.amax(0) + 1).tolist())
        expected = [hits_by_loop(a, [box], threshold, overlap, match) for overlap in (0.3, 0.5, 0.7)]
        assert score.extras["hits"][row].tolist() == pytest.approx(expected)
        assert float(score.value[row]) == pytest.approx(sum(expected) / 3)
    assert 0 < score.mean < 1


def test_values_at_the_threshold_are_marked(asked):
    maps, masks = torch.zeros(1, 6, 9), torch.zeros(1, 6, 9, dtype=torch.bool)
    maps[0, 1:3, 1:3], maps[0, 4, 8], masks[0, 1:3, 1:3] = 0.5, 1.0, True
    assert asked(max_box_acc, maps, masks, threshold=0.5).value.tolist() == [1]
    assert asked(max_box_acc, maps, masks, threshold=0.6).value.tolist() == [0]


def test_blobs_of_one_size_count_by_their_share(asked):
    maps, masks = torch.zeros(1, 6, 9), torch.zeros(1, 6, 9, dtype=torch.bool)
    maps[0, 1:3, 1:3] = maps[0, 3:5, 6:8] = maps[0, 0, 8] = 1.0
    masks[0, 1:3, 1:3] = True
    assert asked(max_box_acc, maps, masks).value.tolist() == [0.5]
    assert asked(max_box_acc, maps, masks, match="any").value.tolist() == [1]


def test_the_best_match_of_several_objects_counts(asked):
    maps, masks = torch.zeros(1, 6, 9), torch.zeros(1, 6, 9, dtype=torch.bool)
    maps[0, 1:3, 1:3] = 1.0
    masks[0, 1:3, 1:3] = masks[0, 3:5, 6:8] = True
    assert asked(max_box_acc, maps, masks).value.tolist() == [0]  # one box around both objects
    boxes = torch.tensor([[[1, 1, 3, 3], [3, 6, 5, 8], [0, 0, 0, 0]]])
    assert asked(max_box_acc, maps, masks, boxes=boxes).value.tolist() == [1]


def test_boxes_of_masks_are_tight():
    masks = patchy(5, share=0.01)
    masks[4] = False
    boxes = mask_boxes(masks)
    for mask, box in zip(masks[:4], boxes[:4, 0], strict=True):
        at = mask.nonzero()
        assert box.tolist() == [*at.amin(0).tolist(), *(at.amax(0) + 1).tolist()]
    assert boxes[4].tolist() == [[0, 0, 0, 0]]
    torch.testing.assert_close(box_overlap(boxes[:, 0], boxes)[:, 0], torch.tensor([1.0, 1, 1, 1, 0]).double())


def test_the_chosen_threshold_has_the_most_hits(asked):
    draws = torch.Generator().manual_seed(5)
    maps = torch.nn.functional.interpolate(torch.randn(16, 1, 4, 5, generator=draws), (19, 23), mode="bicubic")[:, 0]
    masks = maps > maps.flatten(1).quantile(0.8, dim=1).view(-1, 1, 1)
    explanation = Explanation(maps, maps, "by_hand", (0,) * 16, torch.zeros(16), {})
    tried = [0.1, 0.3, 0.5, 0.6, 0.7, 0.9]
    chosen = choose_threshold(explanation, mask_boxes(masks), thresholds=tried)
    means = torch.stack([asked(max_box_acc, maps, masks, threshold=one).extras["hits"].mean(0) for one in tried])
    for place, one in enumerate(chosen):
        assert means[tried.index(one), place] == means[:, place].max()
    best = asked(max_box_acc, maps, masks, threshold=chosen)
    assert best.mean == pytest.approx(float(means.amax(0).mean()))
    assert best.settings["threshold"] == list(chosen)


def test_of_equally_good_thresholds_the_middle_one_is_chosen():
    maps = torch.zeros(1, 6, 9)
    maps[0, 1:3, 1:3] = 1.0
    explanation = Explanation(maps, maps, "by_hand", (0,), torch.zeros(1), {})
    assert choose_threshold(explanation, torch.tensor([[[1, 1, 3, 3]]])) == (0.5, 0.5, 0.5)


def test_a_map_that_cannot_be_stretched_has_a_reason(asked, pairs):
    maps, masks = pairs(3)
    maps[0], maps[1, 0, 0] = 0.4, torch.nan
    for metric in (max_box_acc, pxap):
        assert asked(metric, maps, masks).reason == ("constant_map", "not_finite", "")
    explanation = Explanation(maps[:2], maps[:2], "by_hand", (0,) * 2, torch.zeros(2), {})
    with pytest.raises(BadInput, match="no map varies"):
        choose_threshold(explanation, mask_boxes(masks[:2]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1.5}, "not all in 0…1"),
        ({"threshold": [0.1, 0.2]}, "2 thresholds for 3 overlaps"),
        ({"overlaps": []}, "0 overlaps"),
    ],
)
def test_wrong_settings_are_named(asked, pairs, settings, words):
    with pytest.raises(BadInput, match=words):
        asked(max_box_acc, *pairs(), **settings)


@pytest.mark.parametrize("shape", [(7, 1, 4), (6, 4), (6, 1, 5), (6, 0, 4)], ids=str)
def test_boxes_of_other_images_are_refused(pairs, shape):
    with pytest.raises(BadInput, match="not `n b 4` for these maps"):
        checked_boxes(torch.ones(shape, dtype=torch.int64), pairs()[0])


def test_pixel_precision_by_fine_steps_is_average_precision(asked, pairs):
    maps, masks = pairs(4)
    fine = asked(pxap, maps, masks, n_thresholds=100_000)
    torch.testing.assert_close(fine.value, asked(localisation_ap, maps, masks).value, atol=1e-4, rtol=1e-4)


def test_pooled_pixel_precision_is_the_sum_over_thresholds(asked, pairs):
    maps, masks = pairs(levels=9)
    masks[2], maps[3] = False, 1.0
    score = asked(pxap, maps, masks, n_thresholds=20)
    usable = [row for row in range(6) if row != 3]
    stretched = torch.stack([(maps[r] - maps[r].min()).double() / (maps[r].max() - maps[r].min()) for r in usable])
    truth, total, before = masks[usable], 0.0, 0.0
    for step in range(20, -1, -1):
        above = (stretched * 20).floor() >= step
        recall = int((above & truth).sum()) / int(truth.sum())
        total, before = total + (recall - before) * int((above & truth).sum()) / int(above.sum()), recall
    assert float(score.extras["pooled"]) == pytest.approx(total)
    assert score.reason == ("", "", "empty_mask", "constant_map", "", "")


def test_batches_pool_to_the_whole(asked, pairs):
    maps, masks = pairs()
    parts = [asked(pxap, maps[rows], masks[rows]) for rows in (slice(0, 2), slice(2, 6))]
    inside, outside = (torch.cat([part.extras[side] for part in parts]) for side in ("inside", "outside"))
    whole = asked(pxap, maps, masks).extras["pooled"]
    torch.testing.assert_close(pooled_precision(inside, outside).float(), whole)
    alone = asked(pxap, maps[:1], masks[:1])
    torch.testing.assert_close(alone.extras["pooled"], alone.value[0])
