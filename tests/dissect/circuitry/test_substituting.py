"""Units replaced by other detectors on the same scale."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, probe
from glasshouse.dissect.circuitry.substituting import substitute_units

IMAGES = torch.rand(6, 3, 10, 10, generator=torch.Generator().manual_seed(1))


class Units(nn.Module):
    """Some units of a network's layer, stretched and moved."""

    def __init__(self, net: nn.Module, units: list[int], stretch: float, move: float):
        super().__init__()
        self.net, self.units, self.stretch, self.move = net, units, stretch, move

    def forward(self, images: Tensor) -> Tensor:
        return self.stretch * self.net[:2](images)[:, self.units] + self.move


def test_units_replaced_by_themselves_on_another_scale_change_nothing(cnn):
    double = substitute_units(cnn, Units(cnn, [5, 2], 3.0, -7.0), IMAGES, layer="1", units=[5, 2])
    torch.testing.assert_close(double(IMAGES), cnn(IMAGES), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(double.scale, torch.full((2,), 1 / 3), atol=1e-5, rtol=0)


def test_new_maps_have_the_old_mean_and_spread_and_other_units_stay(cnn):
    torch.manual_seed(0)
    other = nn.Conv2d(3, 2, 3, padding=1)
    changed = substitute_units(cnn, other, IMAGES, layer="1", units=[0, 3])
    with probe(changed.network, "2") as seen, torch.no_grad():
        changed(IMAGES)
    old = cnn[:2](IMAGES).detach()
    with probe(cnn, "2") as through, torch.no_grad():
        cnn(IMAGES)
    assert seen["2"].shape == through["2"].shape
    maps = changed.scale[:, None, None] * other(IMAGES).detach() + changed.shift[:, None, None]
    for row, unit in enumerate([0, 3]):
        assert float(maps[:, row].mean()) == pytest.approx(float(old[:, unit].mean()), abs=1e-5)
        assert float(maps[:, row].std()) == pytest.approx(float(old[:, unit].std()), abs=1e-5)


def test_the_model_is_left_alone(cnn):
    before = {name: weight.clone() for name, weight in cnn.state_dict().items()}
    changed = substitute_units(cnn, nn.Conv2d(3, 1, 1), IMAGES, layer="1", units=[4])
    changed(IMAGES)
    assert all(torch.equal(weight, before[name]) for name, weight in cnn.state_dict().items())
    assert not any(module._forward_hooks for module in cnn.modules())


def test_a_mistake_is_named(cnn):
    with pytest.raises(BadInput, match=r"for 6 images and 2 units"):
        substitute_units(cnn, nn.Conv2d(3, 1, 1), IMAGES, layer="1", units=[4, 5])
    still = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(still.weight)
    nn.init.constant_(still.bias, -0.0043)  # rounding makes the deviation of such values larger than 0
    with pytest.raises(BadInput, match=r"units \[4\] answer the same everywhere"):
        substitute_units(cnn, still, IMAGES, layer="1", units=[4])
