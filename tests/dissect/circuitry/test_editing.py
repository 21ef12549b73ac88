"""Circuits edited in a copy: what the new weights are, what predictions do, and that controls are as large."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, BadModel, LayerNotFound, Model, NothingMatched, find_method, generator
from glasshouse.dissect.circuitry.editing import EdgeEdit, EditEffect, edit_circuit, edit_effect, random_control

IMAGES = torch.rand(24, 3, 9, 11, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Sequential:
    rng = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) / 3)
    return layers


def labelled(net: nn.Module, images: Tensor = IMAGES) -> list[tuple[Tensor, Tensor]]:
    """Images with the classes that the network itself gives them."""
    with torch.no_grad():
        return list(zip(images, net(images).argmax(1), strict=True))


def test_cut_edges_give_what_convolving_the_other_inputs_gives(net: nn.Sequential):
    edited = edit_circuit(net, [EdgeEdit("2", [1, 3], [0, 4])]).module
    maps = net[:2](IMAGES)
    whole, without = net[2](maps), maps.clone()
    without[:, [0, 4]] = 0
    expected = whole.clone()
    expected[:, [1, 3]] = net[2](without)[:, [1, 3]]
    torch.testing.assert_close(edited[:3](IMAGES), expected)


def test_a_whole_unit_is_scaled_with_its_bias(net: nn.Sequential):
    expected = net[:3](IMAGES).clone()
    expected[:, 2] *= -0.5
    torch.testing.assert_close(edit_circuit(net, [EdgeEdit("2", [2], factor=-0.5)]).module[:3](IMAGES), expected)
    silent = edit_circuit(net, [EdgeEdit("2", [2])]).module
    assert not silent[:3](IMAGES)[:, 2].any()


def test_rewritten_edges_spread_over_those_chosen_and_edits_follow_each_other(net: nn.Sequential):
    kernel = torch.arange(9.0).view(3, 3)
    edits = [EdgeEdit("2", [0, 1], [5, 2], weights=kernel), EdgeEdit("2", [1], [2], factor=2.0)]
    weight = edit_circuit(net, edits).module[2].weight
    expected = net[2].weight.detach().clone()
    for unit in (0, 1):
        for source in (5, 2):
            expected[unit, source] = kernel
    expected[1, 2] = 2 * kernel
    assert torch.equal(weight, expected)


def test_the_model_is_left_alone_and_what_it_is_called_is_kept(net: nn.Sequential):
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    named = Model.of(net, class_names=["a", "b", "c", "d"])
    edited = edit_circuit(named, [EdgeEdit("6", [0])])
    edit_effect(named, [EdgeEdit("6", [0])], labelled(net), n_controls=1)
    assert edited.class_names == ("a", "b", "c", "d")
    assert edited.module is not net
    assert all(torch.equal(weight, before[name]) for name, weight in net.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


def test_two_classes_that_exchange_their_edges_exchange_their_images(net: nn.Sequential):
    head, data = net[6].weight.detach(), labelled(net)
    with torch.no_grad():
        net[6].bias.zero_()
    data = labelled(net)
    edits = [EdgeEdit("6", [0], range(5), weights=head[1:2].clone())]
    edits += [EdgeEdit("6", [1], range(5), weights=head[:1].clone())]
    seen = edit_effect(net, edits, data, n_controls=0)
    order = [1, 0, 2, 3]
    assert torch.equal(seen.after, seen.before[:, order])
    assert torch.equal(seen.before, torch.diag(seen.before.diagonal()))
    assert seen.controls.shape == (0, 4, 4)


def test_counts_are_those_of_running_both_networks_by_hand(net: nn.Sequential):
    data = [(image, torch.tensor(number % 4)) for number, image in enumerate(IMAGES)]
    edits = [EdgeEdit("6", [0, 2], [1, 3], factor=3.0)]
    seen = edit_effect(Model.of(net, class_names=list("abcd")), edits, data, n_controls=2, batch_size=5)
    edited = edit_circuit(net, edits).module
    tables = [[[0] * 4 for _ in range(4)] for _ in range(2)]
    for image, target in data:
        for table, network in zip(tables, (net, edited), strict=True):
            table[int(target)][int(network(image[None]).argmax())] += 1
    assert [seen.before.tolist(), seen.after.tolist()] == tables
    assert seen.controls.shape == (2, 4, 4)
    shift = [sum(row[k] for row in tables[1]) - sum(row[k] for row in tables[0]) for k in range(4)]
    torch.testing.assert_close(seen.shift, torch.tensor(shift) / 24)
    drop = [(tables[0][k][k] - tables[1][k][k]) / 6 for k in range(4)]
    torch.testing.assert_close(seen.drop, torch.tensor(drop))
    changed = (edited[6].weight - net[6].weight).norm() / net[6].weight.norm()
    assert seen.norm == pytest.approx(float(changed.detach()))
    assert repr(seen).startswith("EditEffect(24 images, accuracy ")


def test_a_control_changes_as_many_other_edges_by_as_much(net: nn.Sequential):
    after = edit_circuit(net, [EdgeEdit("2", [1, 3], [0, 4]), EdgeEdit("6", [2], factor=0.5)]).module
    control = random_control(net, after, generator(0))
    for layer in (2, 6):
        old, new, moved = (network[layer].weight.detach() for network in (net, after, control))
        there, elsewhere = ((part - old).reshape(old.shape[0] * old.shape[1], -1).norm(dim=1) for part in (new, moved))
        torch.testing.assert_close(there.sort().values, elsewhere.sort().values, atol=1e-6, rtol=0)
        assert not ((there > 1e-6) & (elsewhere > 1e-6)).any()
    assert torch.equal(control[0].weight, net[0].weight)


def test_other_seeds_draw_other_controls_and_the_same_seed_the_same(net: nn.Sequential):
    after = edit_circuit(net, [EdgeEdit("2", [1], [0, 4])]).module
    drawn = [random_control(net, after, generator(seed))[2].weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_saving_and_loading_is_the_identity(net: nn.Sequential, tmp_path):
    seen = edit_effect(net, [EdgeEdit("6", [0], [1])], labelled(net), n_controls=1)
    assert EditEffect.load(seen.save(tmp_path / "edit.safetensors")).to_dict() == seen.to_dict()


def test_images_without_a_class_are_left_out(net: nn.Sequential):
    data = labelled(net)
    some = [(image, target if number % 2 else torch.tensor(-1)) for number, (image, target) in enumerate(data)]
    seen = edit_effect(net, [EdgeEdit("6", [0], [1])], some, n_controls=0)
    assert torch.equal(seen.before, edit_effect(net, [EdgeEdit("6", [0], [1])], data[1::2], n_controls=0).before)


@pytest.mark.parametrize(
    ("edits", "error", "said"),
    [
        ([], NothingMatched, "no edits were given"),
        ([EdgeEdit("22")], LayerNotFound, "no layer '22'"),
        ([EdgeEdit("1")], BadModel, "layer '1' is a ReLU"),
        ([EdgeEdit("2", [5])], BadInput, r"units 5…5 are not in layer '2'. It has 0…4"),
        ([EdgeEdit("2", [0], [-1])], BadInput, r"inputs -1…-1 are not in layer '2'"),
        ([EdgeEdit("2", [])], NothingMatched, "names no unit"),
        ([EdgeEdit("2", [0], [1], weights=torch.ones(4))], BadInput, r"do not spread .* They have \(1, 1, 3, 3\)"),
        ([EdgeEdit("2")], BadInput, "too many for a control"),
    ],
)
def test_a_mistake_is_named(edits: list[EdgeEdit], error: type[Exception], said: str, net: nn.Sequential):
    with pytest.raises(error, match=said):
        edit_effect(net, edits, labelled(net))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([(IMAGES[0], torch.tensor(-1))], "no item of the data set has a class"),
        ([(IMAGES[0], torch.tensor(9))], "class 9 is in the data; the model has 4"),
        (IMAGES, "do not say which class"),
    ],
)
def test_data_that_cannot_be_counted_is_named(data: Any, said: str, net: nn.Sequential):
    with pytest.raises(BadInput, match=said):
        edit_effect(net, [EdgeEdit("6", [0], [1])], data, n_controls=0)


def test_it_is_found_by_its_name():
    assert find_method("edit_circuit", "dissect").function is edit_circuit
