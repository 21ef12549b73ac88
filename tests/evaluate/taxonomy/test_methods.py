"""What the taxonomy says of methods, held against the methods."""

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import glasshouse
from conformance.architectures import Attentive
from glasshouse.core import BadModel, GlasshouseError, find_method, list_methods
from glasshouse.evaluate import taxonomy
from glasshouse.evaluate.taxonomy.entries import has_spec

glasshouse.list_methods()  # fills the registry
EVERYTHING = [
    name for folder in ("attribute", "visualize", "dissect", "diagnose") for name in list_methods(f"{folder}.*")
]
MAPS = [name for name in EVERYTHING if find_method(name).maps]
every_method = pytest.mark.parametrize("name", EVERYTHING)
every_map = pytest.mark.parametrize("name", MAPS)


class Net(nn.Module):
    """Three convolutions, average pooling, one linear layer; the gradient may be cut off in front of the pooling."""

    def __init__(self, cut: bool = False):
        super().__init__()
        self.cut = cut
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.relu, self.again, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.last(self.third(self.again(self.second(self.relu(self.first(inputs))))))
        return self.head((x.detach() if self.cut else x).mean((2, 3)))


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
    assert has_spec(info), f"say what {name} explains in glasshouse/evaluate/taxonomy"
    assert method.spec.family in taxonomy.MEANINGS
    assert method.cost_in_words != "?"
    assert info.maps == (method.spec.form in ("heatmap", "mask") and info.folder == "attribute")
    assert (method.scope == "instance") <= ("inputs" in info.parameters.parameters)


def test_nothing_has_a_place_that_is_not_there():
    from glasshouse.evaluate.taxonomy.attributing import ATTRIBUTING
    from glasshouse.evaluate.taxonomy.looking import LOOKING

    assert {*ATTRIBUTING, *LOOKING} == set(EVERYTHING)


@every_method
def test_every_method_can_be_put_to_a_test_of_truth(name):
    found = taxonomy.evaluations(name)
    told = [each for each in found if each.kind in ("E1", "E2")]
    assert told
    if find_method(name).maps:
        assert any(each.call.startswith("evaluate.") for each in told)
    for each in found:
        metric, spec = taxonomy.metric_spec(each.metric), taxonomy.describe(name).spec
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


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("name", [n for n in EVERYTHING if n.startswith("attribute.")])
def test_a_method_runs_on_the_networks_that_it_is_said_to_be_for_and_on_no_other(name, kind, images):
    net = cnn() if kind == "cnn" else vit()
    at_a_norm = (
        {"layer": "norm"} if kind == "vit" and name.endswith(("linear_approximation", "spatial_attribution")) else {}
    )
    if kind in taxonomy.describe(name).models:
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


@every_method
def test_a_cost_is_the_registrys_or_told_in_words(name):
    # tests/test_cost.py counts the passes of every method that declares a cost: they must be exact
    method = taxonomy.describe(name)
    declared = method.info.price(method.info.defaults, (1, 3, 224, 224))
    assert method.cost is None if method.spec.effort else method.cost == declared
    assert bool(method.spec.effort) != (method.cost is not None)


PEERS = [(name, peer) for name in EVERYTHING for peer in taxonomy.describe(name).spec.peers]


@pytest.mark.parametrize(("name", "peer"), PEERS, ids=[f"{name}={peer}" for name, peer in PEERS])
def test_peers_have_what_is_said_to_be_the_same(name, peer):
    # reads their files, as importing some of these libraries takes seconds
    package, *path, symbol = peer.split(".")
    place = importlib.util.find_spec(package)
    if place is None or not place.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    root = Path(place.submodule_search_locations[0], *path)
    files = [root.with_suffix(".py")] if root.with_suffix(".py").exists() else sorted(root.rglob("*.py"))
    assert any(re.search(rf"^(class|def) {symbol}\b", file.read_text(), re.MULTILINE) for file in files)
