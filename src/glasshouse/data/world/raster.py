"""Strokes to pixels and labels: analytic coverage, painter's order, all images of a chunk at once.

A pixel's coverage by a shape is clamp(0.5 − d·size, 0, 1) with d the signed distance of its centre to the
outline (exact area for upright boxes). A pixel bears the labels of the front-most shape that covers more than
half of it. Nothing loops over images; a stroke touches only the window that it covers in some image of the chunk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from glasshouse.data.world.strokes import SHAPES, Strokes

CHUNK_PIXELS = 1 << 18  # what a core's cache holds
GRADIENT = -1  # a texture that runs evenly from the first colour at the top to the second at the bottom
LIGHT = (-0.55, -0.75)  # where the light comes from, in image coordinates
RIM = 0.35  # how dark a shaded shape is at its edge


@dataclass(frozen=True)
class Pixels:
    """What the rasteriser makes of n images.

    Attributes:
        images: n 3 h w in 0…1.
        top: front-most labelled stroke of each pixel, n h w: 0 none, 2·s + 1 for stroke s, one more where the
            texture shows its second colour.
        amodal: n p h w, where each part would be seen if nothing were in front of it.
        masks: n p h w, where it is seen.
        rows, columns: how many pixels of `amodal` and of `masks` lie in each row or column, n p 2 h.
    """

    images: Tensor
    top: Tensor
    amodal: Tensor
    masks: Tensor
    rows: Tensor
    columns: Tensor

    def part(self, begin: int, end: int) -> "Pixels":
        """Some of the images."""
        return Pixels(*(getattr(self, field.name)[begin:end] for field in fields(self)))


def rasterise(strokes: Strokes, size: int, *, labels: bool = True) -> Pixels:
    """Draw all images; without `labels`, only their colours."""
    n, p, device = len(strokes), len(strokes.parts) if labels else 0, strokes.place.device
    pixels = Pixels(
        torch.zeros(n, 3, size, size, device=device),
        torch.zeros(n, size, size, dtype=torch.uint8, device=device),
        torch.zeros(n, p, size, size, dtype=torch.bool, device=device),
        torch.zeros(n, p, size, size, dtype=torch.bool, device=device),
        torch.zeros(n, p, 2, size, device=device),
        torch.zeros(n, p, 2, size, device=device),
    )
    step = max(1, CHUNK_PIXELS // size**2)
    for i in range(0, n, step):
        _draw_chunk(strokes.rows(i, i + step), size, pixels.part(i, i + step), labels)
    return pixels


def _draw_chunk(strokes: Strokes, size: int, pixels: Pixels, labels: bool) -> None:
    images, top, amodal, device = pixels.images, pixels.top, pixels.amodal, strokes.place.device
    centres = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size
    windows = _windows(strokes, size)
    kinds = strokes.shape.T.tolist()
    textures = strokes.texture.T.tolist()
    tilted = (strokes.place[..., 4] != 0).any(0).tolist()
    shaded = (strokes.place[..., 8] != 0).any(0).tolist()
    for s, (y0, y1, x0, x1) in enumerate(windows):
        if y0 >= y1 or x0 >= x1:
            continue
        place = strokes.place[:, s, :, None, None]
        frame = _Frame(place, centres[None, y0:y1, None], centres[None, None, x0:x1], tilted[s])
        cover, distance = _cover(frame, place, strokes.shape[:, s], kinds[s], size)
        colour, second = _colour(frame, strokes, s, textures[s], size)
        if shaded[s]:
            colour = colour * _shade(frame, place, distance)[:, None]
        canvas = images[:, :, y0:y1, x0:x1]
        canvas.lerp_(colour.expand_as(canvas), cover[:, None] * place[:, 7, None])
        if labels and strokes.slot[s] >= 0:
            inside = cover > 0.5
            there = top[:, y0:y1, x0:x1]
            there.masked_fill_(inside, 2 * s + 1)
            if second is not None:
                there.masked_fill_(inside & second, 2 * s + 2)
            amodal[:, strokes.slot[s], y0:y1, x0:x1] |= inside
    images.clamp_(0, 1)
    if labels:
        _count_parts(strokes, pixels, windows)


def _count_parts(strokes: Strokes, pixels: Pixels, windows: Sequence[tuple[int, int, int, int]]) -> None:
    """Fill in where each part is seen, and its counts by row and column."""
    owner = torch.tensor([-1, *(slot for slot in strokes.slot for _ in range(2))], device=pixels.top.device)
    seen = owner.to(torch.int16).index_select(0, pixels.top.flatten().int()).view(pixels.top.shape)
    for slot in range(len(strokes.parts)):
        reach = [w for w, own in zip(windows, strokes.slot, strict=True) if own == slot and w[0] < w[1] and w[2] < w[3]]
        if not reach:
            continue
        y0, y1, x0, x1 = (
            edge(values) for edge, values in zip((min, max, min, max), zip(*reach, strict=True), strict=True)
        )
        mask = pixels.masks[:, slot, y0:y1, x0:x1]
        torch.eq(seen[:, y0:y1, x0:x1], slot, out=mask)
        for kind, there in enumerate((pixels.amodal[:, slot, y0:y1, x0:x1].float(), mask.float())):
            pixels.rows[:, slot, kind, y0:y1] = there.sum(2)
            pixels.columns[:, slot, kind, x0:x1] = there.sum(1)


class _Frame:
    """Pixel centres in a stroke's own axes: u to its right, v down, in image lengths."""

    def __init__(self, place: Tensor, y: Tensor, x: Tensor, tilted: bool):
        self.x, self.y = x - place[:, 0], y - place[:, 1]
        self.u, self.v = self.x, self.y
        if tilted:
            cos, sin = place[:, 4].cos(), place[:, 4].sin()
            self.u, self.v = self.x * cos + self.y * sin, self.y * cos - self.x * sin

    def rows(self, where: Tensor) -> tuple[Tensor, Tensor]:
        return self.u[where], self.v[where]


def _windows(strokes: Strokes, size: int) -> list[tuple[int, int, int, int]]:
    """For each stroke the rows and columns it can reach in any image: first, end, first, end."""
    x, y, a, b, angle, _, soft, _, _ = strokes.place.unbind(-1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    margin = soft + 1 / size
    capsule = torch.where(strokes.shape == SHAPES.index("capsule"), a, 0)
    wide, high = a * cos + (b + capsule) * sin + margin, a * sin + (b + capsule) * cos + margin
    absent = strokes.shape < 0
    ends = [
        (y - high).masked_fill(absent, 2).amin(0),
        (y + high).masked_fill(absent, -2).amax(0),
        (x - wide).masked_fill(absent, 2).amin(0),
        (x + wide).masked_fill(absent, -2).amax(0),
    ]
    scaled = (torch.stack(ends, 1) * size).clamp(-1, size + 1)
    scaled[:, ::2], scaled[:, 1::2] = scaled[:, ::2].floor(), scaled[:, 1::2].ceil()
    return [tuple(row) for row in scaled.clamp(0, size).long().tolist()]


def _cover(frame: _Frame, place: Tensor, shape: Tensor, kinds: list[int], size: int) -> tuple[Tensor, Tensor]:
    """Share of each pixel that the shape covers, and the distance to its outline in image lengths."""
    upright = (shape == SHAPES.index("box")) & ~place[:, 4:7].any(1).flatten()
    here = upright[:, None, None]
    area = None
    if bool(upright.any()):  # their area is exact, whatever the other images show
        across, down = place[:, 2] - frame.x.abs(), place[:, 3] - frame.y.abs()
        area = (across * size + 0.5).clamp(0, 1) * (down * size + 0.5).clamp(0, 1) * here
        distance = torch.maximum(-across, -down)
        if bool((upright | (shape < 0)).all()):
            return area, distance
    present = set(kinds)
    if len(present) == 1:
        distance = DISTANCES[present.pop()](frame.u, frame.v, place)
    else:
        full = torch.broadcast_shapes(frame.u.shape, frame.v.shape)
        distance = place.new_full(full, 2.0)
        for kind in sorted(present - {-1}):
            where = (shape == kind).nonzero()[:, 0]
            distance[where] = DISTANCES[kind](*frame.rows(where), place[where])
    soft = place[:, 6]
    cover = (0.5 - distance / soft.clamp(min=1 / size)).clamp(0, 1)
    if bool(soft.any()):
        cover = torch.where(soft > 0, cover * cover * (3 - 2 * cover), cover)
    return cover if area is None else torch.where(here, area, cover), distance


def _colour(frame: _Frame, strokes: Strokes, s: int, textures: list[int], size: int) -> tuple[Tensor, Tensor | None]:
    """The paint at each pixel, n 3 h w or less, and where the second colour prevails."""
    first, other = strokes.paint[:, s, 0, :, None, None], strokes.paint[:, s, 1, :, None, None]
    present = set(textures) - {0}
    if not present:
        return first, None
    if present == {GRADIENT} and 0 not in textures:
        return torch.lerp(first, other, (0.5 + 0.5 * frame.v / strokes.place[:, s, 3, None, None])[:, None]), None
    mix = first.new_zeros(torch.broadcast_shapes(frame.u.shape, frame.v.shape))
    for kind in sorted(present):
        where = (strokes.texture[:, s] == kind).nonzero()[:, 0]
        u, v = frame.rows(where)
        if kind == GRADIENT:
            mix[where] = (0.5 + 0.5 * v / strokes.place[where, s, 3, None, None]).expand_as(mix[where])
            continue
        period, phase = strokes.grain[where, s].unbind(1)
        k, phase = (2 * math.pi / period)[:, None, None], phase[:, None, None]
        mix[where] = (0.5 + TEXTURE_WAVES[kind](k * u, k * v, phase) / k * size).clamp(0, 1)
    second = (mix > 0.5) & (strokes.texture[:, s] > 0)[:, None, None]
    return torch.lerp(first, other, mix[:, None]), second


def _shade(frame: _Frame, place: Tensor, distance: Tensor) -> Tensor:
    """Brightness of the paint: falls off away from the light and towards the edge, as on something round."""
    a, b, strength = place[:, 2], place[:, 3], place[:, 8]
    reach = torch.maximum(a, b)
    lit = (LIGHT[0] * strength / reach) * frame.x + (LIGHT[1] * strength / reach) * frame.y
    edge = (1 + distance / (0.6 * torch.minimum(a, b))).clamp(0, 1)
    return 1 + 0.3 * lit - RIM * strength * edge * edge


def _ellipse(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    # first-order distance: (k − 1)·k / |∇k²/2| with k the radius in units of the half axes
    p, q = u / place[:, 2], v / place[:, 3]
    k = (p * p + q * q).sqrt()
    p, q = p / place[:, 2], q / place[:, 3]
    slope = (p * p + q * q).sqrt()
    return torch.where(slope > 1e-6, k * (k - 1) / slope.clamp(min=1e-6), -torch.minimum(place[:, 2], place[:, 3]))


def _box(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    corner = place[:, 5]
    across, down = u.abs() - place[:, 2] + corner, v.abs() - place[:, 3] + corner
    outside = (across.clamp(min=0).square() + down.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(across, down).clamp(max=0) - corner


def _capsule(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    rest = v - torch.maximum(torch.minimum(v, place[:, 3]), -place[:, 3])
    return (u * u + rest * rest).sqrt() - place[:, 2]


def _wedge(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    a, b, upper = place[:, 2], place[:, 3], place[:, 5]
    lean = a * (1 - upper) / (2 * b)  # how much the half width grows per length downwards
    side = (u.abs() - a * (1 + upper) / 2 - lean * v) / (1 + lean * lean).sqrt()
    return torch.maximum(side, v.abs() - b)


def _dome(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    whole = place.clone()
    whole[:, 3] *= 2
    down = v - place[:, 3]  # the base is the stroke's lower edge
    return torch.maximum(_ellipse(u, down, whole), down)


def _ring(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    inner = place.clone()
    inner[:, 2:4] -= place[:, 5:6] / 2
    return _ellipse(u, v, inner).abs() - place[:, 5] / 2


def _cross(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    a, b, thick = place[:, 2], place[:, 3], place[:, 5] / 2
    u, v = u.abs(), v.abs()
    return torch.minimum(torch.maximum(u - a, v - thick), torch.maximum(u - thick, v - b))


def _star(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    # a five-pointed star of outer radius a: five half planes; inside all but at most one of them
    planes = [
        (u * math.sin(turn) - v * math.cos(turn)) - place[:, 2] * math.cos(0.4 * math.pi)
        for turn in (2 * math.pi * i / 5 for i in range(5))
    ]
    return torch.stack(planes).topk(2, dim=0).values[1]


def _crescent(u: Tensor, v: Tensor, place: Tensor) -> Tensor:
    return torch.maximum(_ellipse(u, v, place), -_ellipse(u - place[:, 5], v, place))


DISTANCES = (_ellipse, _box, _capsule, _wedge, _dome, _ring, _cross, _star, _crescent)


def _noise(u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    bend = (0.9 * v + phase).sin()
    return 0.5 * ((0.7 * u + 1.9 * bend + phase).sin() + (0.8 * v + 1.7 * (0.6 * u + 2 * phase).sin()).sin())


TEXTURE_WAVES = (
    lambda u, v, phase: u,  # plain: never asked
    lambda u, v, phase: (v + phase).sin(),
    lambda u, v, phase: (u + phase).sin() * (v + phase).sin(),
    lambda u, v, phase: 0.5 * ((u + phase).cos() + (v + phase).cos() - 0.7),
    lambda u, v, phase: ((u * u + v * v).sqrt() + phase).sin(),
    _noise,
)
