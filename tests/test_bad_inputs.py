"""Whatever is handed to the command line: the right exit code, one clear message with a hint, nothing left behind."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from glasshouse import attribute, zoo
from glasshouse.cli import DONE, FAILED, main
from glasshouse.core import BadInput, Model, Preprocess
from glasshouse.zoo import registry

GREY = np.full((30, 40), 128, np.uint8)
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], 2)


@pytest.fixture(autouse=True)
def place(cnn: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a good photograph, and a registered model `tiny`."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(COLOUR).save("good.png")
    preprocess = Preprocess(size=(24, 24), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    zoo.register("tiny")(lambda: Model(cnn, preprocess, ("cat", "dog", "bird", "fish"), "tiny", {"weights": "own"}))
    return tmp_path


def explained(*words: str, model: str = "tiny") -> list[str]:
    return ["explain", model, *words, "--card", "none", *([] if "--method" in words else ["--method", "saliency"])]


def refuses(words: list[str], capsys, *seen: str) -> None:
    """The command fails with a message, a hint, no traceback and no new file."""
    before = sorted(Path().rglob("*"))
    assert main(words) == FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == 1
    assert "hint: " in err
    assert "Traceback" not in err
    assert "internal error" not in err
    for text in seen:
        assert text in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "name",
    ["tinny", "", "resnet", "timmm:resnet18", "torchvsion:resnet18", ":", "tiny:x", "../tiny", "file:", "file:none.pt"],
)
def test_an_unknown_model(name, capsys):
    refuses(explained("good.png", model=name), capsys)


def test_the_nearest_model_is_named(capsys):
    refuses(explained("good.png", model="efficientnet_lite9"), capsys, "Did you mean 'efficientnet_lite")


@pytest.mark.parametrize("name", ["9", "3.0", "layer4", "layer 3", " ", "3 ", "-1", "3.weight", "Conv2d", "<b>"])
def test_an_unknown_layer(name, capsys):
    refuses(explained("good.png", "--method", "grad_cam", "--layer", name), capsys, "no layer")


@pytest.mark.parametrize(
    "name", ["gradcam", "grad-cam", "", "GRAD_CAM", "evaluate.srg", "attribute.", "*", "salience", "render", "ig"]
)
def test_an_unknown_method(name, capsys):
    refuses(explained("good.png", "--method", name), capsys, "no method")


@pytest.mark.parametrize("name", ["cart", "", "cats", "Dog!", "4", "1000", "-1", "1.5", "None", "99999999999999999999"])
def test_an_unknown_class(name, capsys):
    refuses(explained("good.png", f"--target={name}"), capsys, "no class")


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, without the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN: dict[str, bytes] = {
    "empty.png": b"",
    "text.jpg": b"this is no photograph",
    "zeros.png": bytes(100),
    "bomb.png": png(60_000, 60_000),
    "wide.png": png(2**31 - 1, 1),
    "nothing.png": png(40, 40),
    "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "archive.png": b"PK\x03\x04" + bytes(60),
    "pickle.png": b"\x80\x04\x95\x00\x00",
    "head.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photograph(name, capsys):
    Path(name).write_bytes(BROKEN[name])
    refuses(explained(name), capsys, name)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_photograph_that_is_cut_short(suffix, share, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(f"whole.{suffix}")
    data = Path(f"whole.{suffix}").read_bytes()
    Path(f"cut.{suffix}").write_bytes(data[: int(share * len(data))])
    refuses(explained(f"cut.{suffix}"), capsys, f"cut.{suffix}")


def animated(path: str) -> None:
    frames = [Image.fromarray(COLOUR // (i + 1)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


ODD: dict[str, Callable[[str], None]] = {
    "cmyk.jpg": lambda path: Image.fromarray(COLOUR).convert("CMYK").save(path),
    "cmyk.tif": lambda path: Image.fromarray(COLOUR).convert("CMYK").save(path),
    "alpha.png": lambda path: Image.fromarray(np.dstack([COLOUR, GREY])).save(path),
    "grey.png": lambda path: Image.fromarray(GREY).save(path),
    "grey-alpha.png": lambda path: Image.fromarray(np.dstack([GREY, GREY]), "LA").save(path),
    "deep.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "palette.png": lambda path: Image.fromarray(COLOUR).convert("P").save(path),
    "bits.png": lambda path: Image.fromarray(GREY).convert("1").save(path),
    "animated.gif": animated,
    "pages.tif": animated,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_photograph_is_read_all_the_same(name, capsys):
    ODD[name](name)
    assert main(explained(name)) == DONE
    err = capsys.readouterr().err
    assert ("warning: " in err) == (name in ("animated.gif", "pages.tif")), err
    assert Path("report.html").exists()


@pytest.mark.parametrize(
    "path", ["none.png", "no/such.png", "folder", "*.jpg", "folder/*.png", "folder/x", "~none", "a b", "", "good.jpg"]
)
def test_no_photograph_there(path, capsys):
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("nothing to see")
    refuses(explained(path or "folder/"), capsys)


@pytest.mark.parametrize(
    "out", ["none/report.html", "folder", "good.png/report.html", "/proc/none/x.html", "/proc/x.html"]
)
def test_a_place_that_cannot_be_written_to(out, capsys):
    Path("folder").mkdir()
    refuses(explained("good.png", "--out", out), capsys, "folder" if "proc/x" not in out else "cannot write")


@pytest.mark.parametrize("word", ["gpu", "cuda:99", "cpu:x", "", "CPU!"])
def test_a_device_that_is_not_there(word, capsys):
    refuses(explained("good.png", f"--device={word}"), capsys)


def test_one_bad_photograph_among_good_ones_is_named_before_any_work(capsys):
    Path("bad.png").write_bytes(b"")
    refuses(explained("good.png", "bad.png"), capsys, "bad.png")


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (lambda w: {k: v * float("nan") for k, v in w.items()}, "not finite"),
        (lambda w: {k: v[:1] for k, v in w.items()}, "another shape"),
        (lambda w: dict(list(w.items())[:3]), "missing"),
        (lambda w: w | {"extra": torch.zeros(2)}, "unexpected"),
    ],
)
def test_weights_that_do_not_fit(damage, seen, cnn, capsys):
    zoo.register("bare")(lambda: cnn)
    save_file({k: v.contiguous() for k, v in damage(cnn.state_dict()).items()}, "w.safetensors")
    refuses([*explained("good.png", model="file:w.safetensors"), "--arch", "bare"], capsys, seen)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04\x95", bytes(64), b"{}"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_cannot_be_read(suffix, data, cnn, capsys):
    zoo.register("bare")(lambda: cnn)
    Path(f"w.{suffix}").write_bytes(data)
    refuses([*explained("good.png", model=f"file:w.{suffix}"), "--arch", "bare"], capsys)


def test_weights_without_an_architecture(capsys):
    refuses(explained("good.png", model="file:w.pt"), capsys, "arch=")


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 24, 24),
        torch.zeros(24, 24),
        torch.zeros(0, 3, 24, 24),
        torch.zeros(1, 3, 24, 24, dtype=torch.uint8),
        torch.full((1, 3, 24, 24), float("nan")),
    ],
)
def test_images_that_no_method_can_take(images, cnn):
    with pytest.raises(BadInput, match="images"):
        attribute.saliency(cnn, images)


@pytest.mark.parametrize("target", [4, -1, [0, 1], 1.5, True])
def test_targets_that_are_no_classes(target, cnn, images):
    with pytest.raises(BadInput, match="target"):
        attribute.saliency(cnn, images, target)
