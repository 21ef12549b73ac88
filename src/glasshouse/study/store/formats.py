"""The two formats of a study that are its own affair: arrays that are mapped, and packs of encoded pictures."""

import io
import os
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from glasshouse.core.errors import BadInput
from glasshouse.core.result import Noun

_NO_HEADER = (ValueError, TypeError, SyntaxError, TokenError, EOFError, MemoryError, RecursionError)
_CHECK = "Run `glasshouse check` on the study."


def write_array(file: BinaryIO, values: Tensor | NDArray[Any]) -> None:
    """One `.npy`, row after row. There is no bfloat16 in it, so that becomes float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if values.dtype.kind not in "biufc":
        raise BadInput(f"an array of {values.dtype} cannot be kept.", "Use numbers or truth values.")
    npy.write_array(file, np.ascontiguousarray(values).reshape(values.shape), allow_pickle=False)


def open_array(path: Path) -> NDArray[Any]:
    """The array in a file, mapped and read-only, once its header is found to agree with the file's length."""
    with path.open("rb") as file:
        try:
            version = npy.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version}")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, by_columns, dtype = read(file)
        except _NO_HEADER as error:
            raise BadInput(f"'{path}' is damaged: its header is not one of NumPy's ({error}).", _CHECK) from error
        if dtype.kind not in "biufc" or min(shape, default=0) < 0:
            raise BadInput(f"'{path}' is damaged: it holds {dtype} {shape}, not numbers.", _CHECK)
        start, length = file.tell(), os.fstat(file.fileno()).st_size
        if length != (due := start + prod(shape) * dtype.itemsize):
            raise BadInput(f"'{path}' is damaged: {length} bytes, where {dtype} {shape} takes {due}.", _CHECK)
        if not prod(shape):
            return np.empty(shape, dtype)
        order = "F" if by_columns else "C"
        return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape, order=order)


def write_pack(file: BinaryIO, patches: Iterable[Sequence[bytes]]) -> NDArray[np.int64]:
    """All pictures of unit 0, then those of unit 1 and so on; gives rows of unit, first byte, and the byte after."""
    rows, end = list[tuple[int, int, int]](), 0
    for unit, pictures in enumerate(patches):
        for picture in pictures:
            file.write(picture)
            rows.append((unit, end, end + len(picture)))
            end += len(picture)
    return np.array(rows, np.int64).reshape(-1, 3)


def read_pack(pack: Path, index: Path, unit: int) -> list[bytes]:
    """The pictures of one unit."""
    rows = _open_index(index)
    first, last = np.searchsorted(rows[:, 0], [unit, unit + 1])
    with pack.open("rb") as file:
        size, pictures = os.fstat(file.fileno()).st_size, list[bytes]()
        for _, start, end in rows[first:last].tolist():
            if not 0 <= start <= end <= size:
                raise BadInput(f"'{index}' is damaged: bytes {start} to {end} of {size}.", _CHECK)
            file.seek(start)
            pictures.append(file.read(end - start))
    return pictures


def _open_index(index: Path) -> NDArray[np.int64]:
    rows = open_array(index)
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype != np.int64:
        raise BadInput(f"'{index}' is damaged: it is {rows.dtype} {rows.shape}, not int64 (n, 3).", _CHECK)
    return rows


def check_index(index: Path, pack_size: int) -> None:
    """The rows of an index must lie one after the other and fill the pack, which has that many bytes."""
    rows = _open_index(index)
    units, starts, ends = rows.T
    in_order = (units[1:] >= units[:-1]).all() and (starts <= ends).all() and (starts[1:] == ends[:-1]).all()
    if not in_order or (len(rows) and (starts[0], ends[-1]) != (0, pack_size)) or (not len(rows) and pack_size):
        raise BadInput(f"'{index}' is damaged: its rows do not fill a pack of {pack_size} bytes.", _CHECK)


def write_noun(file: BinaryIO, noun: Noun) -> None:
    """A result, as `Noun.save` writes it."""
    whole = noun.save(f"{file.name}.noun")
    try:
        file.write(whole.read_bytes())
    finally:
        whole.unlink()


def encode_jpeg(pixels: Float[Tensor, "c h w"], quality: int = 85) -> bytes:
    """A small picture for a pack: grey or colour pixels in 0…1 as JPEG."""
    if pixels.shape[0] not in (1, 3):
        raise BadInput(f"a picture has 1 or 3 channels, not {pixels.shape[0]}.")
    planes = (pixels.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    rows = planes.permute(1, 2, 0).numpy()
    picture = Image.fromarray(rows[:, :, 0] if len(planes) == 1 else rows)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
