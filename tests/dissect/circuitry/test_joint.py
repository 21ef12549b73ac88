"""Turned images and the responses of a family to them."""

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, NotFound, find_method
from glasshouse.dissect.activity import exemplars
from glasshouse.dissect.circuitry import stimuli
from glasshouse.dissect.circuitry.joint import JointTuning, joint_tuning, turned

ORIENTATIONS = (0, 90, 180, 270, 45)


def bend_net() -> nn.Sequential:
    """Five curve filters of one shape."""
    net = nn.Sequential(nn.Conv2d(1, 5, 13, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        for unit, degrees in enumerate(ORIENTATIONS):
            bend = stimuli.curve(degrees, 5, 2).pixels((13, 13), channels=1)
            net[0].weight[unit] = bend - bend.mean()
    return net.eval()


PHOTOS = torch.stack(
    [stimuli.curve(0, 5, 2).pixels((31, 31), channels=1, centre=(15, 15 + i)) * (1 - 0.1 * i) for i in range(4)]
)


@pytest.fixture(scope="module")
def joint() -> JointTuning:
    seen = exemplars(bend_net(), PHOTOS, layer="1", k=3)
    return joint_tuning(bend_net(), PHOTOS, seen, unit=0, n_angles=24, batch_size=50)


def test_the_family_hands_the_response_on_at_its_own_angles(joint: JointTuning):
    assert joint.offset.tolist() == list(ORIENTATIONS)
    assert joint.mean.argmax(1).mul(15).tolist() == list(ORIENTATIONS)
    assert (joint.likeness > 0.95).all()
    found = joint.families(0.9)
    assert found.members == ((0, 4, 1, 2, 3),)


def test_responses_are_those_to_images_turned_by_hand(joint: JointTuning):
    net, seen = bend_net(), exemplars(bend_net(), PHOTOS, layer="1", k=3)
    first = int(seen.strongest.ids[0, 0])
    row, column = seen.strongest.positions[0, 0].tolist()
    assert (first, row, column) == (0, 9, 9)  # the curve lies in the middle of the image: rot90 turns it about itself
    for times in range(4):
        maps = net[:2](PHOTOS[:1].rot90(times, (2, 3)))
        torch.testing.assert_close(joint.responses[:, 0, 6 * times], maps[0, :, row, column].detach())


def test_quarter_turns_of_images_are_those_of_the_pixels():
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    middle = torch.full((2, 2), 4.0)
    found = turned(images, torch.tensor([90.0, 270]), middle)
    torch.testing.assert_close(found[0], images[0].rot90(1, (1, 2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], images[1].rot90(3, (1, 2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned(images, torch.zeros(2), middle - 3), images, rtol=0, atol=1e-6)


def test_beyond_the_border_stands_a_mirror_image():
    images = torch.arange(12.0).view(1, 1, 3, 4)
    found = turned(images, torch.tensor([180.0]), torch.tensor([[1.0, 1.0]]))[0, 0]
    assert found[:, 0].tolist() == pytest.approx([10, 6, 2])  # column 2 = 2·1 - 0
    assert found[:, 3].tolist() == pytest.approx([9, 5, 1])  # column -1 is column 1 in the mirror


def test_some_units_and_images(tmp_path):
    net = bend_net()
    seen = exemplars(net, PHOTOS, layer="1", k=3)
    found = joint_tuning(net, PHOTOS, seen, unit=2, units=[4, 0], k=2, n_angles=4)
    assert found.units.tolist() == [2, 4, 0]
    assert found.responses.shape == (3, 2, 4)
    assert torch.equal(JointTuning.load(found.save(tmp_path / "joint")).responses, found.responses)
    with pytest.raises(BadInput, match="n_angles=1 turns nothing"):
        joint_tuning(net, PHOTOS, seen, unit=2, n_angles=1)
    with pytest.raises(NotFound):
        joint_tuning(net, PHOTOS, seen, unit=7)


def test_it_is_found_by_its_name():
    assert find_method("joint_tuning", "dissect").function is joint_tuning
