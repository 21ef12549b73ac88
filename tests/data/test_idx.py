"""IDX files, written byte by byte: what they hold comes out, and whatever is wrong with them is said."""

import gzip
import io
import pickle
import random
import struct
import tarfile
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from glasshouse.core.errors import BadInput, GlasshouseError, MissingPackage, NotFound
from glasshouse.core.shards import Data, sweep
from glasshouse.core.stats import Moments
from glasshouse.data import idx
from glasshouse.data.idx import fashion_mnist, idx_images, read_idx

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = [*range(10), 3, 3]


def written(path: Path, code: int, shape: tuple[int, ...], data: bytes) -> Path:
    """By the format's description: two bytes 0, the type, the number of axes, their lengths, the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, code, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + data
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def fashion(folder: Path, end: str = ".gz", pixels: np.ndarray = PIXELS, labels: list[int] = LABELS) -> Path:
    for split in ("train", "t10k"):
        written(folder / f"{split}-images-idx3-ubyte{end}", 8, pixels.shape, pixels.tobytes())
        written(folder / f"{split}-labels-idx1-ubyte{end}", 8, (len(labels),), bytes(labels))
        labels = labels[::-1]
    return folder


def deb(path: Path, folder: Path, compression: str = "xz") -> Path:
    """A package of Debian: an `ar` archive of three members, the last of them a `tar` archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        archive.add(folder, "./usr/share/datasets/fashion-mnist")
    content = b"!<arch>\n"
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", f"data.tar.{compression}": data.getvalue()}
    for name, member in members.items():
        header = name.ljust(16) + "0".ljust(12) + "0".ljust(6) * 2 + "100644".ljust(8) + str(len(member)).ljust(10)
        content += header.encode() + b"`\n" + member + b"\n" * (len(member) % 2)
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch, request):
    if not request.node.get_closest_marker("real"):
        monkeypatch.setattr(idx, "INSTALLED", tmp_path / "not-installed")
        monkeypatch.delenv("GLASSHOUSE_REAL_DATA", raising=False)


NUMBERS = {8: ("B", [0, 1, 255]), 9: ("b", [-128, 0, 127]), 11: ("h", [-32768, 1, 258]), 12: ("i", [-(2**31), 1, 258])}
NUMBERS |= {13: ("f", [-1.5, 0.0, 3.25]), 14: ("d", [-1.1, 0.0, 1e300])}


@pytest.mark.parametrize("code", NUMBERS)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_every_type_of_number_is_read_with_its_highest_byte_first(code, end, tmp_path):
    letter, values = NUMBERS[code]
    read = read_idx(written(tmp_path / f"x{end}", code, (1, 3), struct.pack(f">3{letter}", *values)))
    assert read.tolist() == [values]
    assert read.element_size() == struct.calcsize(letter)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_images_and_labels_come_back_and_items_stack(end, tmp_path):
    fashion(tmp_path, end)
    data = fashion_mnist(tmp_path)
    assert isinstance(data, Data)
    assert torch.equal(data.images, torch.from_numpy(PIXELS)[:, None])
    assert data.images.dtype == torch.uint8
    assert data.targets.tolist() == LABELS
    assert (data.class_names[0], data.class_names[9]) == ("T-shirt/top", "Ankle boot")
    assert data.ids[:2] == ("train/00000", "train/00001")
    assert repr(data) == "IdxImages(train: 12 images of 28 x 28 px, 10 classes)"
    (batch,) = DataLoader(data, batch_size=12)
    assert torch.equal(batch["image"], torch.from_numpy(PIXELS)[:, None].float() / 255)
    assert batch["target"].tolist() == LABELS
    assert torch.equal(pickle.loads(pickle.dumps(data)).images, data.images)


def test_the_test_split_is_the_files_called_t10k(tmp_path):
    data = fashion_mnist(fashion(tmp_path), split="test")
    assert data.targets.tolist() == LABELS[::-1]
    assert data.ids[11] == "test/00011"
    with pytest.raises(NotFound, match=r"no split 'tests'.*'test'"):
        unwrap(fashion_mnist)(tmp_path, split="tests")  # as where types are not checked


@pytest.mark.parametrize("names", ["raw", "FashionMNIST/raw"])
def test_files_are_found_where_torchvision_puts_them(names, tmp_path):
    fashion(tmp_path / names, "")
    assert len(fashion_mnist(tmp_path)) == 12


def test_both_ways_to_write_the_names_are_known(tmp_path):
    for path in fashion(tmp_path, "").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(fashion_mnist(tmp_path)) == 12


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_a_debian_package_is_read_without_unpacking_it(compression, tmp_path):
    package = deb(tmp_path / "dataset-fashion-mnist_1_all.deb", fashion(tmp_path / "files"), compression)
    data = fashion_mnist(package, split="test")
    assert torch.equal(data.images[:, 0], torch.from_numpy(PIXELS))
    assert "usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz" in data.chosen[0]


def test_without_a_path_it_is_the_installed_package_then_the_folder_of_real_data(tmp_path, monkeypatch):
    with pytest.raises(MissingPackage, match=r"which is not set.*apt-get install dataset-fashion-mnist"):
        fashion_mnist()
    monkeypatch.setenv("GLASSHOUSE_REAL_DATA", str(tmp_path / "real"))
    with pytest.raises(MissingPackage, match="real"):
        fashion_mnist()
    fashion(tmp_path / "real")
    assert "real" in fashion_mnist().chosen[0]
    deb(tmp_path / "real/dataset-fashion-mnist_1_all.deb", tmp_path / "real")
    assert ".deb" in fashion_mnist().chosen[0]
    fashion(tmp_path / "not-installed")
    assert "not-installed" in fashion_mnist().chosen[0]


def test_other_labels_than_the_published_ones_are_noticed(tmp_path):
    assert fashion_mnist(fashion(tmp_path)).chosen[1] == "labels: not those of the published train split."


def test_a_limit_keeps_the_first_and_a_subset_keeps_ids(tmp_path):
    data = fashion_mnist(fashion(tmp_path), limit=5)
    assert torch.equal(data.images[:, 0], torch.from_numpy(PIXELS[:5]))
    assert len(fashion_mnist(tmp_path, limit=99)) == 12
    assert "5 of 12" in data.chosen[-1]
    some = data.subset([4, 1])
    assert some.ids == ("train/00004", "train/00001")
    assert torch.equal(some[0]["image"], data[4]["image"])
    assert data.subset(data.targets > 2).targets.tolist() == [3, 4]
    for nothing in ([], data.targets > 99):
        with pytest.raises(BadInput, match="empty"):
            data.subset(nothing)
    with pytest.raises(BadInput, match="limit=0"):
        fashion_mnist(tmp_path, limit=0)


def test_any_pair_of_files_makes_a_data_set(tmp_path):
    images = written(tmp_path / "digits.idx", 8, (2, 2, 3), bytes(range(12)))
    labels = written(tmp_path / "labels.idx", 12, (2,), struct.pack(">2i", 7, 300))
    data = idx_images(images, labels)
    assert data.targets.tolist() == [7, 300]
    assert data.ids == ("digits/00000", "digits/00001")
    assert data.images[1, 0].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert idx_images(images).targets.tolist() == [-1, -1]
    below = written(tmp_path / "below.idx", 9, (2,), struct.pack(">2b", 7, -1))
    with pytest.raises(BadInput, match=r"below.idx.*image 1 the label -1.*0 upwards"):
        idx_images(images, below)
    with pytest.raises(BadInput, match=r"labels.idx.*image 1 the label 300.*0 to 9"):
        idx_images(images, labels, class_names=[str(digit) for digit in range(10)])


def test_a_sweep_counts_them(tmp_path):
    data = fashion_mnist(fashion(tmp_path))
    mean = sweep(lambda batch, ids: (batch["image"].flatten(1),), data, Moments(), batch_size=5).mean
    torch.testing.assert_close(mean, torch.from_numpy(PIXELS).flatten(1).double().mean(0) / 255)


HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3])
BROKEN = {
    "nothing": (b"", "begins with nothing"),
    "a picture": (b"\x89PNG\r\n", "no IDX file.*89 50 4e 47"),
    "another type": (b"\0\0\x0a\1" + b"\0" * 8, "no IDX file.*00 00 0a 01"),
    "no axes": (b"\0\0\x08\0" + b"\0" * 8, "no IDX file"),
    "half a header": (HEADER[:9], "ends at byte 9, within the lengths of its 3 axes"),
    "too few numbers": (HEADER + bytes(11), "promises 2 x 2 x 3 numbers, 12 bytes from byte 16 on, and there are 11"),
    "too many numbers": (HEADER + bytes(13), "goes on after byte 28"),
    "a huge header": (b"\0\0\x0e\4" + b"\xff" * 16 + bytes(9), "4294967295 x .* there are 9"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_file_is_refused_by_name_and_place(kind, packed, tmp_path):
    content, seen = BROKEN[kind]
    path = tmp_path / "odd-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(BadInput, match=f"odd-idx3-ubyte.*{seen}"):
        read_idx(path)


def test_damage_to_a_gzipped_file_is_never_read_as_numbers(tmp_path):
    whole = gzip.compress(HEADER + bytes(range(12)))
    generator = random.Random(0)
    for _ in range(200):
        content = bytearray(whole[: generator.randrange(2, len(whole))] if generator.random() < 0.5 else whole)
        if len(content) == len(whole):
            content[generator.randrange(10, len(whole))] ^= 1 << generator.randrange(8)
        path = tmp_path / "x.gz"
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"x\.gz"):
            read_idx(path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    images = written(tmp_path / "images", 8, (2, 2, 3), bytes(12))
    labels = written(tmp_path / "labels", 8, (3,), bytes(3))
    with pytest.raises(BadInput, match=r"labels' holds 3 numbers \(uint8\) where images.*are swapped"):
        idx_images(labels, images)
    with pytest.raises(BadInput, match=r"images' holds 2 images and .*labels' 3 labels"):
        idx_images(images, labels)
    with pytest.raises(BadInput, match=r"images' holds 2 x 2 x 3 numbers \(uint8\) where labels"):
        idx_images(images, images)
    with pytest.raises(BadInput, match=r"float32.*where images"):
        idx_images(written(tmp_path / "floats", 13, (1, 1, 1), bytes(4)))
    with pytest.raises(BadInput, match="where labels"):
        idx_images(images, written(tmp_path / "floats", 13, (2,), bytes(8)))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"no IDX file.*Did you mean 'train-images-idx3-ubyte.gz'"):
        read_idx(fashion(tmp_path) / "train-images-idx3-ubyte")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(NotFound, match=r"no 't10k-labels-idx1-ubyte'.*'train-labels-idx1-ubyte.gz'"):
        fashion_mnist(tmp_path, split="test")
    with pytest.raises(NotFound, match="no folder"):
        fashion_mnist(tmp_path / "nowhere")


def test_a_broken_package_is_refused(tmp_path):
    package = deb(tmp_path / "x.deb", fashion(tmp_path / "files"))
    content = package.read_bytes()
    for length in (0, 7, 8, 60, 100, len(content) // 2, len(content) - 9):
        package.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"x\.deb"):
            fashion_mnist(package)
    for place in range(150, len(content), len(content) // 40):
        package.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            read = fashion_mnist(package).images
        except GlasshouseError:
            continue
        assert torch.equal(read[:, 0], torch.from_numpy(PIXELS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"holds no 'train-images-idx3-ubyte.gz'"):
        fashion_mnist(deb(package, tmp_path / "empty"))


@pytest.mark.real(optional=True)
@pytest.mark.parametrize(("split", "n_images", "mean"), [("train", 60_000, 72.94), ("test", 10_000, 73.15)])
def test_the_published_images_are_all_there(split, n_images, mean):
    try:
        data = fashion_mnist(split=split)
    except MissingPackage as error:
        pytest.skip(str(error))
    assert len(data) == n_images
    assert data.targets.bincount().tolist() == [n_images // 10] * 10
    assert float(data.images.float().mean()) == pytest.approx(mean, abs=0.005)
    assert data.chosen[1] == "labels: the published ones."
