"""Areas under the ROC curve and the precision-recall curve of maps against masks, beside scikit-learn's."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import TARGET, Case, Settings, Sides
from benchmarks.nets import peer
from glasshouse import evaluate
from glasshouse.core import Cost, Explanation, generator


def areas(model: nn.Module, images: Tensor, settings: Settings) -> Sides:
    """Both areas of each map from one sort, against a rectangle that lies somewhere in each image."""
    library, (n, _, h, w) = peer("sklearn.metrics"), images.shape
    maps = images.sum(1)
    top, left = (torch.randint(side // 2, (n, 1, 1), generator=generator(0)) for side in (h, w))
    rows, cols = torch.arange(h).view(1, h, 1), torch.arange(w).view(1, 1, w)
    masks = (rows >= top) & (rows < top + h // 3) & (cols >= left) & (cols < left + w // 2)
    explanation = Explanation(maps, maps, "by_hand", (TARGET,) * n, torch.zeros(n), {})

    def own() -> Tensor:
        order = evaluate.ordering(explanation, masks)
        metrics = (evaluate.localisation_auc, evaluate.localisation_ap)
        return torch.stack([metric(model, images, explanation, masks, order=order).value for metric in metrics], 1)

    def other() -> Tensor:
        pairs = zip(masks.flatten(1).numpy(), maps.flatten(1).numpy(), strict=True)
        found = [(library.roc_auc_score(*pair), library.average_precision_score(*pair)) for pair in pairs]
        return torch.tensor(found)

    return Sides(own, other)


def one_pass(settings: Settings, shape: tuple[int, ...]) -> Cost:
    """What is raced makes no pass; the share then says how many times it fits into one of a small network."""
    return Cost(1)


BOTH: dict[str, Any] = {"cost": one_pass, "agreement": 1 - 1e-9}

CASES: tuple[Case, ...] = (
    Case("localisation_auc", "creatures_cnn", 64, "scikit-learn", areas, faster=20.0, **BOTH),
    Case("localisation_auc", "creatures_cnn", 1, "scikit-learn", areas, faster=5.0, **BOTH),
)
