"""Label numbers survive the way through red and green; other kinds of PNG are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glasshouse.core.errors import BadImage, BadInput
from glasshouse.data.segmentation_pngs import (
    decode_labels,
    encode_labels,
    read_labels,
    read_pixels,
    write_labels,
)

numbers = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 65535), min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(numbers)
def test_any_numbers_come_back_from_a_file(tmp_path_factory, rows: list[list[int]]):
    path = tmp_path_factory.getbasetemp() / "labels.png"
    write_labels(torch.tensor(rows), path)
    assert read_labels(path, (len(rows), len(rows[0]))).tolist() == rows
    with Image.open(path) as image:  # as the format says: red + 256 green, and no blue
        pixels = [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]
    assert [[red + 256 * green for red, green, _ in row] for row in pixels] == rows
    assert all(blue == 0 for row in pixels for _, _, blue in row)


def test_all_numbers_survive_encoding_also_from_narrow_integers():
    every = torch.arange(65536).view(256, 256)
    assert torch.equal(decode_labels(encode_labels(every)), every)
    assert torch.equal(decode_labels(encode_labels(every[:1].to(torch.uint8))), every[:1])
    for beyond in (-1, 65536):
        with pytest.raises(BadInput, match="label numbers lie in 0…65535"):
            encode_labels(torch.tensor([[beyond]]))


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("L", "8-bit grey, not 8-bit RGB"),
        ("P", "1-bit palette, not"),
        ("LA", "8-bit grey with transparency, not"),
        ("RGBA", "8-bit RGB with transparency, not"),
        ("I;16", "16-bit grey, not"),
        ("1", "1-bit grey, not"),
    ],
)
def test_other_kinds_of_png_are_refused(mode: str, said: str, tmp_path: Path):
    Image.new(mode, (3, 2)).save(tmp_path / "map.png")
    with pytest.raises(BadImage, match=rf"map\.png' is {said}"):
        read_labels(tmp_path / "map.png", (2, 3))


def test_a_png_of_16_bit_colours_is_refused_and_not_read_as_8_bit(tmp_path: Path):
    write_labels(torch.ones(2, 3, dtype=torch.long), tmp_path / "map.png")
    content = bytearray((tmp_path / "map.png").read_bytes())
    content[24] = 16
    (tmp_path / "map.png").write_bytes(content)
    with pytest.raises(BadImage, match="is 16-bit RGB, not 8-bit RGB"):
        read_labels(tmp_path / "map.png", (2, 3))


def test_blue_is_refused_as_it_shows_a_picture_and_not_labels(tmp_path: Path):
    Image.new("RGB", (3, 2), (1, 0, 9)).save(tmp_path / "map.png")
    with pytest.raises(BadImage, match="uses its blue channel"):
        read_labels(tmp_path / "map.png", (2, 3))


def test_missing_truncated_and_misnamed_files_are_named(tmp_path: Path):
    path = tmp_path / "map.png"
    with pytest.raises(BadImage, match=r"cannot read the label map '.*map\.png'"):
        read_labels(path, (64, 64))
    write_labels(torch.randint(0, 60000, (64, 64), generator=torch.Generator().manual_seed(0)), path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 60, 997):
        path.write_bytes(whole[:length])
        with pytest.raises(BadImage, match=r"map\.png' (is no PNG|is damaged or cut short)"):
            read_labels(path, (64, 64))
    Image.new("RGB", (64, 64)).save(path, "JPEG")
    with pytest.raises(BadImage, match=r"map\.png' is no PNG"):
        read_labels(path, (64, 64))


def test_a_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path: Path):
    write_labels(torch.zeros(2, 2, dtype=torch.long), tmp_path / "map.png")
    content = bytearray((tmp_path / "map.png").read_bytes())
    content[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    (tmp_path / "map.png").write_bytes(content)
    with pytest.raises(BadImage, match="has 2147483647 x 2147483647 px"):
        read_labels(tmp_path / "map.png", (2, 2))


def test_pixels_are_read_as_they_are_and_checked_for_size(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    seen = read_pixels(tmp_path / "photo.png", (4, 5))
    assert np.array_equal(seen.numpy(), np.moveaxis(values, 2, 0).astype(np.float32) / np.float32(255))
    with pytest.raises(BadImage, match="has 4 x 5 px, and its index 5 x 4"):
        read_pixels(tmp_path / "photo.png", (5, 4))
