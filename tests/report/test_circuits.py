"""Weights and circuits on a page: what is drawn is what was found, and names are only names."""

import base64
import io
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glasshouse import dissect, visualize
from glasshouse.core import BadInput, draw, generator
from glasshouse.report import circuits
from glasshouse.report.colour import colours

ODD = "<b>&\"x'"


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    net = nn.Sequential()
    for name, (of, to) in {"first": (1, 4), ODD: (4, 5), "last": (5, 3)}.items():
        net.add_module(name, nn.Conv2d(of, to, 3))
    for weight in net.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator(len(weight))))
    return net.eval()


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(1, 1, 12, 12, generator=generator(1))


@pytest.fixture(scope="module")
def wires(net, inputs) -> dissect.ExpandedWeights:
    return dissect.expanded_weights(net, inputs, source="first", layer=ODD)


@pytest.fixture(scope="module")
def circuit(net, inputs) -> dissect.Circuit:
    return dissect.circuit(net, inputs, layers=["first", ODD, "last"], units=[2, 0], k=2)


def picture(address: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_kernels_are_drawn_in_signed_colours_of_one_scale(wires, parsed):
    reader = parsed(circuits.weight_grid(wires, units=[3, 1], k=2))
    images = reader.all("img")
    order = [(unit, of) for unit in (3, 1) for of in wires.inputs_of(unit, 2).tolist()]
    assert [re.match(r"unit (\d+)", image["alt"])[1] for image in images] == [str(of) for _, of in order]
    kernels = torch.stack([wires.kernel(*pair) for pair in order])
    for image, kernel in zip(images, kernels, strict=True):
        seen = picture(image["src"])
        zoom = len(seen) // 3
        levels = (kernel / kernels.abs().max() * 127).round().long().numpy() + 127
        wanted = np.rint(255 * colours(True))[levels]
        assert np.abs(seen[zoom // 2 :: zoom, zoom // 2 :: zoom] - wanted).max() <= 1


def test_icons_stand_beside_the_units_they_belong_to(wires, parsed):
    unit = wires.inputs_of(0, 1).item()
    icons = {("first", unit): torch.rand(3, 8, 8), (ODD, 0): torch.rand(1, 9, 9), (ODD, 1): torch.rand(3, 9, 9)}
    words = [image["alt"] for image in parsed(circuits.weight_grid(wires, units=[0], k=1, icons=icons)).all("img")]
    assert words[0] == f"unit 0 of {ODD}"
    assert words[2] == f"unit {unit} of first"
    assert len(words) == 3


def test_units_stand_in_columns_without_overlap(circuit):
    found = circuits.places(circuit)
    assert set(found) == set(circuit.nodes)
    columns = {layer: {x for node, (x, _) in found.items() if node.layer == layer} for layer in circuit.layers}
    assert [len(xs) for xs in columns.values()] == [1, 1, 1]
    assert [*columns.values()] == sorted(columns.values(), key=min)
    for layer in circuit.layers:
        heights = sorted(y for node, (_, y) in found.items() if node.layer == layer)
        assert all(b - a >= circuits.LEVEL for a, b in pairwise(heights))


def test_every_wire_is_drawn_once_in_the_colour_of_its_sign(circuit, parsed):
    reader = parsed(circuits.circuit_graph(circuit, {circuit.nodes[0]: torch.rand(3, 8, 8)}))
    paths = reader.all("path")
    blue, red = paths[0]["stroke"], paths[0]["stroke"]
    for path, edge in zip(paths, sorted(circuit.edges, key=width_of(circuit)), strict=True):
        assert path["fill"] == "none"
        blue, red = (path["stroke"], red) if edge.value < 0 else (blue, path["stroke"])
        assert path["stroke"] == (blue if edge.value < 0 else red)
    assert len(reader.all("rect")) == len(circuit.nodes) - 1
    assert len(reader.all("image")) == 1
    assert reader.all("svg")[0]["aria-label"].startswith("Circuit(first → <b>")


def width_of(circuit):
    widths = dict(zip(circuit.edges, circuits.widths(circuit), strict=True))
    return lambda edge: widths[edge]


def test_the_strongest_wire_between_two_layers_is_the_widest(circuit):
    widths = dict(zip(circuit.edges, circuits.widths(circuit), strict=True))
    for layer in circuit.layers[1:]:
        into = [edge for edge in circuit.edges if edge.target.layer == layer]
        best = max(into, key=lambda edge: abs(edge.value))
        assert widths[best] == circuits.WIDEST
        assert all(widths[edge] == pytest.approx(circuits.WIDEST * abs(edge.value / best.value)) for edge in into)


def test_nouns_show_themselves_and_names_are_escaped(net, wires, circuit, parsed):
    for noun in (wires, circuit, visualize.first_layer_filters(net, layer=ODD)):
        text = draw(noun)
        assert "<b>" not in text
        parsed(text)
        assert noun._repr_html_() == text


def test_a_circuit_without_wires_is_its_units_alone(net, inputs, parsed):
    alone = dissect.circuit(net, inputs, layers=["first", ODD], units=[1], by="contribution", baselines=inputs)
    reader = parsed(circuits.circuit_graph(alone))
    assert not reader.all("path")
    assert len(reader.all("rect")) == 1


def test_a_grid_of_nothing_is_an_error(wires):
    with pytest.raises(BadInput, match="0 units with 8 inputs"):
        circuits.weight_grid(wires, units=[])
