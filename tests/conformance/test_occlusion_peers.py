"""Occlusion by boxes and as a whole beside Captum's, on real architectures."""

import warnings
from functools import cache

import pytest
from torch import Tensor

from conformance.architectures import fresh, pictures
from glasshouse import attribute

captum = pytest.importorskip("captum.attr")


@cache
def by_captum(name: str, size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return captum.Occlusion(fresh(name).double()).attribute(
            pictures(2, size).double(),
            target=[3, 7],
            sliding_window_shapes=(3, *window),
            strides=(3, *stride),
            baselines=0.5,
            perturbations_per_eval=16,
        )


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("engine", ["auto", "incremental", "dense"])
@pytest.mark.parametrize(
    ("name", "size", "window", "stride"),
    [
        ("residual", (64, 64), (6, 9), (5, 7)),
        ("toy", (40, 56), (8, 8), (8, 8)),
        pytest.param("resnet18", (64, 64), (10, 10), (9, 10), marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", (64, 64), (16, 16), (12, 12), marks=pytest.mark.slow),
        pytest.param("timm_convnext_atto", (64, 64), (16, 16), (12, 12), marks=pytest.mark.slow),
    ],
)
def test_captum_gives_the_same(name, size, window, stride, engine):
    net, images = fresh(name).double(), pictures(2, size).double()
    expected = by_captum(name, size, window, stride)
    settings = {"sliding_window_shapes": window, "strides": stride, "baselines": 0.5, "score": "logit"}
    found = attribute.occlusion(net, images, [3, 7], engine=engine, **settings).native
    assert (found - expected[:, :1]).abs().max() < 1e-5 * expected.abs().max()
