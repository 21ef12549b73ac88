"""What the taxonomy says of methods, held against the methods."""

import importlib.util
import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import glasshouse
from conformance.architectures import Attentive
from dissect.marked import Marked
from glasshouse import diagnose, dissect, visualize
from glasshouse.core import BadModel, GlasshouseError, find_method, list_methods
from glasshouse.evaluate import taxonomy
from glasshouse.evaluate.taxonomy.entries import METHODS

glasshouse.list_methods()  # fills the registry
EVERYTHING = [
    name for folder in ("attribute", "visualize", "dissect", "diagnose") for name in list_methods(f"{folder}.*")
]
MAPS = [name for name in EVERYTHING if find_method(name).maps]
every_method = pytest.mark.parametrize("name", EVERYTHING)
every_map = pytest.mark.parametrize("name", MAPS)


class Net(nn.Module):
    """Three convolutions, average pooling, one linear layer; the gradient may be cut off behind each operation."""

    def __init__(self, cut: bool = False):
        super().__init__()
        self.cut = cut
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.relu, self.again, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        for layer in (self.first, self.relu, self.second, self.again, self.third, self.last):
            x = layer(x).detach() if self.cut else layer(x)
        return self.head(x.mean((2, 3)))


class Sealed(nn.Module):
    """A function of images, of which nothing inside is to be seen."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.inside = (net,)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inside[0](inputs)


class Silent(nn.Module):
    """A network whose output is cut off from everything in front of it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs).detach()


@cache  # methods give a network back as it was
def cnn(cut: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Net(cut).eval().requires_grad_(False)


@cache
def vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Attentive(classes=4).eval().requires_grad_(False)


def network(name: str) -> nn.Module:
    return vit() if find_method(name).needs == "attention" else cnn()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def run(name: str, net: nn.Module, images: Tensor, **settings: object):
    info = find_method(name)
    return info.function(net, images, 1, **{**info.example, **settings})


@every_method
def test_every_method_has_a_place(name):
    info, method = find_method(name), taxonomy.describe(name)
    assert name in METHODS, f"say what {name} explains in glasshouse/evaluate/taxonomy"
    assert method.spec.family in taxonomy.MEANINGS
    assert method.cost_in_words != "?"
    assert info.maps == (method.spec.form in ("heatmap", "mask") and info.folder == "attribute")
    assert (method.scope == "instance") <= ("inputs" in info.parameters.parameters)


def test_nothing_has_a_place_that_is_not_there():
    assert set(METHODS) == set(EVERYTHING)


@every_method
def test_every_method_can_be_put_to_a_test_of_truth(name):
    found, spec = taxonomy.evaluations(name), taxonomy.describe(name).spec
    told = [each for each in found if each.kind in ("E1", "E2")]
    assert told
    if find_method(name).maps:
        assert any(each.call.startswith("evaluate.") for each in told)
    for each in found:
        metric = taxonomy.metric_spec(each.metric)
        assert spec.form in metric.applies_to
        assert (each.metric in spec.evaluations) or metric.families


@pytest.mark.parametrize("name", [n for n in EVERYTHING if n.startswith("attribute.")])
def test_a_method_runs_without_a_gradient_if_it_says_that_it_needs_none(name, images):
    net = Silent(vit()) if find_method(name).needs == "attention" else cnn(cut=True)
    if "gradient" not in taxonomy.describe(name).access:
        assert run(name, net, images) is not None
        return
    with pytest.raises(BadModel):
        run(name, net, images)


class Pairs:
    """Images and their classes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(index)), index % 4


UNIT = visualize.unit("third", 1)
LOOKS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "visualize.accentuate": lambda net, x: visualize.accentuate(net, x.sigmoid(), UNIT, steps=1, penalty=0),
    "visualize.caricature": lambda net, x: visualize.caricature(net, x.sigmoid(), layer="third", steps=1),
    "visualize.dream": lambda net, x: visualize.dream(net, x, layer="third", octaves=1, steps=1),
    "visualize.render": lambda net, x: visualize.render(net, UNIT, steps=1, size=16),
    "visualize.first_layer_filters": lambda net, x: visualize.first_layer_filters(net),
    "dissect.ablate_units": lambda net, x: dissect.ablate_units(net, Pairs(), layer="second"),
    "dissect.activations": lambda net, x: dissect.activations(net, x, layer="third"),
    "dissect.equivariance": lambda net, x: dissect.equivariance(net, layer="first"),
    "dissect.exemplars": lambda net, x: dissect.exemplars(net, x, layer="third", k=1),
    "dissect.expanded_weights": lambda net, x: dissect.expanded_weights(
        net, x, source="first", layer="third", how="gradient"
    ),
    "dissect.receptive_fields": lambda net, x: dissect.receptive_fields(
        net, x, dissect.exemplars(net, x, layer="third", units=[1], k=1), sliding_window_shapes=8, strides=8
    ),
    "dissect.semantic_dictionary": lambda net, x: dissect.semantic_dictionary(net, x, layer="third", k=1),
    "dissect.tuning_curves": lambda net, x: dissect.tuning_curves(
        net, over={"orientation": (0, 90)}, layer="third", size=16
    ),
    "dissect.units": lambda net, x: dissect.units(deepcopy(net).double(), Marked(6), layer="third", min_images=1),
    "diagnose.fgsm": lambda net, x: diagnose.fgsm(net, x),
    "diagnose.pgd": lambda net, x: diagnose.pgd(net, x, n_steps=1),
}
"""Calls of methods that look inside, or attack."""


@pytest.mark.parametrize("name", LOOKS)
def test_a_method_that_looks_inside_needs_passes_and_gradients_only_if_it_says_so(name, images):
    access, ran, net = taxonomy.describe(name).access, [], cnn()
    handle = net.first.register_forward_hook(lambda *_: ran.append(True))
    try:
        assert LOOKS[name](net, images) is not None
    finally:
        handle.remove()
    assert bool(ran) == ("forward" in access)
    if "gradient" not in access:
        assert LOOKS[name](cnn(cut=True), images) is not None
    else:
        with pytest.raises((GlasshouseError, RuntimeError), match=r"differentiated|does not (require grad|read)"):
            LOOKS[name](cnn(cut=True), images)


@pytest.mark.parametrize("name", [n for n in EVERYTHING if n.startswith("attribute.")])
def test_a_method_runs_on_a_sealed_network_if_it_says_that_it_looks_at_nothing_inside(name, images):
    access = taxonomy.describe(name).access
    sealed = Sealed(network(name))
    if "activations" in access and name != "attribute.cam":  # which reads operations, and needs no names
        with pytest.raises(GlasshouseError):
            run(name, sealed, images)
    else:
        assert run(name, sealed, images) is not None
    if access == {"forward"}:
        assert run(name, Silent(sealed), images) is not None


@pytest.mark.parametrize("name", [n for n in EVERYTHING if n.startswith("attribute.")])
def test_a_method_runs_on_the_other_kind_of_network_if_it_is_said_to_be_for_it(name, images):
    other, net = ("cnn", cnn()) if find_method(name).needs == "attention" else ("vit", vit())
    models = taxonomy.describe(name).models
    assert {"cnn", "vit"} >= models >= {"cnn", "vit"} - {other}  # all other tests here run it on its own kind
    at_a_norm = (
        {"layer": "norm"} if other == "vit" and name.endswith(("linear_approximation", "spatial_attribution")) else {}
    )
    if other in models:
        assert run(name, net, images, **at_a_norm) is not None
    else:
        with pytest.raises(GlasshouseError):
            run(name, net, images, **at_a_norm)


@every_map
def test_a_method_without_a_seed_gives_the_same_map_twice(name, images):
    if not taxonomy.describe(name).stochastic:
        net = network(name)
        first, second = (run(name, net, images).heatmap for _ in range(2))
        assert first.equal(second)


@pytest.mark.parametrize("name", [n for n in MAPS if taxonomy.describe(n).stochastic])
def test_a_method_with_a_seed_gives_the_same_map_for_the_same_seed_only(name, images):
    net = network(name)
    first, second, other = (run(name, net, images, seed=seed).heatmap for seed in (0, 0, 1))
    assert first.equal(second)
    assert name == "attribute.expected_gradients" or not first.equal(other), "a single baseline leaves nothing to draw"


@pytest.mark.parametrize("name", [n for n in MAPS if not find_method(n).class_sensitive])
def test_a_method_that_is_not_about_the_class_gives_nearly_the_same_map_for_another(name, images):
    net, info = network(name), find_method(name)
    one, other = (info.function(net, images, target, **info.example).heatmap.flatten(1) for target in (1, 2))
    assert (torch.cosine_similarity(one, other) > 0.85).all()


CONTROLS = [
    pytest.param(name, *control, id=f"{name.partition('.')[2]}-{control.outcome}-{control.metric}")
    for name in EVERYTHING
    for control in taxonomy.describe(name).spec.controls
    if f"evaluate.{control.metric}" in list_methods("evaluate.*")
]


@pytest.mark.parametrize(("name", "metric", "outcome"), CONTROLS)
def test_controls_pass_and_fail_as_they_must(name, metric, outcome, images):
    net, info = network(name), find_method(f"evaluate.{metric}")
    score = info.function(net, images, run(name, net, images), **info.example)
    assert score.valid.all()
    good = {"class_sensitivity": score.mean > 0.4, "completeness_gap": score.mean < 0.1}
    assert good.get(metric, score.mean < 0.5) == (outcome == "passes")


def test_methods_that_claim_completeness_are_controls_of_its_gap():
    claiming = {name for name in MAPS if "complete" in find_method(name).claims}
    controls = {name for name in MAPS if taxonomy.attributing.ADDS_UP in taxonomy.describe(name).spec.controls}
    assert claiming == controls


def test_a_cost_is_told_in_passes_or_in_words_and_never_in_both():
    # tests/test_cost.py counts the passes of every attribution method that declares them
    in_words = {name for name in EVERYTHING if taxonomy.describe(name).spec.effort}
    assert in_words == {name for name in EVERYTHING if taxonomy.describe(name).cost is None}


@cache
def symbols(module: str) -> set[str] | None:
    """Classes and functions that are defined in a module or package, by its files; None where it is not installed."""
    package, *path = module.split(".")
    place = importlib.util.find_spec(package)
    if place is None or not place.submodule_search_locations:
        return None
    root = Path(place.submodule_search_locations[0], *path)
    files = [root.with_suffix(".py")] if root.with_suffix(".py").exists() else sorted(root.rglob("*.py"))
    return {found for file in files for found in re.findall(r"^(?:class|def) (\w+)", file.read_text(), re.MULTILINE)}


def test_peers_have_what_is_said_to_be_the_same():
    # reads their files, as importing some of these libraries takes seconds
    peers = {peer for name in EVERYTHING for peer in taxonomy.describe(name).spec.peers}
    known = {peer: symbols(peer.rpartition(".")[0]) for peer in peers}
    assert not {peer for peer, found in known.items() if found is not None and peer.rpartition(".")[2] not in found}
