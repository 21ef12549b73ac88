"""A second renderer of scenes: slow, float64, one image and one stroke at a time, and without a single distance.

Whether a point lies in a shape is asked of a fine grid of points in each pixel; a pixel's coverage is the share of its
points that lie inside. Written from what the shapes are (the docstrings of `strokes.py`), to be compared with
`raster.py`, which gets coverage from distances.
"""

import math
from dataclasses import dataclass

import numpy as np

from glasshouse.data.world.strokes import SHAPES, TEXTURES, Strokes

POINTS = 12  # per pixel, in each direction
GRADIENT = -1


@dataclass
class Drawing:
    """One image: pixels from `low` to `high`, labels by plane, masks by part, and how sure each pixel is.

    `low` and `high` differ where the paint is not one colour: in textures, where it is shaded, and at edges by the
    given slack in coverage. `spread` is, for each pixel, the distance from ½ of the coverage that is nearest to it,
    over all labelled strokes; `speckle` the same for the share of the texture's second colour in what is seen.
    """

    low: np.ndarray
    high: np.ndarray
    planes: dict[str, np.ndarray]
    masks: np.ndarray
    amodal: np.ndarray
    spread: np.ndarray
    speckle: np.ndarray


def inside(shape: str, u: np.ndarray, v: np.ndarray, a: float, b: float, extra: float) -> np.ndarray:
    """Which points lie in a shape; u to its right and v down, from its middle."""
    return SHAPE_TESTS[shape](u, v, a, b, extra)


def _ellipse(u, v, a, b, extra):
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def _box(u, v, a, b, extra):
    # a box shrunk by its corners' radius, and everything within that radius of it
    across, down = np.maximum(abs(u) - (a - extra), 0), np.maximum(abs(v) - (b - extra), 0)
    return across**2 + down**2 <= extra**2 if extra else (abs(u) <= a) & (abs(v) <= b)


def _capsule(u, v, a, b, extra):
    middle = (abs(u) <= a) & (abs(v) <= b)
    return middle | (u**2 + (v - b) ** 2 <= a**2) | (u**2 + (v + b) ** 2 <= a**2)


def _wedge(u, v, a, b, extra):
    return _in_polygon(u, v, [(-a * extra, -b), (a * extra, -b), (a, b), (-a, b)])


def _dome(u, v, a, b, extra):
    return ((u / a) ** 2 + ((v - b) / (2 * b)) ** 2 <= 1) & (v <= b)


def _ring(u, v, a, b, extra):
    return _ellipse(u, v, a, b, 0) & ~_ellipse(u, v, a - extra, b - extra, 0)


def _cross(u, v, a, b, extra):
    return _box(u, v, a, extra / 2, 0) | _box(u, v, extra / 2, b, 0)


def _star(u, v, a, b, extra):
    inner = a * math.cos(0.4 * math.pi) / math.cos(0.2 * math.pi)  # where the lines of a pentagram cross
    corners = [(inner if i % 2 else a, math.pi * i / 5) for i in range(10)]
    return _in_polygon(u, v, [(r * math.sin(turn), -r * math.cos(turn)) for r, turn in corners])


def _crescent(u, v, a, b, extra):
    return _ellipse(u, v, a, b, 0) & ~_ellipse(u - extra, v, a, b, 0)


def _in_polygon(u, v, corners):
    """A point is inside if a ray from it crosses the outline an odd number of times."""
    odd = np.zeros(np.broadcast(u, v).shape, dtype=bool)
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if v0 != v1:
            odd ^= ((v0 > v) != (v1 > v)) & (u < u0 + (u1 - u0) * (v - v0) / (v1 - v0))
    return odd


SHAPE_TESTS = dict(zip(SHAPES, (_ellipse, _box, _capsule, _wedge, _dome, _ring, _cross, _star, _crescent), strict=True))


def second_colour(texture: str, u: np.ndarray, v: np.ndarray, period: float, phase: float) -> np.ndarray:
    """Which points a texture paints in its second colour: half of each period, or what its wave makes of it."""
    u, v = 2 * math.pi * u / period, 2 * math.pi * v / period
    sin, cos = np.sin, np.cos
    if texture == "stripes":
        return (v + phase) % (2 * math.pi) < math.pi
    if texture == "checker":
        return ((u + phase) % (2 * math.pi) < math.pi) == ((v + phase) % (2 * math.pi) < math.pi)
    if texture == "dots":
        return cos(u + phase) + cos(v + phase) > 0.7
    if texture == "rings":
        return (np.hypot(u, v) + phase) % (2 * math.pi) < math.pi
    if texture == "noise":  # has no other definition than its formula: two bent waves
        bent = 0.7 * u + 1.9 * sin(0.9 * v + phase) + phase
        return sin(bent) + sin(0.8 * v + 1.7 * sin(0.6 * u + 2 * phase)) > 0
    return np.zeros(np.broadcast(u, v).shape, dtype=bool)


def draw(strokes: Strokes, image: int, size: int, slack: float = 0.0) -> Drawing:
    """Paint one image from back to front.

    Args:
        slack: how far the coverage of a partly covered pixel may be off, for `low` and `high`.
    """
    parts = len(strokes.parts)
    out = Drawing(
        np.zeros((3, size, size)),
        np.zeros((3, size, size)),
        {name: np.zeros((size, size), int) for name in ("object", "part", "material", "color", "texture", "instance")},
        np.zeros((parts, size, size), bool),
        np.zeros((parts, size, size), bool),
        np.full((size, size), 0.5),
        np.full((size, size), 0.5),
    )
    for s in range(strokes.shape.shape[1]):
        if int(strokes.shape[image, s]) >= 0:
            _paint(strokes, image, s, size, slack, out)
    for bounds in (out.low, out.high):
        np.clip(bounds, 0, 1, out=bounds)
    return out


def _paint(strokes: Strokes, image: int, s: int, size: int, slack: float, out: Drawing) -> None:
    x, y, a, b, angle, extra, soft, opacity, shade = (float(value) for value in strokes.place[image, s].double())
    reach = math.hypot(a, b) + a + soft  # nothing is drawn farther from its middle than this
    rows, columns = (slice(max(0, math.floor((c - reach) * size)), math.ceil((c + reach) * size)) for c in (y, x))
    rows, columns = (slice(min(r.start, size), max(0, min(r.stop, size))) for r in (rows, columns))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    at_y, at_x = ((np.arange(r.start * POINTS, r.stop * POINTS) + 0.5) / (size * POINTS) for r in (rows, columns))
    down, right = (at_y - y)[:, None], (at_x - x)[None, :]
    u = right * math.cos(angle) + down * math.sin(angle)
    v = down * math.cos(angle) - right * math.sin(angle)
    shape = SHAPES[int(strokes.shape[image, s])]
    there = inside(shape, u, v, a, b, extra)
    texture = int(strokes.texture[image, s])
    grain = strokes.grain[image, s].double().tolist()
    cover = _pixels(there)
    share = _pixels(second_colour(TEXTURES[texture], u, v, *grain)) if texture > 0 else np.zeros_like(cover)
    window = (rows, columns)
    if soft > 0:
        lightest, most = _soft_bounds(shape, u, v, a, b, soft)
    else:
        partly = _grown((cover > 0) & (cover < 1))
        lightest, most = cover - slack * partly, cover + slack * partly
    paints = strokes.paint[image, s].double().numpy()
    first, second = _paint_bounds(paints, texture, _pixels(v) / b, shade)
    for bounds, colour, best in ((out.low, first, np.minimum), (out.high, second, np.maximum)):
        canvas = bounds[:, rows, columns]
        strengths = [opacity * np.clip(c, 0, 1) for c in (lightest, most)]
        bounds[:, rows, columns] = best(*(canvas + (colour - canvas) * c for c in strengths))
    if strokes.slot[s] >= 0:
        _label(strokes, image, s, window, cover > 0.5, share, out)
        out.spread[window] = np.minimum(out.spread[window], abs(cover - 0.5))


def _label(strokes: Strokes, image: int, s: int, window, covered: np.ndarray, share: np.ndarray, out: Drawing) -> None:
    slot, texture = strokes.slot[s], int(strokes.texture[image, s])
    colours = strokes.colour[image, s].tolist()
    values = {
        "object": int(strokes.object[image, s]),
        "part": strokes.part[s],
        "material": int(strokes.material[image, s]),
        "color": np.where(share > 0.5, colours[1], colours[0]),
        "texture": 1 + max(texture, 0),
        "instance": strokes.instance[s],
    }
    for name, value in values.items():
        out.planes[name][window] = np.where(covered, value, out.planes[name][window])
    for other in range(len(strokes.parts)):
        out.masks[other][window] &= ~covered
    out.masks[slot][window] |= covered
    out.amodal[slot][window] |= covered
    edge = abs(share - 0.5) if texture > 0 else np.full(share.shape, 0.5)
    out.speckle[window] = np.where(covered, edge, out.speckle[window])


def _pixels(points: np.ndarray) -> np.ndarray:
    """The mean over each pixel's points."""
    h, w = points.shape[0] // POINTS, points.shape[1] // POINTS
    lines = points.reshape(h, POINTS, -1).sum(1, dtype=np.float32 if points.dtype == bool else float)
    return lines.reshape(h, w, POINTS).sum(2).astype(float) / POINTS**2


def _grown(there: np.ndarray) -> np.ndarray:
    """These pixels and their eight neighbours."""
    padded = np.pad(there, 1)
    h, w = there.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def _paint_bounds(paints: np.ndarray, texture: int, depth: np.ndarray, shade: float):
    """The darkest and the brightest that a stroke's paint can be in each pixel; 3 h w each, or 3 1 1."""
    first, second = paints[:, :, None, None]
    if texture == GRADIENT:  # from the first colour at its upper end to the second at its lower end
        low = high = first + (second - first) * (1 + depth) / 2
    elif texture > 0:
        low, high = np.minimum(first, second), np.maximum(first, second)
    else:
        low = high = first
    return low * (1 - 0.65 * shade), high * (1 + 0.5 * shade)


def _soft_bounds(shape: str, u: np.ndarray, v: np.ndarray, a: float, b: float, soft: float):
    """The least and the most that something with a soft edge covers: a smooth step across the edge's width.

    For circles and bars it is known; for other ellipses only that it is nothing well outside and all well inside.
    """
    if shape == "ellipse" and a != b:
        grown, shrunk = (_pixels(inside(shape, u, v, a + d, max(b + d, 1e-9), 0)) for d in (soft, -soft / 2))
        return (shrunk == 1).astype(float) * (b > soft / 2), (grown > 0).astype(float)
    u, v = _pixels(u), _pixels(v)
    if shape == "ellipse":
        distance = np.hypot(u, v) - a
    else:
        beyond = np.hypot(np.maximum(abs(u) - a, 0), np.maximum(abs(v) - b, 0))
        distance = beyond + np.minimum(np.maximum(abs(u) - a, abs(v) - b), 0)
    step = np.clip(0.5 - distance / soft, 0, 1)
    cover = step**2 * (3 - 2 * step)
    return cover, cover
