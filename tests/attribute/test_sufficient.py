"""The smallest sufficient area, where it is known how much is enough."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.core import BadInput

QUICK = {"perturbation": "fade", "step": 3, "sigma": 9, "n_steps": 100, "learning_rate": 0.08}


class Spot(nn.Module):
    """Scores the light in the middle; nothing else counts."""

    def __init__(self):
        super().__init__()
        inside = torch.zeros(48, 48)
        inside[18:30, 18:30] = 1
        self.register_buffer("inside", inside / 144)

    def forward(self, x: Tensor) -> Tensor:
        y = 20 * (x.mean(1) * self.inside).sum((1, 2))
        return torch.stack([y, 1 - y], 1)


@pytest.fixture(scope="module")
def found():
    return attribute.smallest_area(Spot().eval(), torch.ones(1, 3, 48, 48), 0, share=0.8, **QUICK)


def test_what_is_shown_is_enough_by_itself(found):
    with torch.no_grad():
        score = Spot()(torch.ones(1, 3, 48, 48) * found.native)[:, 0]
    torch.testing.assert_close(found.extras["reward"], score)
    assert float(score) >= 0.8 * 20


def test_it_is_little_more_than_the_spot_itself(found):
    spot = 144 / 64**2
    assert 0.8 * spot < float(found.extras["area"]) < 3 * spot
    assert found.heatmap[0, 20:28, 20:28].mean() > 0.9


def test_areas_are_tried_by_halving_in_ratio(found):
    low, high = 0.005, 1.0
    for area, reward in zip(found.extras["tried"][0].tolist(), found.extras["rewards"][0].tolist(), strict=True):
        assert area == pytest.approx((low * high) ** 0.5)
        low, high = (low, area) if reward >= 16 else (area, high)


def test_each_image_has_an_area_of_its_own():
    net = Spot().eval()
    images = torch.ones(2, 3, 48, 48)
    images[1] *= 0.5 + torch.rand(48, 48, generator=torch.Generator().manual_seed(0))
    both = attribute.smallest_area(net, images, [0, 1], n_rounds=2, **{**QUICK, "n_steps": 20})
    for n in range(2):
        alone = attribute.smallest_area(net, images[n : n + 1], n, n_rounds=2, **{**QUICK, "n_steps": 20})
        torch.testing.assert_close(alone.heatmap, both.heatmap[n : n + 1], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.extras["tried"], both.extras["tried"][n : n + 1])


def test_where_nothing_smaller_is_enough_the_whole_image_is_shown():
    settings = {**QUICK, "share": 3.0, "n_rounds": 2, "n_steps": 5}
    e = attribute.smallest_area(Spot().eval(), torch.ones(1, 3, 48, 48), 0, **settings)
    assert float(e.heatmap.min()) > 0.95
    assert float(e.extras["reward"]) == pytest.approx(20)


@pytest.mark.parametrize("settings", [{"n_rounds": 0}, {"n_steps": 0}, {"share": 0.0}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_errors(settings):
    with pytest.raises(BadInput, match="above 0"):
        attribute.smallest_area(Spot().eval(), torch.ones(1, 3, 48, 48), 0, **settings)
