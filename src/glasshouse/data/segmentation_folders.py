"""A folder of photographs and folders of masks, as labelled images."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadImage, BadInput, nearest
from glasshouse.core.image import resize
from glasshouse.core.labelled import resize_labels
from glasshouse.core.photo import BROKEN, find_photos
from glasshouse.data.segmentation_export import LabelledImage
from glasshouse.data.segmentation_pngs import read_pixels


def labelled_images(
    images: str | os.PathLike[str],
    masks: Mapping[str, str | os.PathLike[str]],
    *,
    size: tuple[int, int] | None = None,
    plane_size: tuple[int, int] | None = None,
    void: int | None = None,
    on_skip: Callable[[str, str], None] | None = None,
) -> Iterator[LabelledImage]:
    """Each image of a folder with its masks, ready for `export_broden`.

    The mask of `images/a/1.jpg` is `a/1.png` in the folder of its category. Masks are PNG files with one number
    for each pixel, grey (8 or 16 bits) or with a palette, whose colours do not matter. An image without a mask in
    a category has nothing marked there. Transparency and orientation are treated as in `read_photo`.

    Args:
        images: a folder, with all below it.
        masks: for each category, the folder with its masks.
        size: height and width to resize images to (antialiased).
        plane_size: height and width to resize masks to (nearest neighbour); needed where an image has several
            masks of different sizes.
        void: mask value that means no label, beside 0; many data sets use 255.
        on_skip: called with name and reason for each image that cannot be read, or has a mask that cannot; without
            it, that is an error.
    """
    root = Path(images)
    if not root.is_dir():
        raise BadInput(f"no folder '{root}'.", "Give the folder that holds the images.")
    photos = {photo.relative_to(root): photo for photo in find_photos(root)}
    if not masks:
        raise BadInput("masks names no category.", 'Give one, such as {"object": "masks"}.')
    for category, folder in masks.items():
        if not Path(folder).is_dir():
            raise BadInput(f"no folder '{folder}' for the masks of '{category}'.")
        if not any((Path(folder) / name.with_suffix(".png")).is_file() for name in photos):
            seen = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.png"))
            wanted = next(iter(photos)).with_suffix(".png").as_posix()
            raise BadInput(f"no mask in '{folder}' is called like an image, such as '{wanted}'.", nearest(wanted, seen))
    return _read(root.resolve().name, photos, masks, size, plane_size, void, on_skip)


def _read(
    source: str,
    photos: Mapping[Path, Path],
    masks: Mapping[str, str | os.PathLike[str]],
    size: tuple[int, int] | None,
    plane_size: tuple[int, int] | None,
    void: int | None,
    on_skip: Callable[[str, str], None] | None,
) -> Iterator[LabelledImage]:
    for name, photo in photos.items():
        try:
            pixels = read_pixels(photo)
            planes: dict[str, list[Tensor]] = {}
            for category, folder in masks.items():
                file = Path(folder) / name.with_suffix(".png")
                if file.is_file():
                    mask = read_mask(file)
                    mask = torch.where(mask == void, 0, mask) if void is not None else mask
                    planes[category] = [resize_labels(mask, plane_size) if plane_size else mask]
        except BadImage as error:
            if on_skip is None:
                raise
            on_skip(name.as_posix(), str(error))
            continue
        if size:
            pixels = resize(pixels[None], size)[0]
        values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        suffix = name.suffix if name.suffix.lower() in (".jpg", ".jpeg") else ".png"
        parent = name.parent.as_posix() if name.parent.parts else source
        yield LabelledImage(f"{parent}/{name.stem}{suffix}", values, planes)


def read_mask(path: Path) -> Int[Tensor, "h w"]:
    """The numbers in a PNG that holds one for each pixel, grey or with a palette."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise BadImage(
                    f"the mask '{path}' has colours (mode '{image.mode}') where one number for each pixel is due.",
                    "Save it as grey or with a palette, pixel values being places in the list of names.",
                )
            return torch.from_numpy(np.array(image).astype(np.int64))
    except BadImage:
        raise
    except BROKEN as error:
        raise BadImage(f"the mask '{path}' is damaged, or no PNG: {error}.") from error
