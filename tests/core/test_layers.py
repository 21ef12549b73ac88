"""Axes of layers: what is inferred, what is refused, and maps as images of units whatever the order of axes."""

import gc
import weakref

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from glasshouse.core import BadModel, LayerNotFound, NothingMatched, geometry, probe, unit_maps


class Tokens(nn.Module):
    """A transformer's stem: patches, tokens before them, a layer on tokens (or on tokens as the last axis)."""

    def __init__(self, prefix: int, last: bool = False):
        super().__init__()
        self.patch, self.prefix = nn.Conv2d(3, 6, 4, 4), nn.Parameter(torch.zeros(1, prefix, 6))
        self.mix, self.turn, self.head = nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patch(inputs).flatten(2).transpose(1, 2)
        tokens = self.mix(torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], 1))
        return self.head(self.turn(tokens.transpose(1, 2)).transpose(1, 2).mean(1))


class Last(nn.Module):
    """Channels-last after its stem."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm, self.mix = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.mix(self.norm(self.patch(inputs).permute(0, 2, 3, 1))).mean((1, 2))


def output_of(net: nn.Module, images: Tensor, layer: str) -> Tensor:
    with torch.no_grad(), probe(net, layer) as seen:
        net(images)
    return seen[layer]


def test_a_convolutions_maps_are_its_output(cnn, images):
    found = geometry(cnn, images)["3"]
    output = output_of(cnn, images, "3")
    assert (found.axes, found.units, found.grid, found.prefix, found.kind) == ("nkij", 8, (7, 9), 0, "Conv2d")
    assert torch.equal(found.maps(output), output)


def test_a_vector_has_one_position(cnn, images):
    found = geometry(cnn, images)["7"]
    output = output_of(cnn, images, "7")
    assert (found.axes, found.units, found.grid, found.spatial) == ("nk", 4, (1, 1), False)
    assert torch.equal(found.maps(output), output[:, :, None, None])


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tokens_lie_on_the_grid_of_patches_behind_those_before_them(images, prefix):
    net, images = Tokens(prefix).eval(), images[..., :12, :16]
    found, output = geometry(net, images)["mix"], output_of(net, images, "mix")
    assert (found.axes, found.units, found.grid, found.prefix) == ("ntk", 6, (3, 4), prefix)
    by_hand = rearrange(output[:, prefix:], "n (i j) k -> n k i j", i=3)
    assert torch.equal(found.maps(output), by_hand)
    assert found.boxes(torch.tensor([0, 5, 11])).tolist() == [[0, 0, 4, 4], [4, 4, 8, 8], [8, 12, 12, 16]]


def test_tokens_on_the_last_axis_are_turned(images):
    net, images = Tokens(1).eval(), images[..., :12, :16]
    found, output = geometry(net, images)["turn"], output_of(net, images, "turn")
    assert (found.axes, found.grid, found.prefix) == ("nkt", (3, 4), 1)
    assert torch.equal(found.maps(output), rearrange(output[:, :, 1:], "n k (i j) -> n k i j", i=3))
    new = torch.randn(3, 6, 3, 4)
    back = found.unmaps(new, output)
    assert torch.equal(found.maps(back), new)
    assert torch.equal(back[:, :, 0], output[:, :, 0])


def test_channels_last_layers_are_recognised_by_what_acts_on_them(images):
    net = Last().eval()
    found, output = geometry(net, images)["norm"], output_of(net, images, "norm")
    assert (found.axes, found.units, found.grid) == ("nijk", 6, (7, 9))
    assert torch.equal(found.maps(output), rearrange(output, "n i j k -> n k i j"))
    assert found.boxes(torch.tensor([0, 62])).tolist() == [[0, 0, 2, 2], [12, 16, 14, 18]]


def test_the_inputs_of_layers_have_geometry_of_their_own(cnn, images):
    layers = geometry(cnn, images)
    assert (layers["3.input"].units, layers["3.input"].grid) == (6, (7, 9))
    assert (layers["7.input"].axes, layers["7.input"].units) == ("nk", 8)
    assert layers["3.input#0"] == layers["3.input"]
    assert layers["3#0"] == layers["3"]


def test_a_layer_that_is_not_there_names_the_nearest(cnn, images):
    with pytest.raises(LayerNotFound, match="no layer '33'"):
        geometry(cnn, images)["33"]
    with pytest.raises(LayerNotFound, match="no layer '33'"):
        unit_maps(cnn, images, "33")


def test_layers_whose_units_cannot_be_told_apart_are_refused(images):
    net = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 9)), nn.Linear(9, 2))
    with pytest.raises(NothingMatched, match=r"cannot tell the units of layer '0' \(Flatten"):
        unit_maps(net, images, "0")


def test_the_usual_layer_is_the_last_with_positions_under_its_shortest_name(images):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    net = nn.Sequential(nn.Sequential(body), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert geometry(net, images).usual() == "0"
    assert geometry(nn.Sequential(*net[:1], nn.BatchNorm2d(4), nn.Flatten()).eval(), images).usual() == "1"


def test_a_layer_that_runs_often_is_not_the_usual_one(images):
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.AdaptiveAvgPool2d(1))
    assert geometry(net, images).usual() == "2"


def test_a_model_without_positions_has_no_usual_layer(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 18, 2))
    with pytest.raises(BadModel, match="no layer of this model has a spatial output"):
        geometry(net, images).usual()


def test_geometry_follows_the_size_of_the_images_and_a_layer_that_is_swapped(cnn, images):
    assert geometry(cnn, images)["3"].grid == (7, 9)
    assert geometry(cnn, images[..., :8, :8])["3"].grid == (4, 4)
    cnn[2] = nn.AvgPool2d(3, 3)
    assert geometry(cnn, images)["3"].grid == (4, 6)


def test_a_setting_that_changes_is_noticed(cnn, images):
    assert geometry(cnn, images)["0"].grid == (14, 18)
    cnn[0].stride = (2, 2)
    assert geometry(cnn, images)["0"].grid == (7, 9)


def test_geometry_keeps_no_model_alive(cnn, images):
    geometry(cnn, images)
    model = weakref.ref(net := nn.Sequential(nn.Conv2d(3, 2, 1)))
    geometry(net, images)
    del net
    gc.collect()
    assert model() is None


def test_looking_at_a_model_in_training_mode_changes_nothing(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    geometry(net, images)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in net.modules())
