"""Copies of one filter, turned, mirrored, negated and recoloured, found again."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, LayerNotFound, NotFound, find_method
from glasshouse.dissect.circuitry import stimuli
from glasshouse.dissect.circuitry.families import Families, equivariance, hue_turning, turning

FILTER = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))


def bank(*filters: Tensor) -> nn.Sequential:
    """A first layer with these filters."""
    net = nn.Sequential(nn.Conv2d(len(filters[0]), len(filters), filters[0].shape[-1], bias=False), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.stack(filters))
    return net.eval()


def quarter(times: int, of: Tensor = FILTER) -> Tensor:
    return of.rot90(times, (1, 2))


def test_quarter_turns_and_mirrors_of_kernels_are_exact():
    for k in (2, 3, 5, 8):
        kernel = torch.randn(k, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for times in range(4):
            turned = (turning(k, 90 * times) @ kernel.flatten()).view(k, k)
            assert torch.equal(turned, kernel.rot90(times))
        mirrored = (turning(k, 90, flip=True) @ kernel.flatten()).view(k, k)
        assert torch.equal(mirrored, kernel.flip(1).rot90(1))


def test_other_turns_are_bilinear_by_hand():
    kernel = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = (turning(5, 30, scale=1.2) @ kernel.flatten()).view(5, 5)
    c, s = 3**0.5 / 2, 0.5
    for row in range(5):
        for column in range(5):
            x, y = column - 2, 2 - row
            at_x, at_y = 2 + (c * x + s * y) / 1.2, 2 - (c * y - s * x) / 1.2
            total = 0.0
            for i in range(5):
                for j in range(5):
                    total += max(0, 1 - abs(at_y - i)) * max(0, 1 - abs(at_x - j)) * float(kernel[i, j])
            assert float(turned[row, column]) == pytest.approx(total, abs=1e-12)


def test_a_rotated_filter_bank_is_one_family_with_the_right_angles():
    other = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(5))
    found = equivariance(bank(quarter(0), quarter(2), other, quarter(3), quarter(1)), layer="0", threshold=0.95)
    assert found.members == ((0, 4, 1, 3),)
    assert found.phase[[0, 4, 1, 3]].tolist() == [0, 90, 180, 270]
    assert found.order(0) == 4
    assert found.similarity[0, 1] == pytest.approx(1, abs=1e-6)
    assert found.between(4, 3)["degrees"] == 180
    assert found.between(3, 4)["degrees"] == 180
    assert found.between(1, 3)["degrees"] == 90
    assert found.between(3, 1)["degrees"] == 270


def test_mirror_images_and_negatives_are_named_as_such():
    mirrored = quarter(1, FILTER.flip(2))
    found = equivariance(bank(FILTER, mirrored, -quarter(1)), layer="0", threshold=0.95)
    assert found.between(0, 1) == {
        "degrees": 90, "flipped": 1, "scale": 1, "hue": 0, "sign": 1, "similarity": pytest.approx(1, abs=1e-6)
    }  # fmt: skip
    assert found.between(0, 2)["sign"] == -1
    assert found.between(0, 2)["degrees"] == 90
    assert found.flipped.tolist() == [False, True, False]
    assert found.sign.tolist() == [1, 1, -1]
    assert len(equivariance(bank(FILTER, mirrored, -quarter(1)), layer="0", flips=False, signs=False).seed) == 3


def test_the_simplest_of_equal_relations_is_named():
    edge = stimuli.edge(0).pixels((7, 7)) - 0.5
    found = equivariance(bank(edge, -edge), layer="0")
    assert found.between(0, 1)["degrees"] == 180  # not a mirror image, nor a negative, which it is too
    assert (found.between(0, 1)["flipped"], found.between(0, 1)["sign"]) == (0, 1)
    assert found.between(0, 0)["degrees"] == 0


def test_angles_between_quarters_are_found_for_smooth_filters():
    angles = [0, 30, 75, 120]
    gabors = [stimuli.gabor(angle, 0.12, 90, sigma=2.5).pixels((13, 13), channels=1) - 0.5 for angle in angles]
    found = equivariance(bank(*gabors), layer="0", threshold=0.95)
    assert len(found.members) == 1
    assert [found.between(0, unit)["degrees"] for unit in range(4)] == angles


def test_hues_are_turned_about_the_grey_axis():
    turn = hue_turning(120)
    torch.testing.assert_close(turn @ torch.eye(3, dtype=torch.float64)[0], torch.tensor([0.0, 1, 0]).double())
    torch.testing.assert_close(hue_turning(50) @ torch.ones(3).double(), torch.ones(3).double())
    hued = torch.tensor(stimuli.hued(70)).double()
    torch.testing.assert_close(hue_turning(40) @ torch.tensor(stimuli.hued(30)).double(), hued, atol=1e-6, rtol=0)
    recoloured = torch.einsum("dc,chw->dhw", hue_turning(240).float(), FILTER)
    found = equivariance(bank(FILTER, recoloured), layer="0", hues=(0, 120, 240), threshold=0.95)
    assert found.between(0, 1)["hue"] == 240
    assert found.between(0, 1)["degrees"] == 0


def test_a_larger_copy_is_found_at_its_scale():
    small, large = (stimuli.gabor(20, f, 0, sigma=0.4 / f).pixels((15, 15)) - 0.5 for f in (0.2, 0.1))
    found = equivariance(bank(small, large), layer="0", scales=(1.0, 2.0), flips=False)
    assert found.between(0, 1)["scale"] == 2
    assert found.between(0, 1)["degrees"] == 0


def test_some_units_and_their_numbers(tmp_path):
    found = equivariance(bank(FILTER, quarter(1), FILTER * 2, quarter(2)), layer="0", units=[3, 1], threshold=0.9)
    assert found.members == ((3, 1),) or found.members == ((1, 3),)
    assert repr(found) == "Families(0, 2 units: 2 of order 2)"
    again = Families.load(found.save(tmp_path / "families"))
    torch.testing.assert_close(again.similarity, found.similarity)
    with pytest.raises(NotFound, match="unit 0 was not looked at"):
        found.between(0, 1)


def test_the_model_comes_back_as_it_was(cnn):
    before = cnn[0].weight.clone()
    equivariance(cnn, layer="0")
    assert torch.equal(cnn[0].weight, before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": "1"}, "layer '1' is no convolution"),
        ({"layer": "9"}, "no layer '9'"),
        ({"units": [2]}, "It has 2, from 0"),
        ({"scales": (0.0,)}, "no size of 0"),
    ],
)
def test_a_mistake_is_named(change: dict, said: str):
    with pytest.raises((BadInput, LayerNotFound, NotFound), match=said):
        equivariance(bank(FILTER, quarter(1)), **{"layer": "0"} | change)
    with pytest.raises(BadInput, match="hues need 3"):
        equivariance(bank(FILTER[:1], FILTER[:1]), layer="0", hues=(0, 90))
    with pytest.raises(BadInput, match="have one pixel"):
        equivariance(bank(FILTER[:, :1, :1]), layer="0")


def test_it_is_found_by_its_name():
    assert find_method("equivariance", "dissect").function is equivariance
