"""Masks that say for every pixel of an image what is there, as whole numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageOps
from torch import Tensor

from glasshouse.core.errors import BadImage, BadInput
from glasshouse.core.model import Preprocess
from glasshouse.core.photo import BROKEN, MAX_PIXELS
from glasshouse.data.listing import Entry, relative, walk

FORMATS = ("PNG", "BMP", "TIFF")
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
WHOLE = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Pillow's modes that hold one whole number per pixel."""


def pair_masks(entries: Sequence[Entry], root: Path, folder: Path) -> list[Entry]:
    """The same entries with their masks: below `folder` at the image's place below `root`, under another suffix."""
    if not folder.is_dir():
        raise BadInput(f"the folder of masks '{folder}' does not exist.", "Check the path.")
    found: dict[str, list[Path]] = {}
    for path in walk(folder):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(_stem(relative(path, folder)), []).append(path)
    places = [_stem(relative(entry.image, root)) for entry in entries]
    for place in places:
        if len(found.get(place, [])) > 1:
            raise BadInput(
                f"'{found[place][0]}' and '{found[place][1]}' are masks of one image.", "Leave one of them in place."
            )
    if not any(place in found for place in places):
        raise BadInput(
            f"none of the {len(entries)} images has a mask in '{folder}'.",
            f"The first would be '{folder / places[0]}{SUFFIXES[0]}' (or {', '.join(SUFFIXES[1:])}).",
        )
    return [
        replace(entry, mask=found[place][0]) if place in found else entry
        for entry, place in zip(entries, places, strict=True)
    ]


def read_mask(path: Path) -> Int[Tensor, "h w"]:
    """The numbers in an image file: its levels of grey, or the places in its palette."""
    if not path.is_file():
        raise BadImage(f"no mask '{path}'.", "Check the path.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(
                    f"'{path}' is too large: {image.width} x {image.height} px.",
                    f"At most {MAX_PIXELS / 1e6:.0f} Mpx are read. Shrink it first.",
                )
            image.load()
            upright = ImageOps.exif_transpose(image)
    except BadImage:
        raise
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(
            f"'{path}' cannot be read as a mask: {error}.", f"Readable are {', '.join(FORMATS)} that are whole."
        ) from error
    if upright.mode not in WHOLE:
        raise BadImage(
            f"the mask '{path}' holds colours (mode '{upright.mode}'), not one whole number per pixel.",
            "Save it in grey or with a palette.",
        )
    return torch.from_numpy(np.asarray(upright).astype(np.int64))


def fit_mask(mask: Int[Tensor, "h w"], fit: Preprocess) -> Int[Tensor, "i j"]:
    """The mask resized and cropped as `fit` does it to the image, each pixel that of the nearest centre."""
    height, width = mask.shape
    (h, w), (top, left) = fit._layout(height, width)
    rows = (2 * torch.arange(top, top + fit.size[0]) + 1) * height // (2 * h)
    columns = (2 * torch.arange(left, left + fit.size[1]) + 1) * width // (2 * w)
    return mask[rows[:, None], columns]


def _stem(place: str) -> str:
    return PurePosixPath(place).with_suffix("").as_posix()
