"""Images in a folder of your own, with their classes, splits and masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadImage, BadInput, NotFound, nearest
from glasshouse.core.model import CropMode, Preprocess
from glasshouse.core.photo import read_photo
from glasshouse.core.result import Noun
from glasshouse.core.types import Progress
from glasshouse.data.listing import Entry, list_folder
from glasshouse.data.manifests import list_manifest
from glasshouse.data.masks import fit_mask, pair_masks, read_mask

Which: TypeAlias = Sequence[int] | Shaped[Tensor, " k"] | Callable[[Entry], bool]
"""Indices, a bool for every item, or a function that says which entries to keep."""


@dataclass(frozen=True, repr=False)
class FolderCheck(Noun):
    """Which items of a folder cannot be read, and why: reasons by id."""

    n_images: int
    problems: dict[str, str]

    def __repr__(self) -> str:
        if self.ok:
            return f"FolderCheck(all {self.n_images} images can be read)"
        name, reason = next(iter(self.problems.items()))
        return f"FolderCheck({len(self.problems)} of {self.n_images} images cannot be read; {name!r}: {reason})"

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, eq=False, repr=False)
class Folder:
    """Images in files, read when they are asked for.

    An item is a dictionary: `image` (float32 `3 h w`, 0…1), `target` (int64, -1 where there is no class) and, where
    there are masks, `mask` (int64 `h w`). With a size all items stack into batches.

    Attributes:
        class_names: by number; empty where there are no classes, or only their numbers.
        fit: how images and masks get one size; None leaves them as they are.
        chosen: sentences that say what was found rather than given.
    """

    path: Path
    entries: tuple[Entry, ...]
    class_names: tuple[str, ...] = ()
    fit: Preprocess | None = None
    has_masks: bool = False
    chosen: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        entry = self.entries[index]
        photo = read_photo(entry.image)
        item = {"image": self._pixels(entry, photo), "target": torch.tensor(entry.target)}
        return {**item, "mask": self._mask(entry, photo)} if self.has_masks else item

    def __repr__(self) -> str:
        parts = [f"{len(self)} images"]
        parts += [f"{len(self.class_names)} classes"] if self.class_names else []
        parts += ["masks"] if self.has_masks else []
        parts += [f"{self.fit.size[0]} x {self.fit.size[1]} px"] if self.fit else []
        return f"Folder({self.path.resolve().name}: {', '.join(parts)})"

    @property
    def ids(self) -> tuple[str, ...]:
        """A name for each image: its path from the folder on, or what the manifest calls it."""
        return tuple(entry.id for entry in self.entries)

    @property
    def targets(self) -> Int[Tensor, " n"]:
        """Number of the class of each image, -1 where it has none; no image is read for it."""
        return torch.tensor([entry.target for entry in self.entries])

    def subset(self, which: Which) -> "Folder":
        """Some of the images, with the ids they have here."""
        if callable(which):
            rows = [row for row, entry in enumerate(self.entries) if which(entry)]
        else:
            rows = torch.arange(len(self))[torch.as_tensor(which)].tolist() if len(which) else []
        if not rows:
            raise BadInput(f"the subset of {self!r} is empty.", "Give at least one index, or a function that holds.")
        sentence = f"subset: {len(rows)} of {len(self)} images."
        return replace(self, entries=tuple(self.entries[row] for row in rows), chosen=(*self.chosen, sentence))

    def split(self, name: str) -> "Folder":
        """The images of one split, as the folders or the manifest name it."""
        names = sorted({entry.split for entry in self.entries} - {""})
        if name not in names:
            raise NotFound(f"no split '{name}' in {self!r}.", nearest(name, names))
        return self.subset(lambda entry: entry.split == name)

    def check(self, *, progress: Progress | None = None) -> FolderCheck:
        """Reads every item once, and lists all that cannot be read."""
        problems: dict[str, str] = {}
        for index, entry in enumerate(self.entries):
            try:
                self[index]
            except Exception as error:
                problems[entry.id] = str(error) or type(error).__name__
            if progress:
                progress(index + 1, len(self))
        return FolderCheck(len(self), problems)

    def _pixels(self, entry: Entry, photo: Image.Image) -> Float[Tensor, "3 h w"]:
        if self.fit is None:
            return torch.from_numpy(np.asarray(photo, np.float32) / 255).permute(2, 0, 1).contiguous()
        try:
            return self.fit(photo)[0]
        except BadImage as error:
            raise BadImage(f"'{entry.image}' does not fit: {error.message}", error.hint) from error

    def _mask(self, entry: Entry, photo: Image.Image) -> Int[Tensor, "h w"]:
        if entry.mask is None:
            raise BadImage(f"'{entry.image}' has no mask, and others have one.", "Add it, or leave the image out.")
        mask = read_mask(entry.mask)
        if mask.shape != (photo.height, photo.width):
            raise BadImage(
                f"the mask '{entry.mask}' has {mask.shape[0]} x {mask.shape[1]} px, its image (upright) "
                f"{photo.height} x {photo.width}.",
                "Draw masks on the upright image, at its size.",
            )
        return fit_mask(mask, self.fit) if self.fit else mask


def folder(
    path: str | Path,
    *,
    manifest: str | Path | None = None,
    masks: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    crop: CropMode = "center",
    class_names: Sequence[str] | None = None,
    on_skip: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
) -> Folder:
    """The images in a folder, with the classes, splits and masks that go with them.

    Without a manifest, the first folder on an image's path names its class, and classes are numbered in alphabetical
    order, as in torchvision. Where all these folders have names such as `train` and `val`, they are splits, and
    classes are named one level below. What was found is written in `chosen`.

    Args:
        manifest: a `.csv` file with a header or a `.jsonl` file, in the folder or elsewhere. Its columns: `image`,
            and any of `label` (name or number), `mask`, `split`, `id`. Paths in it count from where it lies.
        masks: folder, in this one or elsewhere, with a PNG, BMP or TIFF file for each image: at the same place, of
            the same name but for the suffix, and of the same size.
        size: height and width in pixels, or one number for both; None leaves every image its own.
        crop: `center` keeps proportions and cuts off what is beyond, `squash` keeps all of the image, `none` accepts
            only images that already have `size`.
        class_names: names by number, where the classes of the folder are only some or are in another order.
        on_skip: called with id and reason for each image that cannot be read, which is then left out; all are read
            once for this. Without it, such an image is an error when it is asked for.
        progress: called with (images read, images in all) while `on_skip` waits for them.
    """
    root = Path(path)
    if not root.is_dir():
        names = sorted(entry.name for entry in root.parent.iterdir() if entry.is_dir()) if root.parent.is_dir() else []
        raise NotFound(f"no folder '{root}'.", nearest(root.name, names))
    if isinstance(class_names, str) or len(set(class_names or ())) < len(class_names or ()):
        raise BadInput(f"class_names={class_names!r} is no list of different names.", "Write ['cat', 'dog'].")
    mask_folder = None if masks is None else _place(root, masks)
    if mask_folder is not None and mask_folder.resolve() == root.resolve():
        raise BadInput(f"masks and images lie in one folder, '{root}'.", "Keep the masks in a folder of their own.")
    if manifest is None:
        entries, names, chosen = list_folder(root, class_names, mask_folder)
    else:
        entries, names, chosen = list_manifest(_place(root, manifest), root, class_names)
    if mask_folder is not None:
        if any(entry.mask for entry in entries):
            raise BadInput("masks= is given, and the manifest has a column mask.", "Leave one of them out.")
        entries = pair_masks(entries, root, mask_folder)
    n_masks = sum(entry.mask is not None for entry in entries)
    fit = None
    if size is not None:
        size = (size, size) if isinstance(size, int) else size
        fit = Preprocess(size=size, mean=(0.0,) * 3, std=(1.0,) * 3, crop_mode=crop)
    chosen += ["classes: given."] if class_names is not None else []
    chosen += [f"masks: {n_masks} of {len(entries)} images have one."] if n_masks else []
    found = Folder(root, tuple(entries), names, fit, n_masks > 0, tuple(chosen))
    return found if on_skip is None else _readable(found, on_skip, progress)


def _place(root: Path, given: str | Path) -> Path:
    """In the folder if there is such a file, else as it was given."""
    return root / given if (root / given).exists() else Path(given)


def _readable(found: Folder, on_skip: Callable[[str, str], None], progress: Progress | None) -> Folder:
    problems = found.check(progress=progress).problems
    if len(problems) == len(found):
        name, reason = next(iter(problems.items()))
        raise BadInput(f"none of the {len(found)} images can be read; the first is {name!r}: {reason}")
    for name, reason in problems.items():
        on_skip(name, reason)
    if not problems:
        return found
    kept = found.subset(lambda entry: entry.id not in problems)
    sentence = f"left out: {len(problems)} of {len(found)} images, which cannot be read."
    return replace(kept, chosen=(*found.chosen, sentence))
