"""Network Dissection: counting beside loops over units, and the whole method beside the network's own forward pass."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.case import Case, Settings, Sides
from glasshouse import dissect
from glasshouse.core import Cost, probe, unit_maps
from glasshouse.core.labelled import Label
from glasshouse.dissect.netdissect.enlarging import Enlargement
from glasshouse.dissect.netdissect.overlaps import ConceptOverlap, Marks

N_CONCEPTS, N_IN_IMAGE, LEVEL = 200, 12, 0.995


class Marked:
    """Images with two label maps each, of half their size, in patches of twelve concepts out of two hundred."""

    categories = ("object", "part")
    labels = tuple(Label(n, f"concept {n}", ("object", "part")[n % 2]) for n in range(1, N_CONCEPTS + 1))

    def __init__(self, images: Tensor):
        n, side = len(images), images.shape[-1] // 2
        source = torch.Generator().manual_seed(0)
        shown = torch.rand(n, N_CONCEPTS, generator=source).argsort(1)[:, : 2 * N_IN_IMAGE].view(n, 2, N_IN_IMAGE) + 1
        patches = torch.randint(0, N_IN_IMAGE, (n, 2, 64), generator=source)
        coarse = shown.gather(2, patches).view(n, 2, 8, 8)
        self.images = images
        self.planes = F.interpolate(coarse.float(), (side, side), mode="nearest").long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        none = torch.zeros(0, dtype=torch.long)
        return {
            "image": self.images[index],
            "planes": self.planes[index],
            "plane_category": torch.arange(2),
            "whole": none,
            "whole_category": none,
        }


def counting(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Pixels that units and concepts share: from the cells in which units are active, and by a loop over units."""
    layer, marked = settings["layer"], Marked(images)
    with torch.no_grad(), probe(model, layer, stop=True) as seen:
        model(images)
    maps, place = seen[layer], unit_maps(model, images, layer)
    thresholds = maps.transpose(0, 1).flatten(1).quantile(LEVEL, 1)
    planes, n_units = marked.planes, maps.shape[1]
    enlarge = Enlargement.of(place, (planes.shape[2], planes.shape[3]), "half_pixel")
    belongs = torch.zeros(N_CONCEPTS + 1, 2, dtype=torch.bool)
    for label in marked.labels:
        belongs[label.number, label.number % 2] = True
    batch = {"planes": planes, "whole": torch.zeros(len(images), 0, dtype=torch.long)}

    def own() -> Tensor:
        found = ConceptOverlap(n_units, N_CONCEPTS, 2)
        found.update(enlarge.hits(maps, thresholds), Marks.of(batch, belongs), torch.arange(len(images)))
        return found.shared.sum(0)

    def theirs() -> Tensor:
        shared = torch.zeros(n_units, N_CONCEPTS + 1, dtype=torch.long)
        for image in range(len(images)):
            truths = [(label, plane == label) for plane in planes[image] for label in plane.unique().tolist() if label]
            for unit, map in enumerate(maps[image]):
                for label, both in _shared(map, float(thresholds[unit]), truths):
                    shared[unit, label] += both
        return shared

    return Sides(own, theirs)


def _shared(map: Tensor, threshold: float, truths: list[tuple[int, Tensor]]) -> Iterator[tuple[int, int]]:
    side = truths[0][1].shape
    large = F.interpolate(map[None, None], (side[0], side[1]), mode="bilinear", align_corners=False)[0, 0]
    mask = large > threshold
    if mask.any():
        for label, truth in truths:
            yield label, int((mask & truth).sum())


def units(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    marked = Marked(images)
    return Sides(lambda: dissect.units(model, marked, layer=settings["layer"], min_images=1))


def one_pass(settings: Settings, shape: tuple[int, ...]) -> Cost:
    return Cost(1)


ALONE: dict[str, Any] = {"cost": one_pass, "limit_batch": 16, "share": 1 / 1.3}

CASES: tuple[Case, ...] = (
    Case("units", "resnet18", 16, "loops", counting, {"layer": "layer4"}, cost=one_pass, faster=15.0, share=5.0),
    Case("units", "resnet18", 64, "", units, {"layer": "layer4"}, **ALONE),
    Case("units", "resnet18", 48, "", units, {"layer": "layer3"}, **ALONE),
)
