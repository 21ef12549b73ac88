"""Paint: colours from hue, saturation and value, and the basic name of each."""

from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Value: TypeAlias = Tensor | float | int
"""One for all images, or one for each."""

COLOURS = ("-", "black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow")
"""The eleven basic colour names, in Broden's order, after '-' for none."""

# One or more typical sRGB values of each name; a colour bears the name of the nearest one in CIELAB.
TYPICAL = {
    "black": ((0.0, 0.0, 0.0), (0.12, 0.12, 0.14)),
    "blue": ((0.1, 0.2, 0.8), (0.3, 0.55, 0.9), (0.55, 0.8, 0.95), (0.15, 0.7, 0.85), (0.1, 0.15, 0.4)),
    "brown": ((0.45, 0.28, 0.12), (0.6, 0.4, 0.22), (0.3, 0.18, 0.08)),
    "grey": ((0.5, 0.5, 0.5), (0.7, 0.7, 0.7), (0.32, 0.32, 0.34)),
    "green": ((0.1, 0.6, 0.15), (0.35, 0.75, 0.3), (0.1, 0.35, 0.12), (0.55, 0.8, 0.25), (0.15, 0.75, 0.55)),
    "orange": ((0.95, 0.55, 0.1), (0.9, 0.6, 0.3)),
    "pink": ((0.95, 0.6, 0.75), (0.9, 0.35, 0.65), (0.95, 0.75, 0.8)),
    "purple": ((0.5, 0.15, 0.6), (0.6, 0.4, 0.85), (0.35, 0.15, 0.65)),
    "red": ((0.85, 0.1, 0.1), (0.6, 0.08, 0.1), (0.85, 0.3, 0.25)),
    "white": ((1.0, 1.0, 1.0), (0.93, 0.93, 0.9)),
    "yellow": ((0.95, 0.9, 0.15), (0.9, 0.85, 0.45)),
}


def hsv(hue: Value, saturation: Value, value: Value) -> Float[Tensor, "n 3"]:
    """Colours, from hue (0…1 around the circle, 0 red, 1/3 green), saturation and value."""
    parts = [torch.as_tensor(part, dtype=torch.float32) for part in (hue, saturation, value)]
    h, s, v = (part.reshape(-1, 1) for part in torch.broadcast_tensors(*parts))
    turn = (h * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6
    dip = torch.minimum(turn, 4 - turn).clamp(0, 1)
    return v * (1 - s * dip)


def rgb(*value: float | int) -> Float[Tensor, "1 3"]:
    """One colour for all images."""
    return torch.tensor([value], dtype=torch.float32)


def lab(colours: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """CIELAB (D65) of sRGB colours of 0…1."""
    linear = torch.where(colours > 0.04045, ((colours.clamp(min=0) + 0.055) / 1.055) ** 2.4, colours / 12.92)
    to_xyz = torch.tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
        dtype=colours.dtype,
        device=colours.device,
    )
    ratio = (linear @ to_xyz.T) / torch.tensor([0.95047, 1.0, 1.08883], dtype=colours.dtype, device=colours.device)
    f = torch.where(ratio > (6 / 29) ** 3, ratio.clamp(min=1e-9) ** (1 / 3), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def name_colours(colours: Float[Tensor, "*shape 3"]) -> Int[Tensor, "*shape"]:
    """The basic name of each sRGB colour, as its place in COLOURS."""
    owners = [COLOURS.index(name) for name, typical in TYPICAL.items() for _ in typical]
    anchors = lab(torch.tensor([value for typical in TYPICAL.values() for value in typical]))
    flat = lab(colours.float()).reshape(-1, 3)
    nearest = torch.cdist(flat, anchors.to(flat.device), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    return torch.tensor(owners, device=flat.device)[nearest].reshape(colours.shape[:-1])
