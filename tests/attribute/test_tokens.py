"""Dropping tokens against forbidding attention to them, and against a loop over windows."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conformance.architectures import CLASSES, build, pictures
from conformance.transformers_zoo import EVERY, grid_of, size_of, vit
from glasshouse import attribute
from glasshouse.core import BadInput, BadModel, NothingMatched
from glasshouse.core.plan import TrainingModeWarning

TARGETS = [1, 3]


class Masked(TorchFunctionMode):
    """Fused attention that may not look at some tokens."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden, self.calls = hidden, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            mask = torch.zeros(1, len(self.hidden)).double().masked_fill(self.hidden, -torch.inf)
            return func(*args[:3], attn_mask=mask)
        return func(*args, **(kwargs or {}))


def windows(size: int, window: int, stride: int) -> list[range]:
    """From the left until one touches the right border, moved inside where it would cross it."""
    found = []
    while True:
        first = min(len(found) * stride, size - window)
        found.append(range(first, first + window))
        if first + window == size:
            return found


@pytest.fixture(scope="module")
def wide(timm) -> nn.Module:
    """Four by six patches behind a class token, in double precision."""
    return copy.deepcopy(vit("timm_wide")).double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return pictures(2, (64, 96)).double()


@pytest.mark.parametrize(
    ("window", "stride"), [(2, 1), ((1, 1), (1, 1)), ((3, 4), (2, 3)), ((4, 1), (4, 1)), ((1, 6), 1)]
)
def test_dropping_tokens_is_forbidding_to_look_at_them(wide, images, window, stride):
    e = attribute.token_occlusion(wide, images, TARGETS, sliding_window_shapes=window, strides=stride, chunk=7)
    (wh, ww), (sh, sw) = ((side, side) if isinstance(side, int) else side for side in (window, stride))
    rows, cols = windows(4, wh, sh), windows(6, ww, sw)
    grid, total, count = torch.zeros(2, len(rows), len(cols)).double(), torch.zeros(2, 4, 6).double(), torch.zeros(4, 6)
    with torch.no_grad():
        clean = wide(images).softmax(1)[range(2), TARGETS]
        for i, row in enumerate(rows):
            for j, col in enumerate(cols):
                hidden = torch.zeros(4, 6, dtype=torch.bool)
                for place in row:
                    hidden[place, col.start : col.stop] = True
                with Masked(F.pad(hidden.flatten(), (1, 0))) as mask:
                    output = wide(images)
                assert mask.calls == 2
                grid[:, i, j] = clean - output.softmax(1)[range(2), TARGETS]
                torch.testing.assert_close(e.extras["probability"][:, i, j], clean - grid[:, i, j])
                assert torch.equal(e.extras["top"][:, i, j], output.argmax(1))
                total[:, hidden] += grid[:, i, j, None]
                count[hidden] += 1
    torch.testing.assert_close(e.extras["grid"], grid)
    torch.testing.assert_close(e.native, total / count)
    assert grid.std() > 1e-3


@pytest.mark.parametrize("registers", [0, 4])
def test_where_the_mean_is_read_it_is_that_of_the_tokens_left(timm, registers):
    name = "timm_registers_mean" if registers else "timm_mean"
    net, images = copy.deepcopy(vit(name)).double(), pictures().double()
    e = attribute.token_occlusion(net, images, 2, sliding_window_shapes=(4, 1), strides=(4, 1), score="logit")
    with torch.no_grad():
        tokens = net.patch_embed(images) + net.pos_embed[:, registers:]
        if registers:
            tokens = torch.cat([(net.reg_token + net.pos_embed[:, :registers]).expand(2, -1, -1), tokens], 1)
        left = [t for t in range(16 + registers) if t < registers or (t - registers) % 4 != 1]
        features = net.norm(net.blocks(tokens[:, left]))
        without = net.head(net.fc_norm(features[:, registers:].mean(1)))
    torch.testing.assert_close(e.extras["grid"][:, 0, 1], (net(images) - without)[:, 2].detach())


@pytest.fixture(params=EVERY)
def name(request) -> str:
    return request.param


@pytest.mark.usefixtures("timm")
def test_every_family_can_do_without_some_tokens(name):
    images = pictures(2, size_of(name))
    e = attribute.token_occlusion(vit(name), images, TARGETS, all_classes=True)
    i, j = grid_of(name)
    assert e.native.shape == (2, i, j)
    assert e.extras["grid"].shape == (2, i - 1, j - 1)
    assert e.heatmap.shape == (2, *size_of(name))
    assert (e.heatmap.flatten(1).std(1) > 0).all()
    assert e.extras["scores"].shape == (2, CLASSES, i - 1, j - 1)
    torch.testing.assert_close(e.extras["scores"][range(2), TARGETS], e.extras["probability"])
    alone = attribute.token_occlusion(vit(name), images[1:], TARGETS[1:])
    torch.testing.assert_close(alone.native, e.native[1:], rtol=1e-3, atol=1e-5)


def test_all_classes_are_those_asked_for_one_by_one(wide, images):
    e = attribute.token_occlusion(wide, images, 4, all_classes=True, score="logit", strides=2)
    for target in range(CLASSES):
        alone = attribute.token_occlusion(wide, images, target, score="logit", strides=2)
        fall = alone.score.double()[:, None, None] - e.extras["scores"][:, target]
        torch.testing.assert_close(fall, alone.extras["grid"], rtol=1e-5, atol=1e-5)


@contextmanager
def lengths(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Rows and tokens that go through the first block. The hook makes methods run the model itself."""
    seen: list[tuple[int, int]] = []
    handle = model.blocks[0].attn.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    try:
        yield seen
    finally:
        handle.remove()


def test_a_pass_computes_the_tokens_that_are_left(wide, images):
    with lengths(wide) as seen:
        attribute.token_occlusion(wide, images, 1, sliding_window_shapes=(2, 3), strides=(2, 3), chunk=3)
    assert seen == [(2, 25), (3, 19), (3, 19), (2, 19)]  # clean images; then eight rows without six tokens each


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_the_number_of_rows_per_pass_changes_nothing(wide, images, chunk):
    whole = attribute.token_occlusion(wide, images, all_classes=True)
    part = attribute.token_occlusion(wide, images, all_classes=True, chunk=chunk)
    torch.testing.assert_close(part.native, whole.native)
    for extra, value in whole.extras.items():
        torch.testing.assert_close(part.extras[extra], value)


def test_the_class_is_that_of_the_clean_image(wide, images):
    free = attribute.token_occlusion(wide, images, strides=2)
    assert free.target == tuple(wide(images).argmax(1).tolist())
    assert torch.equal(free.native, attribute.token_occlusion(wide, images, list(free.target), strides=2).native)


def test_a_token_that_nobody_looks_at_costs_nothing(timm):
    # The class token attends to itself alone, so what it says does not depend on the patches.
    net = copy.deepcopy(vit("ours")).double()
    for block in net.blocks:
        block.attn.proj.weight.data.zero_()
    e = attribute.token_occlusion(net, pictures().double(), 1)
    assert (e.native.abs() < 1e-12).all()


def test_half_precision_keeps_the_classes_apart(timm):
    net = copy.deepcopy(vit("torchvision")).bfloat16()
    net.heads.head = nn.Linear(32, 1000).bfloat16()
    net.heads.head.bias.data[517] = 100.0
    e = attribute.token_occlusion(net, pictures().bfloat16(), 1)
    assert (e.extras["top"] == 517).all()  # which does not exist in bfloat16: 516 is the nearest
    assert e.native.dtype == torch.float32


def test_the_model_is_left_as_it_was(timm):
    net = copy.deepcopy(vit("timm")).train()
    with pytest.warns(TrainingModeWarning):
        attribute.token_occlusion(net, pictures(), 1)
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


class Counts(nn.Module):
    """A transformer that needs all its patches: they are laid out as an image again."""

    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 8, 16, 16), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.last, self.head = nn.Conv2d(8, 8, 2), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.block(self.patches(images).flatten(2).transpose(1, 2))
        return self.head(self.last(tokens.transpose(1, 2).unflatten(2, (4, 4))).mean((2, 3)))


def test_a_network_that_needs_every_token_is_refused():
    with pytest.raises(BadModel, match=r"Counts does not run on 12 tokens: .*Use occlusion") as error:
        attribute.token_occlusion(Counts().eval(), pictures(), 1)
    assert isinstance(error.value.__cause__, RuntimeError)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", ["toy", "timm_resnet10t", "swin", "timm_swin"])
def test_networks_without_tokens_to_drop_are_refused(architecture):
    with pytest.raises(NothingMatched, match=r"attends within windows|no attention among tokens"):
        attribute.token_occlusion(build(architecture), pictures())


@pytest.mark.parametrize(
    "settings",
    [
        {"sliding_window_shapes": 5},
        {"sliding_window_shapes": 0},
        {"sliding_window_shapes": 1, "strides": 2},
        {"sliding_window_shapes": (4, 6)},
        {"sliding_window_shapes": (2, 2), "strides": (1, 0)},
        {"chunk": 0},
    ],
    ids=str,
)
def test_windows_that_leave_out_a_token_or_take_all_are_refused(wide, images, settings):
    with pytest.raises(BadInput, match="does not cover a grid of 4×6"):
        attribute.token_occlusion(wide, images, **settings)
