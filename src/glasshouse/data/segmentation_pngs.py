"""Label maps as files: a PNG whose red and green channels hold one label number for each pixel.

number = red + 256 green,   blue = 0
"""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadImage, BadInput
from glasshouse.core.photo import BROKEN, read_photo

LAST = 65535
"""The largest label number that two channels can hold."""

KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with transparency", 6: "RGB with transparency"}
"""The colour types of PNG."""


def encode_labels(numbers: Integer[Tensor, "h w"]) -> UInt8[Tensor, "h w 3"]:
    """Label numbers (0…65535) as red, green and blue."""
    wide = numbers.long()
    if wide.numel() and not (int(wide.min()) >= 0 and int(wide.max()) <= LAST):
        raise BadInput(f"label numbers lie in 0…{LAST}, not {int(wide.min())}…{int(wide.max())}.")
    return torch.stack([wide % 256, wide // 256, torch.zeros_like(wide)], 2).to(torch.uint8)


def decode_labels(pixels: UInt8[Tensor, "h w 3"]) -> Int[Tensor, "h w"]:
    """Label numbers from red and green; the inverse of `encode_labels`."""
    return pixels[..., 0].long() + 256 * pixels[..., 1].long()


def write_labels(numbers: Integer[Tensor, "h w"], path: Path, *, compress_level: int = 6) -> None:
    """Write one label map."""
    Image.fromarray(encode_labels(numbers).numpy()).save(path, "PNG", compress_level=compress_level)


def read_labels(path: Path, size: tuple[int, int]) -> Int[Tensor, "h w"]:
    """Read one label map, which must have this height and width."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot read the label map '{path}': {error.strerror}.") from error
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 26:
        raise BadImage(f"the label map '{path}' is no PNG: it begins with {content[:8]!r}.")
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    if (depth, kind) != (8, 2):
        raise BadImage(
            f"the label map '{path}' is {depth}-bit {KINDS.get(kind, 'PNG of unknown kind')}, not 8-bit RGB.",
            "Label maps hold red + 256 * green; convert index-valued masks with labelled_images and export_broden.",
        )
    if (height, width) != size:
        raise BadImage(
            f"the label map '{path}' has {height} x {width} px, and its index {size[0]} x {size[1]}.",
            "Put the true size into the columns sh and sw.",
        )
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            pixels = torch.from_numpy(np.array(image))
    except BROKEN as error:
        raise BadImage(f"the label map '{path}' is damaged or cut short: {error}.") from error
    if pixels[..., 2].any():
        raise BadImage(f"the label map '{path}' uses its blue channel, which is 0 in label maps.")
    return decode_labels(pixels)


def read_pixels(path: Path, size: tuple[int, int] | None = None) -> Float[Tensor, "3 h w"]:
    """A photograph as pixels in 0…1, which must have this height and width if one is given."""
    image = read_photo(path)
    if size is not None and (image.height, image.width) != size:
        raise BadImage(
            f"'{path}' has {image.height} x {image.width} px, and its index {size[0]} x {size[1]}.",
            "Put the true size into the columns ih and iw.",
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
