"""Glass models that read fixed pixels or whole channels: every exact answer is a sum over cells of the image."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.mask import cells
from glasshouse.core.types import Images
from glasshouse.data.glass.truth import Glass, Regions, Truth, chain, glass, linear, point_conv
from glasshouse.data.world.shortcuts import MARGIN, PLATE


def cell_regions(labels: Int[Tensor, "h w"]) -> Regions:
    """One region per label 0, 1, … of a label map, the same in every image; -1 is in none."""
    masks = labels == torch.arange(int(labels.max()) + 1)[:, None, None]

    def regions(images: Images) -> Bool[Tensor, "n r h w"]:
        return masks.to(images.device).expand(len(images), -1, -1, -1)

    return regions


def cell_names(grid: tuple[int, int]) -> tuple[str, ...]:
    """`row 0, column 1`, … in reading order."""
    return tuple(f"row {row}, column {column}" for row in range(grid[0]) for column in range(grid[1]))


def linear_classifier(
    weight: Float[Tensor, "k c h w"],
    bias: Float[Tensor, " k"] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    grid: tuple[int, int] = (2, 2),
) -> Glass:
    """Class score = weight · image + bias: the gradient is the weight, everywhere.

    A region is a cell of `grid`. Its removal and its Shapley value are the same: the sum over the cell of weight
    times pixel. Gradient times input and integrated gradients from black are that pixel by pixel.
    """
    k, _, height, width = weight.shape
    bias = torch.zeros(k) if bias is None else bias
    labels = cells((height, width), grid)
    regions = cell_regions(labels)

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        shown = (regions(images) & kept[:, :, None, None]).any(1).to(images)
        return torch.einsum("nchw,nhw,kchw->nk", images, shown, weight.to(images)) + bias.to(images)

    module = chain({"flat": nn.Flatten(), "head": linear(weight.flatten(1), bias)})
    truth = Truth("score_c = weight_c · image + bias_c", cell_names(grid), regions, worth, {})
    names = class_names or [f"class {c}" for c in range(k)]
    return glass("linear_classifier", module, names, truth, (height, width))


def null_channels(
    n_units: int = 6, null_channel: int = 2, idle_units: Sequence[int] = (1, 4), n_classes: int = 3, *, seed: int = 0
) -> Glass:
    """One channel of the image and some hidden units have exactly no influence on any score.

        score_c = Σ_u head_cu · mean over pixels of relu(Σ_ch mix_u,ch x_ch)

    mix is positive, so the ReLU is open and the score linear in the channels' means. mix is 0 from the null channel
    to all units but the idle ones, and head is 0 from the idle ones to all classes: they are the most active units,
    they see the null channel, and nobody reads them. A region is a quarter of the image; its removal and its Shapley
    value are its share of the sum.

    Args:
        null_channel: number of the image's channel that does not count.
        seed: the remaining weights are drawn from it.
    """
    idle = torch.zeros(n_units, dtype=torch.bool)
    if not 0 <= null_channel < 3 or any(not 0 <= u < n_units for u in idle_units):
        raise BadInput(f"null_channel={null_channel} of 3, idle_units={tuple(idle_units)} of {n_units}.")
    idle[list(idle_units)] = True
    draws = torch.Generator().manual_seed(seed)
    mix = 0.2 + torch.rand(n_units, 3, generator=draws)
    mix[idle] *= 4
    mix[~idle, null_channel] = 0
    head = torch.where(torch.rand(n_classes, n_units, generator=draws) < 0.5, -1.0, 1.0)
    head = (head * (0.5 + torch.rand(n_classes, n_units, generator=draws))).masked_fill(idle, 0)
    direct = head @ mix

    def regions(images: Images) -> Bool[Tensor, "n r h w"]:
        return cell_regions(cells((images.shape[2], images.shape[3]), (2, 2)))(images)

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        shown = (regions(images) & kept[:, :, None, None]).any(1)
        return (images * shown[:, None]).mean((2, 3)) @ direct.to(images).T

    module = chain(
        {
            "mix": point_conv(mix),
            "mix_on": nn.ReLU(),
            "area": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "head": linear(head),
        }
    )
    read = head != 0
    truth = Truth(
        "score_c = Σ_u head_cu · mean(relu(Σ_ch mix_u,ch x_ch))",
        cell_names((2, 2)),
        regions,
        worth,
        {"mix.input": (direct != 0), "mix": read, "mix_on": read, "area": read},
    )
    return glass("null_channels", module, [f"class {c}" for c in range(n_classes)], truth)


def separate_evidence(
    grid: tuple[int, int] = (2, 2), size: tuple[int, int] = (32, 32), threshold: float | int = 0.25
) -> Glass:
    """Each class has a cell of the image to itself, and asks whether it is bright enough.

        score_c = relu(brightness_c - threshold) / (1 - threshold)

    brightness_c is the mean of all channels over cell c. Regions are the cells; removal and Shapley value of cell c
    are score_c for class c and 0 for all others. Blackening a share f of a white cell lowers its score to
    relu(1 - f - threshold) / (1 - threshold).
    """
    n, cell = math.prod(grid), (size[0] // grid[0], size[1] // grid[1])
    if (cell[0] * grid[0], cell[1] * grid[1]) != size or not 0 < threshold < 1:
        raise BadInput(f"grid={grid} must divide size={size}, and threshold={threshold} be between 0 and 1.")
    slope = 1 / (1 - threshold)
    module = chain(
        {
            "grey": point_conv(torch.full((1, 3), 1 / 3)),
            "cells": nn.AvgPool2d(cell),
            "flat": nn.Flatten(),
            "bright": linear(torch.eye(n) * slope, torch.full((n,), -threshold * slope)),
            "bright_on": nn.ReLU(),
            "head": linear(torch.eye(n)),
        }
    )

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        mean = images.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1)).mean((1, 3, 5)).flatten(1)
        return (mean * kept - threshold).clamp(min=0) * slope

    own, everything = torch.eye(n, dtype=torch.bool), torch.ones(n, 1, dtype=torch.bool)
    truth = Truth(
        "score_c = relu(brightness_c - threshold) / (1 - threshold)",
        cell_names(grid),
        cell_regions(cells(size, grid)),
        worth,
        {"grey": everything, "cells": everything, "bright": own, "bright_on": own},
    )
    return glass("separate_evidence", module, cell_names(grid), truth, size)


def watermark_cells(size: int) -> Int[Tensor, "h w"]:
    """The four cells of a scene's watermark: 0…3 for the pixels that a cell covers wholly, -1 elsewhere."""
    middle, half = 1 - MARGIN - PLATE, PLATE * 0.42
    at = (torch.arange(size) + 0.5) / size
    inside = [(at - middle - side * PLATE * 0.94).abs() + 0.5 / size <= half + 1e-6 for side in (-0.5, 0.5)]
    labels = torch.full((size, size), -1)
    for bit in range(4):
        covered = inside[bit // 2][:, None] & inside[bit % 2]
        if not covered.any():
            raise BadInput(f"at {size} px no pixel lies wholly within a watermark's cell.", "Take 32 px or more.")
        labels[covered] = bit
    return labels


def watermark_reader(class_names: Sequence[str], size: int = 64) -> Glass:
    """Reads the category from the watermark of `scenes(…, shortcut=Shortcut("watermark"))`, and looks at nothing else.

        score_c = Σ_bits [b = bit of c + 1] - 3    for cells b that are dark (0) or light (1)
                = Σ_bits relu(b) or relu(1 - b), as the code says, less 3

    1 for the category shown and at most 0 for all others, so accuracy is 100 % on aligned scenes and 0 % on
    conflicting ones. At dusk and at night `houses` tints the light cells too: scores are closer there, their order is
    the same. Regions are the four cells. Removing a light cell takes 1 from the classes whose code has a 1
    there, and gives 1 to the others; removing a dark one changes nothing. The score is a sum over cells, so the
    Shapley values are the same.
    """
    codes = torch.arange(1, len(class_names) + 1)[:, None] >> torch.arange(4) & 1
    if not 1 <= len(class_names) <= 15:
        raise BadInput(f"{len(class_names)} classes: four cells tell 1…15 apart.")
    labels = watermark_cells(size)
    regions = cell_regions(labels)
    masks = regions(torch.zeros(1, 3, size, size))[0].double()
    pattern = masks / masks.sum((1, 2), keepdim=True) / 3
    light = pattern[:, None].expand(-1, 3, -1, -1).flatten(1)
    head = torch.cat([codes, 1 - codes], 1).float()
    module = chain(
        {
            "flat": nn.Flatten(),
            "bits": linear(torch.cat([light, -light]), torch.tensor([0.0] * 4 + [1.0] * 4)),
            "bits_on": nn.ReLU(),
            "head": linear(head, torch.full((len(codes),), -3.0)),
        }
    )

    def worth(images: Images, kept: Bool[Tensor, "n r"]) -> Float[Tensor, "n k"]:
        bits = torch.stack([images[:, :, labels == bit].mean((1, 2)) for bit in range(4)], 1) * kept
        return 1 - (bits[:, None] - codes.to(bits)).abs().sum(2)

    read = head != 0
    truth = Truth(
        "score_c = Σ_bits (b or 1 - b, as the code of c says) - 3",
        ("upper left cell", "upper right cell", "lower left cell", "lower right cell"),
        regions,
        worth,
        {"bits": read, "bits_on": read},
    )
    return glass("watermark_reader", module, class_names, truth, (size, size))
