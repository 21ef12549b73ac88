"""Images in IDX files, the format of MNIST and of the data sets that took its place.

A file holds one array: two bytes 0, a code for the type of number, the number of axes, the length of each axis
(4 bytes, big-endian), then the numbers, big-endian, the last axis fastest. LeCun, Cortes and Burges, "The MNIST
database of handwritten digits", 1998. It may be gzipped.
"""

import gzip
import hashlib
import io
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from glasshouse.core.errors import BadInput, MissingPackage, NotFound, nearest
from glasshouse.data.debian import read_deb

Split: TypeAlias = Literal["train", "test"]

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type of number by its code in the third byte."""

CHUNK = 1 << 20
"""Bytes read at a time, so that a header cannot ask for memory that the file does not fill."""

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
PUBLISHED = {
    "train": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "test": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
"""SHA-256 of the labels of Fashion-MNIST, one byte each. MNIST has files of the same names."""

STEMS = {"train": "train", "test": "t10k"}
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""

CACHE_VARIABLE = "GLASSHOUSE_REAL_DATA"
PACKAGE = "dataset-fashion-mnist_*.deb"
BELOW = (".", "raw", "FashionMNIST/raw")
"""Where in a folder the files may lie; the last is torchvision's habit."""


@dataclass(frozen=True, eq=False, repr=False)
class IdxImages:
    """Grey images of one size, all in memory.

    An item is a dictionary: `image` (float32 `1 h w`, 0…1) and `target` (int64, -1 where there are no labels).

    Attributes:
        positions: where in the file each image lies; `ids` are made of these, and stay with the images.
        chosen: sentences that say what was found rather than given.
    """

    name: str
    images: UInt8[Tensor, "n 1 h w"]
    targets: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    class_names: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index].float() / 255, "target": self.targets[index]}

    def __repr__(self) -> str:
        n, _, h, w = self.images.shape
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"IdxImages({self.name}: {n} images of {h} x {w} px{classes})"

    @property
    def ids(self) -> tuple[str, ...]:
        """A name for each image, such as `train/00042`."""
        return tuple(f"{self.name}/{position:05d}" for position in self.positions.tolist())

    def subset(self, which: Sequence[int] | Shaped[Tensor, " k"]) -> "IdxImages":
        """Some of the images, with the ids they have here: indices, or a bool for every image."""
        rows = torch.arange(len(self))[torch.as_tensor(which)] if len(which) else torch.arange(0)
        if not len(rows):
            raise BadInput(f"the subset of {self!r} is empty.", "Give at least one index.")
        parts = {name: getattr(self, name)[rows] for name in ("images", "targets", "positions")}
        return replace(self, **parts, chosen=(*self.chosen, f"subset: {len(rows)} of {len(self)} images."))


def fashion_mnist(path: str | Path | None = None, *, split: Split = "train", limit: int | None = None) -> IdxImages:
    """Articles of clothing, 28 x 28 px, ten classes of equal size: 60,000 to train on and 10,000 to test with.

    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
    arXiv:1708.07747, 2017.

    Args:
        path: folder with the published files, gzipped or not, or Debian's package as a `.deb` file. None looks
            where Debian installs `dataset-fashion-mnist`, then in the folder that `$GLASSHOUSE_REAL_DATA` names.
        limit: number of images to keep, from the first on; they come in no particular order.
    """
    if split not in get_args(Split):
        raise NotFound(f"no split '{split}' of Fashion-MNIST.", nearest(str(split), get_args(Split)))
    place = _installed() if path is None else Path(path)
    images, labels = (_stored(place, f"{STEMS[split]}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    found = _paired(images, labels, FASHION)
    same = hashlib.sha256(found.targets.to(torch.uint8).numpy().tobytes()).hexdigest() == PUBLISHED[split]
    chosen = (
        f"files: '{images[1]}' and '{labels[1]}'.",
        f"labels: {'the published ones' if same else 'not those of the published ' + split + ' split'}.",
    )
    return _first(replace(found, name=split, chosen=chosen), limit)


def idx_images(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    class_names: Sequence[str] = (),
    limit: int | None = None,
) -> IdxImages:
    """Images `n h w` of type unsigned byte from one IDX file, and their labels from another; as MNIST has them.

    Args:
        limit: number of images to keep, from the first on.
    """
    second = None if labels is None else (read_idx(labels), str(labels))
    found = _paired((read_idx(images), str(images)), second, tuple(class_names))
    chosen = "labels: none were given." if labels is None else f"labels: from '{labels}'."
    return _first(replace(found, name=Path(images).name.split(".")[0], chosen=(chosen,)), limit)


def read_idx(path: str | Path) -> Shaped[Tensor, "..."]:
    """The array in an IDX file, gzipped or not, with its own type of number."""
    path = Path(path)
    if not path.is_file():
        names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        raise NotFound(f"no IDX file '{path}'.", nearest(path.name, names))
    with path.open("rb") as stream:
        return _parse(stream, str(path))


def _parse(stream: io.BufferedIOBase, name: str) -> Tensor:
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    try:
        return _array(gzip.GzipFile(fileobj=stream) if packed else stream, name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"'{name}' is damaged or cut short: {error}.", "Fetch it again.") from error


def _array(stream: io.BufferedIOBase, name: str) -> Tensor:
    magic = bytes(_read(stream, 4))
    dtype, n_axes = (DTYPES.get(magic[2]), magic[3]) if len(magic) == 4 else (None, 0)
    if magic[:2] != b"\0\0" or dtype is None or not n_axes:
        codes = ", ".join(f"{code:02x}" for code in DTYPES)
        raise BadInput(
            f"'{name}' is no IDX file: it begins with {magic.hex(' ') or 'nothing'}.",
            f"At byte 0 there are two 00, one of {codes}, then the number of axes. Fetch it again.",
        )
    lengths = _read(stream, 4 * n_axes)
    if len(lengths) < 4 * n_axes:
        raise BadInput(
            f"'{name}' ends at byte {4 + len(lengths)}, within the lengths of its {n_axes} axes.", "Fetch it again."
        )
    shape, start = struct.unpack(f">{n_axes}I", lengths), 4 + 4 * n_axes
    due = prod(shape) * np.dtype(dtype).itemsize
    data = _read(stream, due)
    if len(data) < due:
        raise BadInput(
            f"'{name}' is cut short: its header promises {' x '.join(map(str, shape))} numbers, {due} bytes from "
            f"byte {start} on, and there are {len(data)}.",
            "Fetch it again.",
        )
    if stream.read(1):
        raise BadInput(
            f"'{name}' goes on after byte {start + due}, where its header ({' x '.join(map(str, shape))}) ends it.",
            "Fetch it again.",
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _read(stream: io.BufferedIOBase, n_bytes: int) -> bytearray:
    data = bytearray()
    while len(data) < n_bytes and (part := stream.read(min(n_bytes - len(data), CHUNK))):
        data += part
    return data


def _paired(images: tuple[Tensor, str], labels: tuple[Tensor, str] | None, class_names: tuple[str, ...]) -> IdxImages:
    """A data set from the arrays of two files, each with the file's name."""
    pixels, name = images
    if pixels.ndim != 3 or pixels.dtype != torch.uint8 or not pixels.numel():
        swapped = labels is not None and pixels.ndim == 1 and labels[0].ndim == 3
        raise BadInput(
            f"'{name}' holds {_described(pixels)} where images n h w of unsigned bytes are due.",
            "The two files are swapped." if swapped else "Check which file holds the images.",
        )
    targets = torch.full((len(pixels),), -1)
    if labels is not None:
        numbers, label_name = labels
        if numbers.ndim != 1 or numbers.is_floating_point():
            raise BadInput(
                f"'{label_name}' holds {_described(numbers)} where labels n of whole numbers are due.",
                "Check which file holds the labels.",
            )
        if len(numbers) != len(pixels):
            raise BadInput(
                f"'{name}' holds {len(pixels)} images and '{label_name}' {len(numbers)} labels.",
                "Take both files from the same split.",
            )
        targets = numbers.long()
        wrong = (targets < 0) | (targets >= (len(class_names) or torch.inf))
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise BadInput(
                f"'{label_name}' gives image {first} the label {int(targets[first])}.",
                f"Labels count from 0{f' to {len(class_names) - 1}' if class_names else ' upwards'}.",
            )
    return IdxImages("", pixels[:, None], targets, torch.arange(len(pixels)), class_names)


def _described(array: Tensor) -> str:
    return f"{' x '.join(map(str, array.shape))} numbers ({str(array.dtype).removeprefix('torch.')})"


def _first(images: IdxImages, limit: int | None) -> IdxImages:
    if limit is None or limit >= len(images):
        return images
    if limit < 1:
        raise BadInput(f"limit={limit} leaves no images.", "Give 1 or more, or None for all.")
    return images.subset(range(limit))


def _installed() -> Path:
    """Where Fashion-MNIST lies on this machine."""
    folder = os.environ.get(CACHE_VARIABLE)
    places = [INSTALLED, *([*sorted(Path(folder).glob(PACKAGE)), Path(folder)] if folder else [])]
    for place in places:
        if place.is_file() or _below(place, "train-images-idx3-ubyte"):
            return place
    seen = f"'{folder}'" if folder else "which is not set"
    raise MissingPackage(
        f"Fashion-MNIST is neither in '{INSTALLED}' nor in the folder that ${CACHE_VARIABLE} names ({seen}).",
        "On Debian or Ubuntu type: sudo apt-get install dataset-fashion-mnist. Elsewhere fetch its four .gz files and "
        "pass path= with their folder.",
    )


def _below(folder: Path, stem: str) -> Path | None:
    """The file called `stem`, gzipped or not, in one of the usual places."""
    names = [f"{name}{end}" for name in (stem, stem.replace("-idx", ".idx")) for end in ("", ".gz")]
    paths = (folder / below / name for below in BELOW for name in names)
    return next((path for path in paths if path.is_file()), None)


def _stored(place: Path, stem: str) -> tuple[Tensor, str]:
    """The array of one of the four files, and what to call the file."""
    if place.is_file():
        members = read_deb(place, f"{stem}.gz")
        if not members:
            raise NotFound(f"the package '{place}' holds no '{stem}.gz'.", f"It should be {PACKAGE}.")
        (member, content), *_ = members.items()
        name = f"{place}:{member.removeprefix('./')}"
        return _parse(io.BytesIO(content), name), name
    if not place.is_dir():
        raise NotFound(f"no folder '{place}'.", "Check the path, or leave it out to use the installed package.")
    found = _below(place, stem)
    if found is None:
        names = sorted(entry.name for entry in place.iterdir())
        raise NotFound(f"no '{stem}' in '{place}', with or without .gz.", nearest(stem, names))
    return read_idx(found), str(found)
