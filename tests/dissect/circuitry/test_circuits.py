"""Circuits: the right wires with the right numbers, and sums that must come out."""

import json
from collections import Counter

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, Model, NotFound, Preprocess, find_method, generator
from glasshouse.dissect import Circuit, Edge, Node, circuit, expanded_weights

LAYERS = ["0", "2", "4"]


@pytest.fixture
def net() -> nn.Sequential:
    """Three convolutions with ReLUs between, without biases, in float64."""
    convolutions = [nn.Conv2d(2, 5, 3, bias=False), nn.Conv2d(5, 6, 3, bias=False), nn.Conv2d(6, 4, 3, bias=False)]
    net = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2]).double().eval()
    source = generator(0)
    for weight in net.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=source, dtype=torch.float64))
    return net


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 2, 9, 9, generator=generator(1), dtype=torch.float64)


def test_a_planted_chain_is_found_and_nothing_else(net, images):
    with torch.no_grad():
        for place in (2, 4):
            net[place].weight.zero_()
        net[2].weight[3, 1] = 2.0
        net[4].weight[0, 3, 1, 1] = -1.5
    seen = circuit(net, images, layers=LAYERS, units=[0])
    first, second = Node("0", 1), Node("2", 3)
    assert seen.nodes == (first, second, Node("4", 0))
    assert [(edge.source, edge.target, edge.share) for edge in seen.edges] == [
        (second, Node("4", 0), 1.0),
        (first, second, 1.0),
    ]
    assert [edge.value for edge in seen.edges] == pytest.approx([-1.5, 6.0])
    assert repr(seen) == "Circuit(0 → 2 → 4, 3 units, 2 edges by weight)"


def test_by_weight_each_unit_keeps_its_k_largest_kernels(net, images):
    seen = circuit(net, images, layers=LAYERS, units=[2, 1], k=2, threshold=0)
    wires = expanded_weights(net, images, source="2", layer="4")
    for unit in (2, 1):
        found = seen.inputs_of("4", unit)
        assert [edge.source.unit for edge in found] == wires.inputs_of(unit, 2).tolist()
        for edge in found:
            kernel = wires.kernel(unit, edge.source.unit)
            assert abs(edge.value) == pytest.approx(float(kernel.norm()), rel=1e-5)
            assert (edge.value > 0) == bool(kernel.sum() > 0)
            assert edge.share == pytest.approx(float(kernel.norm() / wires.norm[unit].sum()), rel=1e-5)
    assert set(Counter(edge.target for edge in seen.edges).values()) == {2}
    grown = {edge.source for edge in seen.edges if edge.target.layer == "4"}
    assert {edge.target for edge in seen.edges if edge.source.layer == "0"} == grown


def test_contributions_without_biases_sum_to_the_activation(net, images):
    seen = circuit(net, images, layers=LAYERS, units=[2], k=6, threshold=0, by="contribution")
    with torch.no_grad():
        last, middle = net(images)[:, 2], net[:3](images)
    total = sum(edge.value for edge in seen.inputs_of("4", 2))
    assert total == pytest.approx(float(last.flatten(1).amax(1).mean()), rel=1e-5)
    for node in [node for node in seen.nodes if node.layer == "2"]:
        total = sum(edge.value for edge in seen.inputs_of(*node))
        assert total == pytest.approx(float(middle[:, node.unit].flatten(1).amax(1).mean()), rel=1e-5)


def test_a_contribution_is_gradient_times_activation_at_the_strongest_place(net, images):
    seen = circuit(net, images, layers=["0", "2"], units=[4], k=5, threshold=0, by="contribution")
    wanted = torch.zeros(5, dtype=torch.float64)
    for image in images:
        maps = net[0](image[None]).detach()
        out = net[2](maps.relu())[0, 4]
        row, column = divmod(int(out.argmax()), out.shape[1])
        for unit in range(5):
            window = maps[0, unit, row : row + 3, column : column + 3].relu()
            wanted[unit] += (window * net[2].weight[4, unit].detach()).sum() / 3
    found = {edge.source.unit: edge.value for edge in seen.edges}
    assert [found[unit] for unit in range(5)] == pytest.approx(wanted.tolist(), rel=1e-5)


def test_what_is_as_in_the_baseline_contributes_nothing(net, images):
    same = circuit(net, images, layers=LAYERS, units=[2], by="contribution", baselines=images)
    assert same.edges == ()
    assert same.nodes == (Node("4", 2),)
    shifted = circuit(net, images, layers=["0", "2"], units=[2], k=5, by="contribution", baselines=images[:1])
    alone = [
        circuit(
            net, images[[n]], layers=["0", "2"], units=[2], k=5, threshold=0, by="contribution", baselines=images[:1]
        )
        for n in range(3)
    ]
    for edge in shifted.edges:
        parts = [{e.source.unit: e.value for e in one.edges}.get(edge.source.unit, 0.0) for one in alone]
        assert edge.value == pytest.approx(sum(parts) / 3, rel=1e-4, abs=1e-6)


def test_a_threshold_leaves_out_weak_wires_of_each_unit(net, images):
    all_, few = (circuit(net, images, layers=LAYERS, units=[0], k=6, threshold=share) for share in (0, 0.8))
    best = max(abs(edge.value) for edge in all_.inputs_of("4", 0))
    wanted = [edge for edge in all_.inputs_of("4", 0) if abs(edge.value) >= 0.8 * best]
    assert list(few.inputs_of("4", 0)) == wanted
    assert len(wanted) < 6


def test_rankings_and_families_add_up(net, images):
    seen = circuit(net, images, layers=LAYERS, units=[0, 1], k=6, threshold=0)
    sizes = [abs(edge.value) for edge in seen.ranking]
    assert sizes == sorted(sizes, reverse=True)
    assert set(seen.ranking) == set(seen.edges)
    assert all(edge.source == Node("2", 5) for edge in seen.outputs_of("2", 5))
    families = {
        "low": [("2", 0), ("2", 1), ("2", 2)],
        "high": [("2", 3), ("2", 4), ("2", 5)],
        "out": [("4", 0), ("4", 1)],
    }
    totals = seen.between(families)
    assert set(totals) == {("low", "out"), ("high", "out")}
    into = sum(edge.value for unit in (0, 1) for edge in seen.inputs_of("4", unit))
    assert sum(totals.values()) == pytest.approx(into)
    with pytest.raises(BadInput, match="in more than one family"):
        seen.between({"a": [("2", 0)], "b": [("2", 0)]})
    with pytest.raises(NotFound, match="unit 9 of '2' is not in this circuit"):
        seen.between({"a": [("2", 9)]})


def test_a_circuit_is_saved_and_exported(net, images, tmp_path):
    seen = circuit(net, images, layers=LAYERS, units=[0, 3], k=3)
    again = Circuit.load(seen.save(tmp_path / "circuit"))
    assert again.edges == seen.edges
    assert again.settings == seen.settings
    plain = json.loads(json.dumps(seen.to_dict()))
    nodes = [Node(**node) for node in plain["nodes"]]
    edges = [Edge(nodes[e["source"]], nodes[e["target"]], e["value"], e["share"]) for e in plain["edges"]]
    assert tuple(edges) == seen.edges


def test_dead_units_have_no_inputs(net, images):
    with torch.no_grad():
        net[2].weight[:] = -net[2].weight.abs()  # ReLUs before and behind: nothing gets through
    seen = circuit(net, images, layers=["1", "3", "4"], units=[0], by="contribution")
    assert seen.edges == ()


def test_the_size_of_inputs_comes_from_the_preprocessing(cnn):
    model = Model.of(cnn, preprocess=Preprocess(size=(12, 12), mean=(0.5,) * 3, std=(0.5,) * 3))
    assert len(circuit(model, layers=["0", "3"], units=[1], k=3, threshold=0).edges) == 3
    with pytest.raises(BadInput, match="images are a NoneType"):
        circuit(model, layers=["0", "3"], units=[1], by="contribution")


def test_what_is_no_circuit_is_refused_with_advice(net, images):
    with pytest.raises(BadInput, match="make no circuit"):
        circuit(net, images, layers=["4"], units=[0])
    with pytest.raises(BadInput, match="make no circuit"):
        circuit(net, images, layers=LAYERS, units=[0], k=0)
    with pytest.raises(BadInput, match="does not read"):
        circuit(net, images, layers=LAYERS[::-1], units=[0])
    with pytest.raises(NotFound, match="no unit 4 in layer '4'"):
        circuit(net, images, layers=LAYERS, units=[4])
    with pytest.raises(BadInput, match=r"baselines \(2, 2, 9, 9\)"):
        circuit(net, images, layers=LAYERS, units=[0], by="contribution", baselines=images[:2])


def test_it_is_in_the_registry():
    assert find_method("dissect.circuit").function is circuit
