"""Images with patches, run by boxes: the answers of whole passes, on every family, in less arithmetic."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from conformance.architectures import BUILDERS, QUICK, fresh, pictures
from glasshouse import zoo
from glasshouse.core import BadModel, borrow
from glasshouse.core.locality import RULES
from glasshouse.core.patches import LEAST_PATCHES, clean_pass, covered, patched_outputs

EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BUILDERS]


def grid(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Boxes in rows, the last ones cut off at the border."""
    (h, w), (wh, ww) = size, window
    tops, lefts = range(0, min(h, h - wh + stride[0]), stride[0]), range(0, min(w, w - ww + stride[1]), stride[1])
    return torch.tensor([(i, j, min(h, i + wh), min(w, j + ww)) for i in tops for j in lefts])


def by_boxes(net: nn.Module, image: Tensor, boxes: Tensor, cover: Tensor, chunk: int = 5) -> Tensor:
    parts = patched_outputs(net, image, boxes, cover, engine="incremental", chunk=chunk)
    return torch.cat([part.output for part in parts])


def agree(net: nn.Module, image: Tensor, boxes: Tensor, tolerance: float) -> None:
    cover = pictures(1, tuple(image.shape[-2:]), image.shape[1], seed=1).to(image)
    with borrow(net, image) as network, torch.no_grad():
        found, expected = by_boxes(network, image, boxes, cover), network(covered(image, boxes, cover))
    assert (expected.amax(0) > expected.amin(0)).any()
    assert (found - expected).abs().max() <= tolerance * (expected.max() - expected.min())


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_every_architecture_answers_by_boxes_as_it_does_as_a_whole(name, dtype, tolerance):
    net, image = fresh(name).to(dtype), pictures(1).to(dtype)
    boxes = torch.cat(
        [grid((64, 64), (9, 6), (19, 23)), torch.tensor([(0, 0, 1, 1), (30, 2, 60, 50), (63, 40, 64, 64)])]
    )
    agree(net, image, boxes, tolerance)


@pytest.mark.parametrize("name", ["toy", "residual"])
@pytest.mark.parametrize(("size", "window", "stride"), [((33, 47), (5, 8), (5, 7)), ((48, 32), (1, 1), (13, 11))])
def test_images_that_are_not_square(name, size, window, stride):
    agree(fresh(name).double(), pictures(1, size).double(), grid(size, window, stride), 1e-12)


@pytest.mark.parametrize("name", ["creatures_cnn", "creatures_vit", "fashion_cnn", "efficientnet_lite0"])
def test_the_models_of_the_zoo(name, request):
    model = request.getfixturevalue("lite0") if name == "efficientnet_lite0" else zoo.load(name)
    size = (96, 96) if name == "efficientnet_lite0" else model.preprocess.size
    image = pictures(1, size, 1 if name == "fashion_cnn" else 3)
    agree(model.module, image, grid(size, (8, 10), (size[0] // 3, size[1] // 3)), 1e-5)


class Watch(TorchDispatchMode):
    """Multiplications and additions, and the bytes of the largest tensor."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        self.largest = max([self.largest, *(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


@pytest.mark.usefixtures("timm")
def test_the_arithmetic_and_the_memory_that_boxes_take():
    net, image, cover = fresh("vgg11"), pictures(1), torch.zeros(1, 3, 64, 64)
    boxes = grid((64, 64), (4, 4), (8, 8))
    with torch.no_grad(), Watch() as one:
        net(covered(image, boxes[:16], cover))
    with Watch() as all_of_them:
        by_boxes(net, image, boxes, cover, chunk=16)
    assert all_of_them.operations < 0.6 * len(boxes) / 16 * one.operations
    assert all_of_them.largest <= one.largest


@pytest.mark.usefixtures("timm")
def test_what_is_declared_is_what_a_patch_took_in_the_trial():
    net, image, cover = fresh("vgg11"), pictures(1), torch.zeros(1, 3, 64, 64)
    boxes = grid((64, 64), (4, 4), (4, 4))[[0, 200]]
    clean = clean_pass(net, image, boxes, cover, "incremental")
    with torch.no_grad(), Watch() as whole:
        net(covered(image, boxes, cover))
    with Watch() as part:
        clean.patched(boxes, cover)
    assert part.operations == pytest.approx(clean.work * whole.operations, rel=1e-9)


def test_several_images_have_covers_of_their_own_and_do_not_share_anything():
    net, images, cover = fresh("toy").double(), pictures(3).double(), pictures(3, seed=5).double()
    boxes = grid((64, 64), (16, 16), (24, 24))
    for engine in ("incremental", "dense"):
        parts = list(patched_outputs(net, images, boxes, cover, engine=engine, chunk=7))
        image, box = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "box"))
        assert image.tolist() == sorted(list(range(3)) * len(boxes))
        assert box.tolist() == list(range(len(boxes))) * 3
        expected = torch.cat([net(covered(images[n : n + 1], boxes, cover[n : n + 1])) for n in range(3)])
        torch.testing.assert_close(torch.cat([part.output for part in parts]), expected.detach())
        assert all((part.work < 0.5).all() == (engine == "incremental") for part in parts)


@pytest.mark.usefixtures("timm")
def test_boxes_are_used_where_they_pay():
    cover, many = torch.zeros(1, 3, 64, 64), grid((64, 64), (4, 4), (4, 4))
    image = pictures(1)
    assert clean_pass(fresh("vgg11"), image, many, cover) is not None
    assert clean_pass(fresh("vgg11"), image, many[: LEAST_PATCHES - 1], cover) is None  # the trial would cost too much
    assert clean_pass(fresh("toy"), image, many, cover) is None  # too little arithmetic
    assert clean_pass(fresh("vit"), image, many, cover) is None  # attention mixes all positions
    assert clean_pass(fresh("vgg11"), image, many, cover, "dense") is None


@pytest.mark.usefixtures("timm")
def test_a_wrong_answer_of_the_boxes_is_not_used(caplog, monkeypatch):
    net, image, cover = fresh("vgg11"), pictures(1), torch.zeros(1, 3, 64, 64)
    boxes = grid((64, 64), (4, 4), (4, 4))
    right = RULES["conv2d"]
    monkeypatch.setitem(RULES, "relu", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING, "glasshouse"):
        assert clean_pass(net, image, boxes, cover) is None
    assert "run as a whole for every patch: ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    monkeypatch.setitem(RULES, "conv2d", lambda f, args, kwargs, clean: right(f, (args[0], 1.01 * args[1]), {}, clean))
    with pytest.raises(BadModel, match=r"VGG cannot be run by boxes: the scores differ by"):
        clean_pass(net, image, boxes, cover, "incremental")
