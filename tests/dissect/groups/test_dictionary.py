"""Semantic dictionaries: the right units in the right order at every position, and attributions that add up."""

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, LayerNotFound, find_method, probe
from glasshouse.dissect.groups import dictionary
from glasshouse.dissect.groups.dictionary import SemanticDictionary, semantic_dictionary


def test_the_units_at_every_position_are_those_of_a_loop_in_order(cnn, images):
    found = semantic_dictionary(cnn, images, 1, layer="4", k=3)
    with torch.no_grad():
        maps = cnn[:5](images)
    slope = cnn[-1].weight[1].detach() / maps[0, 0].numel()  # pooling, then a linear map
    for image, i, j in [(0, 0, 0), (1, 3, 8), (2, 6, 4)]:
        here = maps[image, :, i, j]
        ranked = sorted(range(8), key=lambda unit: (-float(here[unit]), unit))[:3]
        words = found.at(image, i, j)
        assert [word.unit for word in words] == ranked
        for word in words:
            assert word.value == pytest.approx(float(here[word.unit]), abs=1e-6)
            assert word.share == pytest.approx(float(here[word.unit] / here.abs().sum()), abs=1e-6)
            assert word.attribution == pytest.approx(float(here[word.unit] * slope[word.unit]), abs=1e-6)
    torch.testing.assert_close(found.score, cnn(images)[:, 1].detach())
    assert found.target == (1, 1, 1)


def test_all_units_of_all_positions_add_what_channel_attribution_says(cnn, images):
    found = semantic_dictionary(cnn, images, layer="1", k=99)
    assert found.units.shape == (3, 6, 14, 18)
    channels = attribute.channel_attribution(cnn, images, layer="1")
    assert found.target == channels.target
    by_unit = torch.zeros(3, 6).scatter_add(1, found.units.flatten(1), found.attribution.flatten(1))
    torch.testing.assert_close(by_unit, channels.values)
    shares = found.shares.sum(1)
    torch.testing.assert_close(shares[shares > 0], torch.ones_like(shares[shares > 0]))


def test_equal_activations_are_ordered_by_unit_and_a_silent_position_has_no_share():
    silent = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(silent[0].weight)
    nn.init.zeros_(silent[0].bias)
    found = semantic_dictionary(silent, torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)), layer="1")
    words = found.at(0, 1, 1)
    assert [word.unit for word in words] == [0, 1, 2, 3]
    assert [word[1:] for word in words] == [(0, 0, 0)] * 4


def test_images_do_not_influence_each_other_and_parts_are_joined(cnn, monkeypatch):
    photos = torch.randn(7, 3, 14, 18, generator=torch.Generator().manual_seed(2))
    whole = semantic_dictionary(cnn, photos, [0, 1, 2, 3, 0, 1, 2], k=4)
    monkeypatch.setattr(dictionary, "CHUNK", 3)
    parts = semantic_dictionary(cnn, photos, [0, 1, 2, 3, 0, 1, 2], k=4)
    assert torch.equal(parts.units, whole.units)
    torch.testing.assert_close(parts.attribution, whole.attribution)
    assert parts.target == whole.target == (0, 1, 2, 3, 0, 1, 2)
    torch.testing.assert_close(parts.score, whole.score)
    own = semantic_dictionary(cnn, photos, k=4)
    assert own.target == tuple(cnn(photos).argmax(1).tolist())


@pytest.mark.parametrize("layer", ["blocks.3", "blocks.2.norm1"])
def test_token_layers_have_positions_like_any_other(timm, layer):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        vit = timm.create_model("test_vit", img_size=(32, 64)).eval()
    photos = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    found = semantic_dictionary(vit, photos, 5, layer=layer, k=2)
    assert found.units.shape == (2, 2, 2, 4)
    with probe(vit, layer) as seen, torch.no_grad():
        vit(photos)
    tokens = seen[layer][:, -8:]
    values, units = tokens.max(2)
    torch.testing.assert_close(found.values[:, 0].flatten(1), values, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.units[:, 0].flatten(1), units)


def test_boxes_say_what_each_position_sees(cnn, images):
    found = semantic_dictionary(cnn, images, layer="1", k=1)
    assert found.boxes[0, 0].tolist() == [0, 0, 2, 2]  # a 3×3 window, cut at the border
    assert found.boxes[5, 7].tolist() == [4, 6, 7, 9]
    assert found.image_size == (14, 18)


def test_the_vocabulary_is_what_occurs(cnn, images):
    found = semantic_dictionary(cnn, images, layer="4", k=2)
    places = [(0, 1, 1), (2, 3, 4)]
    assert found.vocabulary() == tuple(sorted(set(found.units.flatten().tolist())))
    assert found.vocabulary(places) == tuple(sorted({word.unit for place in places for word in found.at(*place)}))


def test_a_strip_shows_each_icon_as_large_as_its_unit_is_active(cnn, images):
    found = semantic_dictionary(cnn, images, layer="4", k=3)
    place = (1, 2, 3)
    words = found.at(*place)
    icons = {word.unit: torch.full((3, 5, 5), 0.1 * rank) for rank, word in enumerate(words)}
    strip = found.strip(place, icons, size=40)
    assert strip.shape == (3, 40, 3 * 40 + 2 * 4)
    for rank, word in enumerate(words):
        dark = strip[:, :, 44 * rank : 44 * rank + 40] < 0.9
        side = round(40 * (word.value / words[0].value) ** 0.5)
        assert int(dark[0].sum()) == side**2
    with pytest.raises(BadInput, match=f"no icon of unit {words[0].unit}"):
        found.strip(place, {})


def test_it_comes_back_from_a_file(cnn, images, tmp_path):
    found = semantic_dictionary(cnn, images, k=2)
    back = SemanticDictionary.load(found.save(tmp_path / "words.safetensors"))
    assert back.to_dict() == found.to_dict()
    assert back.at(1, 0, 0) == found.at(1, 0, 0)
    assert repr(found) == "SemanticDictionary(4, 2 units at each of 7×9 positions, 3 images)"
    assert len(found) == 3


def test_the_model_is_as_it_was(cnn, images):
    before = {name: weight.clone() for name, weight in cnn.state_dict().items()}
    with torch.inference_mode():
        semantic_dictionary(cnn, images, k=1)
    assert all(torch.equal(weight, before[name]) for name, weight in cnn.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in cnn.parameters())


def test_impossible_questions_are_refused(cnn, images):
    found = semantic_dictionary(cnn, images, layer="4")
    with pytest.raises(BadInput, match=r"no position \(7, 0\) of image 0.*3 images of 7×9"):
        found.at(0, 7, 0)
    with pytest.raises(BadInput, match="k=0"):
        semantic_dictionary(cnn, images, k=0)
    with pytest.raises(LayerNotFound, match="no layer '44'"):
        semantic_dictionary(cnn, images, layer="44")
    with pytest.raises(BadInput, match="target 9 is out of range"):
        semantic_dictionary(cnn, images, 9)


def test_the_registry_knows_it():
    assert "Distill" in find_method("dissect.semantic_dictionary").paper
