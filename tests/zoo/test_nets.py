import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.core import geometry
from glasshouse.core.errors import BadInput
from glasshouse.zoo.nets.residual import FactorNet, ResidualNet
from glasshouse.zoo.nets.unet import UNet
from glasshouse.zoo.nets.vit import VisionTransformer
from glasshouse.zoo.training import seeded


def lively(network: nn.Module) -> nn.Module:
    """With statistics and offsets of batch norms that are not those of the start, in float64."""
    draws = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.copy_(0.5 + torch.rand(value.shape, generator=draws))
            for value in (module.bias.data, module.running_mean):
                value.copy_(torch.randn(value.shape, generator=draws))
    return network.double().eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(make):
    with seeded(0):
        return lively(make())


def normed(values, weights, name):
    scale = weights[f"{name}.weight"] / (weights[f"{name}.running_var"] + 1e-5).sqrt()
    offset = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
    return values * scale[:, None, None] + offset[:, None, None]


def test_a_residual_net_is_what_the_formula_says():
    network, images = made(lambda: ResidualNet(3, width=0.25)), noise(2, 3, 32, 32)
    w = network.state_dict()
    x = normed(F.conv2d(images, w["stem.conv.weight"], stride=2, padding=1), w, "stem.norm").relu()
    for block, stride in (("stages.0.0", 2), ("stages.1.0", 1), ("stages.2.0", 2)):
        y = normed(F.conv2d(x, w[f"{block}.conv1.weight"], stride=stride, padding=1), w, f"{block}.norm1").relu()
        y = normed(F.conv2d(y, w[f"{block}.conv2.weight"], padding=1), w, f"{block}.norm2")
        if f"{block}.shortcut.conv.weight" in w:
            x = normed(F.conv2d(x, w[f"{block}.shortcut.conv.weight"], stride=stride), w, f"{block}.shortcut.norm")
        x = (x + y).relu()
    torch.testing.assert_close(network(images), F.linear(x.mean((2, 3)), w["head.weight"], w["head.bias"]))


def test_the_dissected_stage_has_128_units_on_16_by_16():
    network = ResidualNet(10).eval()
    layer = geometry(network, torch.zeros(1, 3, 64, 64))["stages.1.0"]
    assert (layer.units, layer.grid, layer.axes) == (128, (16, 16), "nkij")
    assert 500_000 < sum(p.numel() for p in network.parameters()) < 800_000


def test_the_cost_of_a_residual_net_is_about_ninety_million_multiplications():
    counted = []

    def count(module, inputs, output):
        counted.append(output[0].numel() * module.weight[0].numel())

    network = ResidualNet(10).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(1, 3, 64, 64))
    assert 80e6 < sum(counted) < 100e6


def test_no_relu_is_shared_or_works_in_place():
    for network in (ResidualNet(2), UNet(2), FactorNet({"a": 2})):
        calls = []
        relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
        assert not any(relu.inplace for relu in relus)
        for relu in relus:
            relu.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(module))
        network.eval()(torch.zeros(1, 3, 28, 28))
        assert len(calls) == len(set(calls)) == len(relus)


@pytest.mark.parametrize("size", [28, 50, 256])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_residual_nets_take_images_of_28_to_256_px(size, n_channels):
    network = ResidualNet(4, n_channels=n_channels, width=0.25, repeats=(1, 2, 1)).eval()
    assert network(torch.zeros(2, n_channels, size, size)).shape == (2, 4)


def test_a_stem_without_stride_doubles_the_grid():
    shapes = [
        geometry(ResidualNet(2, width=0.25, stem_stride=stride).eval(), torch.zeros(1, 3, 28, 28))["stages.1"].grid
        for stride in (1, 2)
    ]
    assert shapes == [(14, 14), (7, 7)]


def test_a_factor_net_tells_its_heads_apart():
    network, images = made(lambda: FactorNet({"roof": 3, "hue": 1}, width=0.25)), noise(2, 3, 32, 32)
    outputs = network(images)
    parts = network.split(outputs)
    seen = F.adaptive_avg_pool2d(network.stages(network.stem(images)), 4).flatten(1)
    torch.testing.assert_close(parts["roof"], network.heads["roof"](seen))
    torch.testing.assert_close(parts["hue"], network.heads["hue"](seen))
    assert torch.equal(torch.cat(list(parts.values()), 1), outputs)


@pytest.fixture
def vit() -> VisionTransformer:
    with seeded(0):
        network = VisionTransformer(5, size=32, dim=16, depth=2, n_heads=2)
    for name, weight in network.named_parameters():
        weight.data = weight.data + 0.3 * noise(*weight.shape) if "norm" not in name else weight.data.double()
    return network.double().eval()


def test_a_vision_transformer_is_what_the_formula_says(vit):
    images, w = noise(2, 3, 32, 32), vit.state_dict()

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    answers = []
    for image in images:
        patches = [image[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten() for i in range(4) for j in range(4)]
        tokens = torch.stack(patches) @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
        x = torch.cat([w["cls_token"][0], tokens]) + w["pos_embed"][0]
        for block in ("blocks.0", "blocks.1"):
            q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(16, 1)
            heads = []
            for m in (slice(0, 8), slice(8, 16)):
                weights = (q[:, m] @ k[:, m].T / 8**0.5).exp()
                heads.append(weights / weights.sum(1, keepdim=True) @ v[:, m])
            x = x + linear(torch.cat(heads, 1), f"{block}.attn.proj")
            hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            x = x + linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, f"{block}.mlp.fc2")
        answers.append(linear(norm(x, "norm")[0], "head"))
    torch.testing.assert_close(vit(images), torch.stack(answers))


def test_a_vision_transformer_has_the_weights_of_timms_by_name_and_shape(timm):
    theirs = timm.models.VisionTransformer(
        img_size=64, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=7
    )
    ours = VisionTransformer(7)
    ours.load_state_dict(theirs.state_dict())
    images = noise(2, 3, 64, 64)
    torch.testing.assert_close(ours.double().eval()(images), theirs.double().eval()(images))


def test_geometry_knows_the_tokens_and_the_attention_of_a_vision_transformer(vit):
    found = geometry(vit, noise(1, 3, 32, 32))
    assert (found["blocks.1"].grid, found["blocks.1"].prefix, found["blocks.1"].units) == ((4, 4), 1, 16)
    assert found.usual() == "blocks.0"


def test_attention_probabilities_can_be_read(vit):
    seen = []
    vit.blocks[0].attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    vit(noise(2, 3, 32, 32))
    assert seen[0].shape == (2, 2, 17, 17)
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 2, 17, dtype=torch.float64))


def test_a_vision_transformer_refuses_images_of_another_size(vit):
    with pytest.raises(BadInput, match=re.escape("32 × 40 px; this transformer takes 32 × 32")):
        vit(noise(1, 3, 32, 40))
    with pytest.raises(BadInput, match="64 px do not divide into patches of 7"):
        VisionTransformer(2, patch=7)


@pytest.mark.parametrize(("h", "w"), [(28, 28), (30, 34), (32, 64)])
def test_a_u_net_names_every_pixel_of_images_of_any_even_size(h, w):
    network = UNet(5).eval()
    assert network(torch.zeros(2, 3, h, w)).shape == (2, 5, h, w)
    assert 60_000 < sum(p.numel() for p in network.parameters()) < 100_000


def test_a_u_net_sees_forty_four_rows_around_each_pixel():
    network, images = made(lambda: UNet(2)), noise(1, 3, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(network(images)[0, :, 32, 32].sum(), images)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
    # A pair of convolutions adds 2 rows on each side. Full size 30…34, middle 15…17, with its pair 13…19, lowest 6…9,
    # with its pair 4…11; and back: middle 8…23, with its pair 6…25, full size 12…51, with its pair 10…53.
    assert (rows.min(), rows.max()) == (10, 53)


def test_a_u_net_moves_with_its_image():
    # by four pixels, the stride of the lowest level; zeros around keep the border out of sight
    network, images = made(lambda: UNet(2, width=4)), noise(1, 3, 8, 8)
    here = network(F.pad(images, (40, 44, 40, 44)))
    there = network(F.pad(images, (44, 40, 44, 40)))
    torch.testing.assert_close(here[..., 36:52, 36:52], there[..., 40:56, 40:56])
