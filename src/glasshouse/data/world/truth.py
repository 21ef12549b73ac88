"""What is true of rendered pixels: label planes, middles, boxes, and where a shortcut shows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glasshouse.data.world.raster import Pixels
from glasshouse.data.world.shortcuts import EVERYWHERE, Shortcut
from glasshouse.data.world.strokes import Strokes


def labels_of(strokes: Strokes, top: Tensor, place: Tensor) -> dict[str, Tensor]:
    """All label planes: each pixel looks its stroke up."""
    n, s = strokes.shape.shape
    at = top.flatten().int()
    row = (torch.arange(n, device=top.device, dtype=torch.int32) * (2 * s + 1)).repeat_interleave(top[0].numel()) + at

    def fixed(values: Sequence[int]) -> Tensor:
        """From a table that is the same for all images."""
        table = torch.tensor([0, *(v for v in values for _ in range(2))], device=top.device)
        return table.index_select(0, at).view(top.shape)

    def own(values: Tensor) -> Tensor:
        """From a table with a row for each image: n s, or n s 2 where the texture's second colour differs."""
        pairs = values if values.ndim == 3 else values[..., None].expand(n, s, 2)
        table = torch.nn.functional.pad(pairs.reshape(n, 2 * s), (1, 0))
        return table.flatten().index_select(0, row).view(top.shape)

    return {
        "object": own(strokes.object),
        "part": fixed(strokes.part),
        "material": own(strokes.material),
        "color": own(strokes.colour),
        "texture": own(strokes.texture.clamp(min=0) + 1),
        "scene": place.to(top.device)[:, None, None].expand(top.shape),
        "instance": fixed(strokes.instance),
    }


def shortcut_mask(
    shortcut: Shortcut | None, signal: Tensor, labels: Mapping[str, Tensor], objects: Sequence[str]
) -> Tensor:
    """Where the shortcut shows its signal."""
    plane = labels["object"]
    there = (signal >= 0).to(plane.device)[:, None, None].expand(plane.shape)
    if shortcut is None:
        return torch.zeros_like(there).contiguous()
    if shortcut.kind in EVERYWHERE:
        return there.contiguous()
    if shortcut.kind == "background":
        behind = torch.tensor([objects.index(name) for name in ("sky", "ground", "hill") if name in objects])
        return torch.isin(plane, behind.to(plane.device)) & there
    if shortcut.kind == "position":
        return (labels["instance"] == 1) & there
    return (plane == objects.index("shortcut")) & there


def middles(pixels: Pixels) -> Tensor:
    """Row and column of the middle of each amodal mask, and the share of it that is seen; n p 3."""
    rows, columns = pixels.rows[:, :, 0], pixels.columns[:, :, 0]
    area, seen = rows.sum(2).clamp(min=1), pixels.rows[:, :, 1].sum(2)
    at = torch.arange(rows.shape[2], device=rows.device, dtype=torch.float32)
    return torch.stack([rows @ at / area, columns @ at / area, seen / area], 2)


def boxes(pixels: Pixels) -> Tensor:
    """Top, left, bottom, right of each mask, half open; n p 4."""
    begins: list[Tensor] = []
    ends: list[Tensor] = []
    for counts in (pixels.rows[:, :, 1], pixels.columns[:, :, 1]):
        hit = (counts > 0).to(torch.uint8)
        there = hit.any(2).bool()
        begins.append(torch.where(there, hit.argmax(2), 0))
        ends.append(torch.where(there, hit.shape[2] - hit.flip(2).argmax(2), 0))
    return torch.stack([*begins, *ends], 2)
