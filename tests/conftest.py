"""Shared fixtures: small networks, images, real weights and photographs, and a torchvision that imports."""

import gc
import hashlib
import importlib
import os
import random
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy
import pytest
import torch
from torch import nn

from glasshouse import zoo
from glasshouse.core.errors import MissingPackage
from glasshouse.core.model import Model

REPO = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.setdefault("GLASSHOUSE_REAL_DATA", str(REPO / ".real-data")))
REAL_IS_REQUIRED = os.environ.get("GLASSHOUSE_REQUIRE_REAL") == "1"

_KEPT_ALIVE: list[torch.library.Library] = []  # the schemas vanish with the object


def import_torchvision() -> ModuleType:
    """torchvision, also where its compiled part was built for another torch and cannot load.

    Two operators are then declared without code, which is enough for classification models. This is test
    equipment: the library itself explains the mismatch and stops.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT_ALIVE.append(library)
    return importlib.import_module("torchvision")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that draws from global generators, or whose fixtures or peers do, gets the same in any order of tests."""
    random.seed(1234)
    numpy.random.seed(1234)  # noqa: NPY002 - what peers draw from
    torch.manual_seed(1234)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of collected tests are not looked through again whenever a test collects its garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """With GLASSHOUSE_REQUIRE_REAL=1 a test marked `real` may not be skipped, unless it is `real(optional=True)`."""
    report = yield
    mark = item.get_closest_marker("real")
    if report.skipped and REAL_IS_REQUIRED and mark and not mark.kwargs.get("optional"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs real data: {reason}"
    return report


def real_wheel(name: str) -> Path:
    """A wheel that scripts/fetch_real.py fetched, its hash checked; where absent the test is skipped."""
    for line in (REPO / "scripts" / "real-data.txt").read_text().splitlines():
        if line.startswith(f"{name}=="):
            version, digest = line.split("==")[1].split()[0], line.split("sha256:")[1].split()[0]
            break
    else:
        raise LookupError(f"scripts/real-data.txt pins no {name}")
    found = sorted(REAL_DATA.glob(f"{name}-{version}-*.whl"))
    if not found:
        pytest.skip(f"no {name} {version} in {REAL_DATA}; type: python scripts/fetch_real.py {REAL_DATA}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != digest:
        pytest.fail(f"{found[0]} does not have the pinned SHA-256")
    return found[0]


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    try:
        return import_torchvision()
    except ImportError as error:
        pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.fixture(scope="session")
def timm(torchvision: ModuleType) -> ModuleType:
    return pytest.importorskip("timm")


@pytest.fixture(scope="session")
def lite0() -> Model:
    """EfficientNet-Lite0 with its trained weights. Shared: leave it as it is."""
    try:
        return zoo.load("efficientnet_lite0")
    except MissingPackage as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """20 photographs of ImageNet, each with the number of its class."""
    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(real_wheel("foolbox")) as wheel:
        for member in wheel.namelist():
            if member.startswith("foolbox/data/imagenet_"):
                (folder / Path(member).name).write_bytes(wheel.read(member))
    return [(path, int(path.stem.split("_")[-1])) for path in sorted(folder.iterdir())]


@pytest.fixture
def cnn() -> nn.Sequential:
    """A small classifier of four classes whose head is pooling, then linear. Layer `4` feeds the pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ).eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Three images, not square."""
    return torch.randn(3, 3, 14, 18, generator=torch.Generator().manual_seed(0))
