"""The networks and images that every side of a race is given, and the peers that are installed."""

import importlib
import sys
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

from glasshouse import zoo
from glasshouse.core import blur, generator
from glasshouse.zoo.nets import efficientnet_lite

CLASSES = 1000
TRAINED = ("creatures_cnn",)
_KEPT_ALIVE: list[torch.library.Library] = []  # the schemas vanish with the object


class Missing(Exception):
    """A package that this row needs is not installed; the row is skipped."""


def peer(name: str) -> ModuleType:
    """A module of another package, or `Missing`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mend_torchvision()
            return importlib.import_module(name)
        except ImportError as error:
            raise Missing(f"{name} cannot be imported: {error}") from error


@cache
def mend_torchvision() -> bool:
    """Let torchvision load where its compiled part was built for another torch; whether that was necessary.

    Two operators are then declared without code, which is enough for classification models.
    """
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return False
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)
    return True


def network(name: str, size: int, inplace: bool = True) -> nn.Module:
    """A network with random weights that signals pass through as through a trained one, and a head that is not 0.

    Those of `TRAINED` come with their weights.

    Args:
        inplace: False for peers whose hooks do not survive ReLUs that overwrite their input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = build(name, size)
        if name not in TRAINED:
            settle_norms(model, size)
        if name.startswith("vit"):
            nn.init.normal_(model.head.weight, std=0.02)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = module.inplace and inplace
    return model.eval()


def settle_norms(model: nn.Module, size: int) -> None:
    """Give batch norms what their layers give, then disturb it, so that none of them is the identity."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pictures(4, size))
    for norm in norms:
        norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features)
        norm.running_var *= torch.empty(norm.num_features).uniform_(0.5, 1.5)


def build(name: str, size: int) -> nn.Module:
    if name in TRAINED:
        return zoo.load(name).module
    if name == "efficientnet_lite0":
        return efficientnet_lite.lite0()
    if name.startswith("vit"):
        return peer("timm").create_model(name, pretrained=False, img_size=size, num_classes=CLASSES)
    return peer("torchvision.models").get_model(name, weights=None, num_classes=CLASSES)


def pictures(n: int, size: int) -> Tensor:
    """Smooth random images plus white noise, about as wide as normalised photographs are."""
    source = generator(0)
    smooth = blur(torch.randn(n, 3, size, size, generator=source), sigma=size / 28)
    return smooth / smooth.std() + 0.1 * torch.randn(n, 3, size, size, generator=source)
