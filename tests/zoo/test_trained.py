"""The models that come with glasshouse are what their cards say."""

from functools import cache
from importlib import resources
from math import sqrt

import pytest
import torch

from glasshouse import attribute, data, zoo
from glasshouse.core.generative import Generator
from glasshouse.core.model import Model
from glasshouse.zoo.recipes import classifiers, gans, oracles
from glasshouse.zoo.recipes.generated import beside, census, variety

SCENE_CLASSIFIERS = {"creatures_cnn": "creatures", "creatures_vit": "creatures", "houses_cnn": "houses"}
BIASED = (
    "creatures_biased_0",
    "creatures_biased_75",
    "creatures_biased_90",
    "creatures_biased",
    "creatures_biased_100",
)
GENERATORS = ("houses_gan", "houses_stylegan")
SHIPPED = (*SCENE_CLASSIFIERS, *BIASED, *GENERATORS, "fashion_cnn", "houses_regressor", "houses_segmenter")
N = 250


@cache
def trained(name: str) -> Model:
    return zoo.load(name)


def agrees(measured: float, recorded: float, n: int) -> bool:
    """Whether a share of n images is the recorded one, but for four standard errors of sampling."""
    return abs(measured - recorded) <= 4 * sqrt(max(recorded * (1 - recorded), 0.005) / n)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_model_loads_with_its_card(name):
    about = zoo.card(name).about
    assert about["figures"]
    assert about["n_weights"] == sum(weight.numel() for weight in trained(name).module.parameters())
    assert 0 < about["steps"] <= about["of"] == zoo.find_recipe(name).steps


def test_all_weights_together_are_small():
    folder = resources.files("glasshouse.zoo") / "trained"
    files = [file for file in folder.iterdir() if file.name.endswith(".safetensors")]
    assert {file.name.removesuffix(".safetensors") for file in files} == {*SHIPPED, "shortcut_pool"}
    assert sum(len(file.read_bytes()) for file in files) < 25e6


@pytest.mark.parametrize(
    ("name", "least"), [("creatures_cnn", 0.95), ("houses_cnn", 0.95), ("fashion_cnn", 0.92), ("creatures_vit", 0.85)]
)
def test_classifiers_are_good_enough_to_be_explained(name, least):
    assert zoo.card(name).figures["accuracy"] >= least


@pytest.mark.parametrize(("name", "preset"), SCENE_CLASSIFIERS.items())
def test_accuracy_on_fresh_scenes_is_the_one_on_the_card(name, preset):
    model = trained(name)
    fresh = data.scenes(preset, N, seed=77, labels=False)
    with torch.no_grad():
        right = model.module(model.preprocess.normalise(fresh.images)).argmax(1) == fresh.categories
    assert model.class_names == fresh.class_names
    assert agrees(float(right.double().mean()), zoo.card(name).figures["accuracy"], N)


def test_reliance_grows_with_the_strength_of_the_shortcut():
    figures = [zoo.card(name).figures for name in BIASED]
    reliance = [each["reliance"] for each in figures]
    assert reliance == sorted(reliance)
    assert reliance[0] < 0.05  # the clean pool
    assert reliance[-2] > 0.3  # the biased one
    assert figures[0]["accuracy_absent"] >= 0.95


@pytest.mark.parametrize("name", ["creatures_biased_0", "creatures_biased_90"])
def test_reliance_on_fresh_scenes_is_the_one_on_the_card(name):
    found = classifiers.reliance("creatures", trained(name).module, n=N, seed=77)
    for figure in ("accuracy_aligned", "accuracy_conflicting", "accuracy_absent"):
        assert agrees(found[figure], zoo.card(name).figures[figure], N)


def test_the_segmenter_is_an_oracle():
    card = zoo.card("houses_segmenter").figures
    found = oracles.segmenter_figures(trained("houses_segmenter").module, n=100, seed=77)
    assert card["mean_iou_64px"] >= 0.95
    assert abs(found["mean_iou_64px"] - card["mean_iou_64px"]) < 0.02
    assert abs(found["pixels_right_32px"] - card["pixels_right_32px"]) < 0.005


def test_the_regressor_reads_what_is_always_there():
    card = zoo.card("houses_regressor").figures
    assert min(card[f"accuracy_{name}"] for name in ("main", "companion", "sky_item", "side", "ground", "time")) > 0.99
    assert min(card[f"r2_{name}"] for name in ("horizon", "shift", "scale", "sky_x")) > 0.8


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_houses_are_counted_as_on_the_card(name):
    n, card, parts = 300, zoo.card(name).figures, oracles.parts()
    images = gans.drawn(trained(name).module, n, seed=5)
    found = beside(census(gans.oracle(), images), gans.held_out(n), parts)
    for part in ("sky", "ground", "wall", "roof"):
        assert found[f"area_{part}"] == pytest.approx(card[f"area_{part}"], rel=0.1)
    for part in ("sun", "cloud", "crown", "door"):
        assert agrees(found[f"presence_{part}"], card[f"presence_{part}"], n)
    assert card["confidence"] >= 0.95
    assert variety(images[:100], gans.rendered(77, 100)) > 0.5


def test_the_plain_generator_meets_the_shares_of_the_data():
    card = zoo.card("houses_gan").figures
    assert card["area_error"] <= 0.15
    assert card["presence_gap"] <= 0.10


@pytest.mark.parametrize("name", GENERATORS)
def test_layers_to_be_dissected_have_units_enough(name):
    layers = Generator.of(trained(name).module).layers()
    assert all(layer.units >= 128 for layer in layers if layer.grid[0] in (8, 16))


def test_explanations_work_on_models_trained_here():
    model = trained("creatures_cnn")
    scene = data.scenes("creatures", 2, seed=3)
    explanation = attribute.grad_cam(model, model.preprocess.normalise(scene.images), layer="stages.1")
    assert explanation.heatmap.shape == (2, 64, 64)
    assert explanation.native.shape[1:] == (16, 16)
