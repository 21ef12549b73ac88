"""Weakly supervised localisation: how good a detector, by boxes or by pixels, a map would make."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core import BadInput, Cost, Explanation, Images, Maps, Masks, Model, Score, registered
from glasshouse.evaluate.localisation.components import box_overlap, components
from glasshouse.evaluate.localisation.masks import areas, faults, fitting, in_parts, located

Matched: TypeAlias = Literal["largest", "any"]
OVERLAPS = (0.3, 0.5, 0.7)
USUAL_THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def spread(maps: Maps) -> Maps:
    """Each map from 0 (its lowest value) to 1 (its highest), in float64."""
    flat = maps.double().flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low)).view(maps.shape)


def spread_faults(maps: Maps) -> dict[str, Bool[Tensor, " n"]]:
    """Where a map cannot be stretched to 0…1."""
    finite = in_parts(lambda some: some.flatten(1).isfinite().all(1), maps)
    low, high = maps.flatten(1).aminmax(dim=1)
    return {"not_finite": ~finite, "constant_map": low == high}


def mask_boxes(masks: Masks) -> Int[Tensor, "n 1 4"]:
    """The tight box of each mask: top, left, bottom, right, the last two one past the end; zeros for an empty mask."""
    sides = list[Tensor]()
    for along in (masks.any(2), masks.any(1)):
        place = torch.arange(along.shape[1], device=masks.device)
        last = torch.where(along, place + 1, 0).amax(1)
        sides += [torch.where(along, place, along.shape[1]).amin(1).minimum(last), last]
    top, bottom, left, right = sides
    return torch.stack([top, left, bottom, right], 1)[:, None]


def box_hits(
    marked: Masks, boxes: Int[Tensor, "n b 4"], overlaps: Sequence[float | int], match: Matched
) -> Float[Tensor, "n q"]:
    """Whether the box of what is marked overlaps a given box by at least each of `overlaps`."""
    found = components(marked)
    reached = box_overlap(found.box, boxes[found.image]).amax(1)[:, None]
    hits = (reached >= torch.tensor(overlaps, dtype=torch.float64, device=reached.device)).double()
    result = hits.new_zeros(len(marked), len(overlaps))
    if match == "any":
        return result.scatter_reduce_(0, found.image[:, None].expand_as(hits), hits, "amax")
    most = found.size.new_zeros(len(marked)).scatter_reduce_(0, found.image, found.size, "amax")
    largest = (found.size == most[found.image]).double()
    equals = hits.new_zeros(len(marked)).index_add_(0, found.image, largest)
    return result.index_add_(0, found.image, hits * (largest / equals[found.image])[:, None])


def hits_at(
    maps: Maps, boxes: Int[Tensor, "n b 4"], threshold: float | int, overlaps: Sequence[float | int], match: Matched
) -> Float[Tensor, "n q"]:
    """`box_hits` of the maps cut at a share of their range, a few images at a time."""

    def hits(some: Maps, given: Int[Tensor, "r b 4"]) -> Float[Tensor, "r q"]:
        return box_hits(spread(some) >= threshold, given, overlaps, match)

    return in_parts(hits, maps, boxes)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Choe et al., CVPR 2020")
def max_box_acc(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    threshold: float | int | Sequence[float | int] = 0.2,
    boxes: Int[Tensor, "n b 4"] | None = None,
    overlaps: Sequence[float | int] = OVERLAPS,
    match: Matched = "largest",
) -> Score:
    """How often a box drawn around the map's largest blob is the object's: the mean over three strictnesses.

        mean over d of   1[IoU(box of {i : a_i >= t}, box of the object) >= d],   d in 0.3, 0.5, 0.7

    with `a` stretched to 0…1. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020,
    eq. 3, averaged over d as in their later MaxBoxAccV2. The published numbers are of the best threshold: pass
    `choose_threshold(validation_explanation, boxes)`. Chosen on the very images that are scored, it flatters.
    `extras["hits"]` holds the three hits apart. Several blobs of the same, largest size: the mean of theirs.

    Differs: blobs are compared by pixels (the authors: by the area of OpenCV's outline), and maps are not cut to 256
    levels.

    Args:
        threshold: t, a share of the map's range; one for all, or one for each of `overlaps`.
        boxes: of several objects in an image: top, left, bottom, right, the last two one past the end, rows of zeros
            where there are fewer; the best match counts. None takes each mask's tight box.
        overlaps: d.
        match: "largest" blob, or "any" of them, the better match, as MaxBoxAccV2 has it.
    """
    cut = [float(threshold)] * len(overlaps) if isinstance(threshold, int | float) else list(map(float, threshold))
    checked_match(match, overlaps, cut)
    masks, heatmap = fitting(masks, explanation, inputs), explanation.heatmap
    objects = mask_boxes(masks) if boxes is None else checked_boxes(boxes, heatmap)
    by_cut = {one: hits_at(heatmap, objects, one, overlaps, match) for one in set(cut)}
    hits = torch.stack([by_cut[one][:, place] for place, one in enumerate(cut)], 1)
    causes = {**faults(heatmap, masks), **spread_faults(heatmap)}
    settings = {"threshold": cut, "overlaps": list(overlaps), "match": match}
    return located("max_box_acc", hits.mean(1), causes, None, settings, {"hits": hits})


def checked_match(match: str, overlaps: Sequence[float | int], cut: Sequence[float | int]) -> None:
    if match not in ("largest", "any"):
        raise BadInput(f"match '{match}' is unknown.", "Use 'largest' or 'any'.")
    if not overlaps or len(cut) != len(overlaps):
        raise BadInput(f"{len(cut)} thresholds for {len(overlaps)} overlaps.", "Pass one threshold, or one for each.")
    if not all(0 <= one <= 1 for one in (*cut, *overlaps)):
        raise BadInput(f"thresholds {cut} and overlaps {tuple(overlaps)} are not all in 0…1.")


def checked_boxes(boxes: Tensor, maps: Maps) -> Int[Tensor, "n b 4"]:
    """The boxes on the maps' device; raises unless there is a list of them for each map."""
    if boxes.ndim != 3 or len(boxes) != len(maps) or boxes.shape[2] != 4 or not boxes.shape[1]:
        raise BadInput(
            f"the boxes {tuple(boxes.shape)} are not `n b 4` for these maps {tuple(maps.shape)}.",
            "Pass as many boxes for each image, with rows of zeros where it has fewer.",
        )
    return boxes.to(maps.device)


def choose_threshold(
    explanation: Explanation,
    boxes: Int[Tensor, "n b 4"],
    *,
    thresholds: Sequence[float | int] = USUAL_THRESHOLDS,
    overlaps: Sequence[float | int] = OVERLAPS,
    match: Matched = "largest",
) -> tuple[float, ...]:
    """The threshold with the most hits for each of `overlaps`, to choose on a validation split for `max_box_acc`.

    Of several equally good ones, the middle one. Images whose map is constant or not finite are left out.

    Args:
        boxes: as in `max_box_acc`; `mask_boxes(masks)` makes them from masks.
        thresholds: shares of the map's range to try. The authors try 1000; each costs a labelling of all maps.
    """
    checked_match(match, overlaps, [0.0] * len(overlaps))
    if not thresholds or not all(0 <= one <= 1 for one in thresholds):
        raise BadInput(f"thresholds {list(thresholds)[:4]} are not in 0…1.")
    usable = ~torch.stack(list(spread_faults(explanation.heatmap).values())).any(0)
    if not bool(usable.any()):
        raise BadInput("no map varies, so no threshold is better than another.", "Pass other maps.")
    maps, objects = explanation.heatmap[usable], checked_boxes(boxes, explanation.heatmap)[usable]
    found = torch.stack([hits_at(maps, objects, one, overlaps, match).mean(0) for one in thresholds])
    best = [(column == column.max()).nonzero()[:, 0] for column in found.unbind(1)]
    return tuple(float(thresholds[int(places[len(places) // 2])]) for places in best)


@registered("evaluate", cost=lambda settings, shape: Cost(0), paper="Choe et al., CVPR 2020")
def pxap(
    model: Model | nn.Module,
    inputs: Images,
    explanation: Explanation,
    masks: Masks,
    *,
    n_thresholds: int = 1000,
) -> Score:
    """How pure the pixels above a threshold are, over all thresholds: average precision of maps stretched to 0…1.

        sum over t of   precision(t) * (recall(t) - recall(next higher t)),   t in 0, 1/n, …, 1

    Choe et al., CVPR 2020, eq. 4. The paper pools the pixels of all images, so that one threshold has to suit all:
    `extras["pooled"]` is that number, and depends on which images are passed together. The value per image is the same
    sum over its own pixels (`localisation_ap`, by steps of 1/n). `extras["inside"]` and `extras["outside"]` count each
    image's pixels at each threshold: add those of several batches for `pooled_precision`. Chance is A / (h w).

    Differs: there is no "ignore" region.
    """
    if n_thresholds < 1:
        raise BadInput(f"n_thresholds {n_thresholds} is not at least 1.")
    masks, heatmap = fitting(masks, explanation, inputs), explanation.heatmap
    unusable = spread_faults(heatmap)
    skipped = torch.stack(list(unusable.values())).any(0)

    def counts(some: Maps, objects: Masks, leave: Bool[Tensor, " r"]) -> Float[Tensor, "r 2 t"]:
        level = (spread(some) * n_thresholds).nan_to_num(0, 0, 0).long().clamp(0, n_thresholds).flatten(1)
        sides = torch.stack([objects, ~objects], 1).flatten(2) & ~leave[:, None, None]
        zeros = torch.zeros(*sides.shape[:2], n_thresholds + 1, device=level.device)
        return zeros.scatter_add_(2, level[:, None].expand(-1, 2, -1), sides.float())

    inside, outside = in_parts(counts, heatmap, masks, skipped).unbind(1)
    extras = {"inside": inside, "outside": outside, "pooled": pooled_precision(inside, outside)}
    causes = {**faults(heatmap, masks), **unusable}
    value = pooled_precision(inside[:, None], outside[:, None])
    return located("pxap", value, causes, areas(masks), {"n_thresholds": n_thresholds}, extras)


def pooled_precision(inside: Float[Tensor, "... n t"], outside: Float[Tensor, "... n t"]) -> Float[Tensor, "..."]:
    """Average precision of the pixels of `n` images together, from how many lie at each threshold in and off masks."""
    found, wrong = inside.double().sum(-2).flip(-1), outside.double().sum(-2).flip(-1)
    true, every = found.cumsum(-1), (found + wrong).cumsum(-1)
    return (found * true / every.clamp(min=1)).sum(-1) / true[..., -1]
