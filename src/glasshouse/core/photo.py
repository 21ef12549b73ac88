"""Reading photographs from files that may be broken, huge, odd or hostile.

Whatever the file holds, what comes out is an upright 8-bit RGB image, or a `BadImage` that says why not.
"""

import glob
import os
import re
import struct
import warnings
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, ImageOps
from torch import Tensor

from glasshouse.core.errors import BadImage, BadInput, nearest

Photo: TypeAlias = str | Path | Image.Image | Shaped[Tensor, "..."]
"""A file, a Pillow image, or a tensor `c h w` (uint8, or float in 0…1)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000

BROKEN = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error)
"""What Pillow raises when a decoder meets bytes that it did not expect."""


class PhotoWarning(UserWarning):
    """A photograph was read, but not all of it."""


def read_photo(path: str | Path) -> Image.Image:
    """The photograph in a file, upright, as 8-bit RGB.

    The camera's EXIF orientation is applied. Transparency is laid over white. CMYK is converted without its
    colour profile. 16-bit values are scaled to 8 bits, not clipped. Of an animation or of several pages the
    first is taken, with a `PhotoWarning`. Only JPEG, PNG, WEBP, GIF, BMP and TIFF files are opened.
    """
    path = Path(path)
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.width * image.height, f"{image.width} x {image.height} px, ")
            n_frames = getattr(image, "n_frames", 1)
            image.load()
            upright = ImageOps.exif_transpose(image)
            has_more = n_frames > 1 and image.format != "MPO"  # phones append a preview to a plain JPEG
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        digits = re.search(r"\((\d+) pixels\)", str(error))
        _check_size(path, int(digits[1]) if digits else 2 * MAX_PIXELS)
        raise
    except Image.UnidentifiedImageError:
        raise _not_an_image(path) from None
    except BROKEN as error:
        raise BadImage(
            f"'{path}' is damaged or cut short: {error}.", "Fetch or export it again, or leave it out."
        ) from error
    if has_more:
        warnings.warn(f"'{path}' holds {n_frames} images; the first was read.", PhotoWarning, stacklevel=2)
    return to_rgb(upright, str(path))


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Any Pillow image as 8-bit RGB: transparency over white, 16-bit values scaled; `name` is for errors."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float64) / 257  # 65535 = 255 * 257
        return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage(
            f"{name} holds 32-bit numbers (mode '{image.mode}'), which have no agreed white.",
            "Save it with 8 or 16 bits per channel.",
        )
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except BROKEN as error:
        raise BadImage(
            f"{name} has colours of mode '{image.mode}', which do not convert to RGB.", "Save it as RGB."
        ) from error


def to_planes(photo: Photo, mode: Literal["RGB", "L"]) -> tuple[list[Image.Image], int]:
    """The channels of a photograph, each a Pillow image, and the value that means white.

    Float tensors stay float: nothing is rounded to 8 bits.
    """
    if isinstance(photo, str | Path):
        return list(read_photo(photo).convert(mode).split()), 255
    if isinstance(photo, Image.Image):
        return list(to_rgb(photo).convert(mode).split()), 255
    if photo.ndim != 3 or photo.shape[0] not in (1, 3) or not photo.numel():
        raise BadInput(
            f"a photograph is c h w with 1 or 3 channels, not {tuple(photo.shape)}.",
            "From h w c, use tensor.permute(2, 0, 1).",
        )
    photo = photo.detach().cpu()
    if photo.dtype == torch.uint8:
        array = photo.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        return list(Image.fromarray(array).convert(mode).split()), 255
    if not photo.is_floating_point():
        raise BadInput(f"a photograph is uint8, or float in 0…1, not {photo.dtype}.", "Use tensor.to(torch.uint8).")
    low, high = float(photo.min()), float(photo.max())
    if not (low >= 0 and high <= 1):
        raise BadInput(
            f"a float photograph lies in 0…1, not {low:.3g}…{high:.3g}.",
            "Divide by 255, or undo a normalisation with Preprocess.pixels first.",
        )
    photo = photo.float().expand(3, -1, -1)
    if mode == "L":
        weights = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow
        photo = torch.einsum("c,chw->hw", weights, photo)[None]
    return [Image.fromarray(channel) for channel in photo.contiguous().numpy()], 1


def find_photos(path: str | Path) -> list[Path]:
    """The photographs in a file, a folder (with all below it) or a pattern such as `cats/*.jpg`, sorted."""
    path = Path(path)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        seen = "the folder"
    elif glob.has_magic(str(path)):
        files = (Path(name) for name in glob.glob(str(path), recursive=True))
        seen = "the pattern"
    else:
        raise _no_such_file(path)
    photos = sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
    if not photos:
        kinds = ", ".join(sorted(SUFFIXES))
        raise BadImage(f"{seen} '{path}' holds no photographs.", f"Looked for files that end in {kinds}.")
    return photos


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise BadImage(f"'{path}' is a folder, not a photograph.", "Use find_photos(folder) to list what is in it.")
    if not path.is_file():
        raise _no_such_file(path)
    if not path.stat().st_size:
        raise BadImage(f"'{path}' is empty (0 bytes).", "Fetch or export it again, or leave it out.")


def _check_size(path: Path, n_pixels: int, seen: str = "") -> None:
    if n_pixels > MAX_PIXELS:
        raise BadImage(
            f"'{path}' is too large: {seen}{n_pixels / 1e6:.1f} Mpx.",
            f"At most {MAX_PIXELS / 1e6:.0f} Mpx are read. Shrink it first.",
        )


def _no_such_file(path: Path) -> BadImage:
    if not path.parent.is_dir():
        return BadImage(f"no file '{path}': its folder does not exist either.", "Check the path.")
    neighbours = sorted(entry.name for entry in path.parent.iterdir())
    return BadImage(f"no file '{path.name}' in '{path.parent}'.", nearest(path.name, neighbours))


def _not_an_image(path: Path) -> BadImage:
    with path.open("rb") as file:
        start = file.read(12)
    return BadImage(
        f"'{path}' is no recognisable image: it begins with {start!r}.",
        f"Readable are {', '.join(FORMATS)}. Convert it to PNG or JPEG, or fetch it again.",
    )
