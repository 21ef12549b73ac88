"""Photographs: what every odd file means, and what every bad one says."""

import random
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from glasshouse.core.errors import BadImage
from glasshouse.core.photo import MAX_PIXELS, PhotoWarning, find_photos, read_photo, to_rgb

NOISE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


def save(image: Image.Image, path: Path, **settings) -> Path:
    image.save(path, **settings)
    return path


def encoded(format: str, **settings) -> bytes:
    stream = BytesIO()
    Image.fromarray(NOISE).save(stream, format, **settings)
    return stream.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG from its specification, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def test_a_lossless_photograph_comes_back_bit_for_bit(tmp_path):
    photo = read_photo(save(Image.fromarray(NOISE), tmp_path / "a.png"))
    assert photo.mode == "RGB"
    assert np.array_equal(np.asarray(photo), NOISE)


# Where the first row and first column of the stored image lie, by the EXIF specification.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_cameras_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(NOISE), tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_photo(path)), UPRIGHT[orientation](NOISE))


def test_transparency_is_laid_over_white(tmp_path):
    colour = np.array([200, 100, 0])
    row = [[*colour, alpha] for alpha in (0, 51, 128, 255)]
    path = save(Image.fromarray(np.array([row], dtype=np.uint8)), tmp_path / "a.png")
    share = np.array([0, 51, 128, 255])[:, None] / 255
    expected = share * colour + (1 - share) * 255
    assert np.abs(np.asarray(read_photo(path))[0] - expected).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_is_declared_transparent_becomes_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), 0)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), {"P": 1, "L": 50, "RGB": (40, 50, 60)}[mode])
    path = save(image, tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    first, second = np.asarray(read_photo(path))[0]
    assert first.tolist() == [255, 255, 255]
    assert second.tolist() == ([50, 50, 50] if mode == "L" else [40, 50, 60])


def test_ink_becomes_light(tmp_path):
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [100, 50, 0, 128], [0, 0, 0, 255]]], dtype=np.uint8)
    path = save(Image.fromarray(inks, mode="CMYK"), tmp_path / "a.tif")
    paper = 255 - inks[0].astype(float)
    expected = paper[:, :3] * paper[:, 3:] / 255
    assert np.abs(np.asarray(read_photo(path))[0] - expected).max() <= 1


def test_inverted_ink_in_a_jpeg_becomes_light(tmp_path):
    path = save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100)
    assert np.abs(np.asarray(read_photo(path)).astype(int) - [0, 255, 255]).max() <= 3


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(levels), tmp_path / "a.png")
    assert np.asarray(read_photo(path))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 65535, 32896, 257)))
    assert np.asarray(read_photo(path))[0, 0].tolist() == [255, 128, 1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "YCbCr", "HSV", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    grey = to_rgb(Image.new("L", (3, 2), 255).convert("RGB").convert(mode))
    assert grey.mode == "RGB"
    assert np.asarray(grey).min() >= 254


def test_of_an_animation_the_first_image_is_read_with_a_warning(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(PhotoWarning, match="holds 3 images; the first was read"):
        photo = read_photo(path)
    assert photo.getpixel((0, 0)) == (255, 0, 0)


def test_the_preview_that_phones_append_is_no_reason_to_warn(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    path = save(frames[0], tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert read_photo(path).getpixel((0, 0))[0] > 250


JPEG, PNG = encoded("JPEG"), encoded("PNG")
BAD = {
    "empty.jpg": (b"", "is empty"),
    "words.jpg": (b"these are words", "no recognisable image"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no recognisable image"),
    "paper.png": (b"%PDF-1.7\n", "begins with b'%PDF-1.7"),
    "icon.png": (encoded("ICO"), "no recognisable image"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "damaged or cut short"),
    "cut.png": (PNG[: len(PNG) // 2], "damaged or cut short"),
    "header.png": (PNG[:33], "no recognisable image"),
    "nothing.png": (PNG[:50], "damaged or cut short"),
    "rotten.png": (PNG[:60] + bytes(40) + PNG[100:], "damaged or cut short"),
    "large.png": (png(8000, 8000, 8, 2, b""), r"8000 x 8000 px, 64.0 Mpx"),
    "larger.png": (png(10000, 10000, 8, 2, b""), r"100.0 Mpx"),
    "bomb.png": (png(60000, 60000, 8, 2, b""), r"3600.0 Mpx"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_was_seen_and_what_to_do(tmp_path, name):
    data, seen = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadImage, match=seen) as caught:
        read_photo(tmp_path / name)
    assert name in caught.value.message
    assert caught.value.hint


def test_a_file_that_only_pillows_warning_would_catch_is_refused_too(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(BAD["larger.png"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadImage, match="10000 x 10000 px"):
            read_photo(path)


def test_numbers_without_an_agreed_white_are_refused(tmp_path):
    path = save(Image.new("F", (4, 4), 0.5), tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"a\.tif.*32-bit numbers"):
        read_photo(path)


def test_a_folder_is_no_photograph(tmp_path):
    with pytest.raises(BadImage, match="is a folder"):
        read_photo(tmp_path)


def test_an_absent_file_names_its_nearest_neighbours(tmp_path):
    save(Image.fromarray(NOISE), tmp_path / "cat.png")
    with pytest.raises(BadImage, match=r"no file 'cat\.jpg'.*Did you mean 'cat\.png'"):
        read_photo(tmp_path / "cat.jpg")
    with pytest.raises(BadImage, match="its folder does not exist"):
        read_photo(tmp_path / "cats" / "cat.jpg")


def test_pillows_own_settings_stay_as_they_were(tmp_path):
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    path = save(Image.fromarray(NOISE), tmp_path / "a.png")
    read_photo(path)
    path.write_bytes(BAD["bomb.png"][0])
    with pytest.raises(BadImage):
        read_photo(path)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damaged metadata
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_bytes_give_a_photograph_or_our_error(tmp_path, format):
    draw, data, path = random.Random(0), encoded(format), tmp_path / "a"
    for _ in range(60):
        damaged = bytearray(data[: draw.randrange(1, len(data) + 1)])
        for _ in range(3):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            photo = read_photo(path)
        except BadImage:
            continue
        assert photo.mode == "RGB"
        assert photo.width * photo.height <= MAX_PIXELS


def test_photographs_are_found_in_a_file_a_folder_or_a_pattern(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    paths = [tmp_path / "a.PNG", tmp_path / "b" / "c.jpeg", tmp_path / "b" / "deep" / "d.webp"]
    for path in [*paths, tmp_path / "notes.txt"]:
        path.write_bytes(b"")
    assert find_photos(tmp_path) == paths
    assert find_photos(paths[1]) == [paths[1]]
    assert find_photos(str(tmp_path / "*")) == paths[:1]
    assert find_photos(str(tmp_path / "b" / "**")) == paths[1:]


@pytest.mark.parametrize("wanted", ["", "*.jpg", "absent"])
def test_finding_nothing_is_an_error(tmp_path, wanted):
    (tmp_path / "notes.txt").write_text("no photograph")
    with pytest.raises(BadImage, match=r"holds no photographs|no file"):
        find_photos(tmp_path / wanted)


def test_a_file_name_with_brackets_is_no_pattern(tmp_path):
    path = save(Image.fromarray(NOISE), tmp_path / "a[1].png")
    assert find_photos(path) == [path]
