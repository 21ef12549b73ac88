"""Maps, masks, and models that are never asked anything."""

import pytest
import torch
from torch import nn

from glasshouse.core import Explanation

SIZE = (9, 13)


def drawn(n=6, size=SIZE, seed=0, levels=None):
    """Random maps with a random mask each; with `levels`, of that many distinct values, so that many are equal."""
    draws = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, *size, generator=draws)
    masks = torch.rand(n, *size, generator=draws) < torch.linspace(0.1, 0.8, n).view(-1, 1, 1)
    return (maps if levels is None else (maps * levels / 4).round()), masks


@pytest.fixture
def asked():
    """Call a metric about maps and masks, without a model that could answer."""

    def asked(metric, maps, *masks, target=0, **settings):
        explanation = Explanation(maps, maps, "by_hand", (target,) * len(maps), torch.zeros(len(maps)), {})
        return metric(nn.Identity(), torch.zeros(len(maps), 1, *maps.shape[1:]), explanation, *masks, **settings)

    return asked


@pytest.fixture
def pairs():
    return drawn
