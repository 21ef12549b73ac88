"""Small members of the families that people use, with random weights, for tests that run over all of them.

A test that calls `build` or `fresh` asks for the fixture `timm` first. All take images of 64 pixels.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.zoo.nets import efficientnet_lite

SIZE, CLASSES = 64, 10


class Residual(nn.Module):
    """A residual net that writes in place, uses one ReLU many times, and adds with `+=`."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.3)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu(self.stem(inputs))
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x
        return self.head(self.drop(self.relu(y)).mean((2, 3)))


def toy(channels: int = 3) -> nn.Module:
    """Convolutions, a norm, in-place ReLUs, pooling, one linear layer: every attribution method applies."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


class Attentive(nn.Module):
    """Patches, a class token, two blocks of attention without positions, so that images of any shape go through."""

    def __init__(self, channels: int = 3, classes: int = CLASSES):
        super().__init__()
        self.patches, self.token = nn.Conv2d(channels, 16, 4, stride=4), nn.Parameter(torch.zeros(1, 1, 16))
        self.blocks = nn.ModuleList(Block(16, 2) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, classes)
        nn.init.normal_(self.head.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Block(nn.Module):
    """Attention and two layers, each behind a norm and beside a skip connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        nn.init.normal_(self.qkv.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        return tokens + self.narrow(F.gelu(self.wide(self.norm2(tokens))))


def torchvision_model(name: str) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, weights=None, num_classes=CLASSES)


def small_head(name: str, features: int) -> nn.Module:
    """VGG and AlexNet without the hundred million weights of their classifiers."""
    with torch.device("meta"):
        model = torchvision_model(name)
    model.classifier = nn.Sequential(nn.Linear(features, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, CLASSES))
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def torchvision_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], layer_scale=0.5, num_classes=CLASSES)


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(SIZE, 16, 2, 2, 32, 64, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight)  # zero until trained
    return model


def torchvision_densenet() -> nn.Module:
    from torchvision.models.densenet import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 3, 3, 2), num_init_features=16, num_classes=CLASSES)


def torchvision_regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    blocks = BlockParams.from_init_params(depth=6, w_0=24, w_a=36, w_m=2.5, group_width=8, se_ratio=0.25)
    return RegNet(blocks, num_classes=CLASSES, stem_width=16)


def torchvision_swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=CLASSES)


def timm_model(name: str) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES)


def timm_vit(registers: int = 0, size: int | tuple[int, int] = SIZE) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    size = (size, size) if isinstance(size, int) else size
    model = VisionTransformer(size, 16, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES, reg_tokens=registers)
    nn.init.normal_(model.head.weight)  # zero until trained
    return model


def timm_distilled() -> nn.Module:
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(SIZE, 16, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES)


def timm_swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(SIZE, 4, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=CLASSES)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "toy": toy,
    "residual": Residual,
    "alexnet": partial(small_head, "alexnet", 9216),
    "vgg11": partial(small_head, "vgg11", 25088),
    "squeezenet1_1": partial(torchvision_model, "squeezenet1_1"),
    "resnet18": partial(torchvision_model, "resnet18"),
    "densenet": torchvision_densenet,
    "mobilenet_v2": partial(torchvision_model, "mobilenet_v2"),
    "mobilenet_v3_small": partial(torchvision_model, "mobilenet_v3_small"),
    "regnet_y": torchvision_regnet,
    "shufflenet_v2_x0_5": partial(torchvision_model, "shufflenet_v2_x0_5"),
    "convnext": torchvision_convnext,
    "vit": torchvision_vit,
    "swin": torchvision_swin,
    "efficientnet_lite0": efficientnet_lite.lite0,
    "timm_seresnet18": partial(timm_model, "legacy_seresnet18"),
    "timm_resnet10t": partial(timm_model, "resnet10t"),
    "timm_convnext_atto": partial(timm_model, "convnext_atto"),
    "timm_vit": timm_vit,
    "timm_vit_registers": partial(timm_vit, 4),
    "timm_distilled": timm_distilled,
    "timm_swin": timm_swin,
}
QUICK = ("toy", "residual", "squeezenet1_1", "vit", "timm_swin")


def fresh(name: str) -> nn.Module:
    """A new network in evaluation mode, its norms set to what its layers give, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = BUILDERS[name]()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
        if norms:
            with torch.no_grad():
                model.train()(torch.randn(4, 3, SIZE, SIZE))
    return model.eval()


@cache
def build(name: str) -> nn.Module:
    """`fresh`, shared between tests: leave it as it is."""
    return fresh(name)


def pictures(n: int = 2, size: tuple[int, int] = (SIZE, SIZE), channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))
