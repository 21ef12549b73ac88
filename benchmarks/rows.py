"""From a case to a row: compare, then race against the peer and against the network's own passes."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Sides
from benchmarks.nets import Missing, mend_torchvision, network, pictures
from benchmarks.timing import Clock, Race, clock, cosine, count_passes, peak_memory, quartiles, race
from glasshouse.core import Cost, prepare

SIZE, QUICK_SIZE = 224, 64


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    size: int
    rounds: int
    seconds: float
    quick: bool


THOROUGH = Effort(SIZE, 5, 20.0, quick=False)
QUICK = Effort(QUICK_SIZE, 2, 0.0, quick=True)


def measure(case: Case, effort: Effort) -> dict[str, Any]:
    """The row of a case. A peer that is missing skips it; answers that differ make it invalid, and no time is taken."""
    settings = {**case.settings, **(case.quick if effort.quick else {})}
    effort = replace(effort, size=case.size or effort.size)
    row: dict[str, Any] = {
        "method": case.method,
        "model": case.model,
        "batch": case.batch,
        "dtype": "float32",
        "settings": settings,
        "peer": case.peer,
        "target_ratio": case.faster,
        "target_share": case.share,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        try:
            model = network(case.model, effort.size, case.inplace)
            images = pictures(case.batch, effort.size)
            sides = case.sides(model, images, settings)
        except Missing as missing:
            return {**row, "status": f"skipped: {missing}"}
        row["passes_counted"] = count_second_call(sides, case.batch)
        cost = case.passes(settings, tuple(images.shape))
        row["passes_declared"] = cost._asdict()
        if sides.peer is not None:
            row["agreement"] = cosine(*sides.answers())
            if not row["agreement"] >= case.agreement:
                return {**row, "status": f"invalid: cosine {row['agreement']:.6f}"}
        return {**row, "status": "done", **timed(case, sides, cost, model, images, effort)}


def count_second_call(sides: Sides, images: int) -> dict[str, float]:
    """Passes per image of a call, once the plan and the geometry of the layers are known."""
    sides.own()
    return count_passes(sides.own, images)


def timed(case: Case, sides: Sides, cost: Cost, model: nn.Module, images: Tensor, effort: Effort) -> dict[str, Any]:
    """Times and ratios."""
    batch = min(case.limit_batch or case.batch, round(case.batch * cost.forward))
    clocks: dict[str, Clock] = {"own": clock(sides.own)}
    if sides.peer is not None:
        clocks["peer"] = clock(sides.peer)
    clocks |= limits(model, pictures(batch, effort.size), cost)
    found = race(clocks, "best forward", effort.rounds, effort.seconds)
    return {
        **summary(found),
        "ratio_to_eager_limit": share(found, "eager", cost, case.batch / batch),
        "ratio_to_best_limit": share(found, "best", cost, case.batch / batch),
        "limit_batch": batch,
        "peak_rss": peak_memory(sides.own),
        "peak_rss_peer": None if sides.peer is None else peak_memory(sides.peer),
    }


def summary(found: Race) -> dict[str, Any]:
    """Of the rounds that count: how many, seconds of our side and the peer's, how many times faster."""
    low, middle, high = quartiles(found.seconds["own"])
    row = {"n": len(found.seconds["own"]), "median": middle, "q1": low, "q3": high, "noisy": found.noisy}
    if "peer" in found.seconds:
        row["peer_median"] = found.median("peer")
        row["ratio_to_peer"] = quartiles(found.ratios("peer", "own"))
    return row


def limits(model: nn.Module, images: Tensor, cost: Cost) -> dict[str, Clock]:
    """The network's bare passes on a full batch: as it comes, and as the best plan runs it."""
    eager = copy.deepcopy(model).requires_grad_(False)
    clocks: dict[str, Clock] = {}
    for name, run in (("eager", eager), ("best", prepare(model, images).model)):
        clocks[f"{name} forward"] = clock(forward(run, images))
        if cost.backward:
            clocks[f"{name} both"] = clock(forward_and_backward(run, images))
    return clocks


def forward(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return model(images)

    return run


def forward_and_backward(model: nn.Module, images: Tensor) -> Callable[[], Any]:
    def run() -> Any:
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, TARGET].sum(), leaf)

    return run


def share(found: Race, limit: str, cost: Cost, batches: float) -> tuple[float, float, float]:
    """Time that the passes alone would take, over the time that the method took; 1 is all that can be had.

    Args:
        batches: images over the images in one pass of the limit.
    """
    alone, both = found.seconds[f"{limit} forward"], found.seconds.get(f"{limit} both")
    ratios: list[float] = []
    for lap, own in enumerate(found.seconds["own"]):
        ideal = (cost.forward - cost.backward) * alone[lap] + (cost.backward * both[lap] if both else 0)
        ratios.append(batches * ideal / own)
    return quartiles(ratios)


IMPORTS = {
    "captum": "import captum.attr",
    "pytorch-grad-cam": "import pytorch_grad_cam",
}
# What nets.mend_torchvision does, less the attempt without it, which would load half of torchvision off the clock.
MEND = """
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
TIMER = """
import time, torch
{before}
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""


def measure_import(name: str, effort: Effort) -> dict[str, Any]:
    """Seconds that importing the library adds to importing torch, in fresh processes."""
    row: dict[str, Any] = {"method": "import", "model": "", "batch": 0, "dtype": "", "settings": {}, "peer": name}
    sides = {
        "own": importer("import glasshouse.core, glasshouse.attribute"),
        "peer": importer(IMPORTS[name], MEND if mend_torchvision() else ""),
    }
    try:
        found = race(sides, None, effort.rounds, seconds=0)
    except Missing as missing:
        return {**row, "status": f"skipped: {missing}"}
    return {**row, "status": "done", **summary(found)}


def importer(statement: str, before: str = "") -> Clock:
    def run() -> float:
        code = TIMER.format(before=before, statement=statement)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(done.stderr.strip().rpartition("\n")[2])
        return float(done.stdout.split()[-1])

    return run
