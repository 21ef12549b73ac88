"""Loading by name: what each source gives, and what every wrong name says."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glasshouse import zoo
from glasshouse.core.errors import BadInput, BadModel, MissingPackage, NotFound
from glasshouse.core.model import Model, Preprocess
from glasshouse.zoo import adapters, registry

HALF = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


@pytest.fixture
def names(monkeypatch):
    """A registry to scribble in."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_a_network_of_ones_own_passes_through(cnn):
    model = zoo.load(cnn, preprocess=HALF, class_names=["a", "b", "c", "d"])
    assert model.module is cnn
    assert model.preprocess is HALF
    assert model.label(3) == "d"


@pytest.mark.parametrize(
    ("spec", "seen"),
    [
        ("efficientnet_lite", r"Did you mean 'efficientnet_lite\d'"),
        ("resnet18", "no model 'resnet18' here.*timm:NAME, torchvision:NAME, or file:PATH"),
        ("tim:resnet18", "no kind of model 'tim:'"),
    ],
)
def test_an_unknown_name_says_which_names_there_are(spec, seen):
    with pytest.raises(NotFound, match=seen):
        zoo.load(spec)


def test_random_weights_are_the_same_each_time_and_move_no_global_draw():
    one = zoo.load("efficientnet_lite0", weights="random")
    torch.rand(1)
    state = torch.get_rng_state()
    other = zoo.load("efficientnet_lite0", weights="random")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.module.stem.conv.weight, other.module.stem.conv.weight)
    assert not one.module.training
    assert one.class_names == ()
    assert any("random" in sentence for sentence in one.chosen)
    assert one.source == {"weights": "random"}


def test_a_name_without_published_weights_says_what_to_pass():
    with pytest.raises(BadModel, match=r"no trained weights of 'efficientnet_lite1'.*weights='random'"):
        zoo.load("efficientnet_lite1")
    with pytest.raises(BadInput, match="no weights 'rnadom'"):
        zoo.load("efficientnet_lite1", weights="rnadom")


def test_registered_networks_load_by_name(names):
    zoo.register("tiny", card=zoo.ModelCard(preprocess=HALF, class_names=("a", "b"), licence="MIT"))(tiny)
    assert "tiny" in zoo.list_models("t*y")
    assert "tiny" not in zoo.list_models("efficientnet*")
    model = zoo.load("tiny", weights="random")
    assert (model.name, model.preprocess) == ("tiny", HALF)
    with pytest.warns(UserWarning, match="'tiny' was taken"):
        zoo.register("tiny")(tiny)


def test_a_registered_model_may_bring_its_own_weights(names, cnn):
    zoo.register("trained")(lambda: Model.of(cnn.train(), preprocess=HALF, class_names=["a", "b"]))
    model = zoo.load("trained")
    assert model.class_names == ("a", "b")
    assert not model.module.training
    with pytest.raises(BadModel, match="comes with its own weights"):
        zoo.load("trained", weights="random")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_of_weights_loads_into_its_architecture(names, tmp_path, suffix):
    zoo.register("tiny", card=zoo.ModelCard(preprocess=HALF, class_names=("a", "b")))(tiny)
    trained = tiny().eval()
    path = tmp_path / f"best.{suffix}"
    save_file(trained.state_dict(), path) if suffix == "safetensors" else torch.save(trained.state_dict(), path)
    model = zoo.load(f"file:{path}", arch="tiny", class_names=["c", "d"])
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), trained(images))
    assert (model.name, model.class_names, model.source["weights"]) == ("best", ("c", "d"), str(path))
    assert zoo.load("tiny", weights=path).class_names == ()  # the file does not say what its classes are


def test_a_file_of_weights_needs_its_architecture(tmp_path):
    with pytest.raises(BadModel, match=r"the network that they belong to is not known.*arch="):
        zoo.load(f"file:{tmp_path / 'a.pt'}")


def test_broken_weights_in_a_file_are_named(names, tmp_path):
    zoo.register("tiny")(tiny)
    weights = tiny().state_dict()
    weights["0.bias"][0] = float("nan")
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(BadModel, match=r"in '0\.bias', 1 of 2 are not finite"):
        zoo.load(f"file:{tmp_path / 'a.safetensors'}", arch="tiny")


def test_timm_gives_its_own_preprocessing(timm):
    model = zoo.load("timm:resnet18", weights="random")
    config = timm.data.resolve_model_data_config(model.module)
    assert model.preprocess.size == config["input_size"][1:]
    assert (model.preprocess.mean, model.preprocess.std) == (config["mean"], config["std"])
    assert model.preprocess.crop_pct == config["crop_pct"]
    assert any("timm's data config of resnet18" in sentence for sentence in model.chosen)
    assert not model.module.training


def test_a_timm_network_takes_as_many_outputs_as_there_are_names(timm, tmp_path):
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "a.pth")
    model = zoo.load(f"file:{tmp_path / 'a.pth'}", arch="timm:resnet10t", class_names=["x", "y", "z"])
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(BadModel, match=r"of another shape.*class_names"):
        zoo.load(f"file:{tmp_path / 'a.pth'}", arch="timm:resnet10t")


def test_torchvision_gives_its_own_preprocessing_and_names(torchvision):
    model = zoo.load("torchvision:squeezenet1_1", weights="random")
    assert model.preprocess.size == (224, 224)
    assert model.preprocess.mean == (0.485, 0.456, 0.406)
    assert (model.preprocess.crop_pct, model.preprocess.interpolation) == (224 / 256, "bilinear")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_a_network_that_does_not_classify_has_no_preprocessing_here(torchvision):
    model = zoo.load("torchvision:lraspp_mobilenet_v3_large", weights="random")
    assert model.preprocessing is None
    assert any("not for classification" in sentence for sentence in model.chosen)


def test_preprocessing_that_is_given_replaces_the_published_one(torchvision):
    model = zoo.load("torchvision:squeezenet1_1", weights="random", preprocess=HALF)
    assert model.preprocess is HALF
    assert "preprocessing: given, it replaces the above." in model.chosen


def test_names_of_other_libraries_are_searched(timm, torchvision):
    assert "timm:resnet18" in zoo.list_models("timm:resnet*")
    assert zoo.list_models("torchvision:squeezenet*") == [
        "torchvision:squeezenet1_0",
        "torchvision:squeezenet1_1",
    ]
    for spec in ("timm:resnet1", "torchvision:resnet1"):
        with pytest.raises(NotFound, match=r"Did you mean .*resnet"):
            zoo.load(spec)
    with pytest.raises(NotFound, match="no kind of model 'hf:'"):
        zoo.list_models("hf:*")


def test_weights_that_cannot_be_fetched_say_what_to_do(timm, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadModel, match=r"no route to host\. Without a network connection pass weights='random'"):
        zoo.load("timm:resnet18")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackage, match=r'pip install "glasshouse\[models\]"'):
        zoo.load("timm:resnet18")


def test_a_torchvision_built_for_another_torch_is_explained(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(adapters, "importlib", SimpleNamespace(import_module=broken))
    with pytest.raises(MissingPackage, match=r"does not work beside torch .*--force-reinstall torch torchvision"):
        zoo.load("torchvision:resnet18")


def test_importing_the_zoo_imports_no_other_zoo():
    code = "import sys, glasshouse.zoo; print({'timm', 'torchvision', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
