"""First-layer filters: pictures that can be read back, and diagnoses that planted faults receive."""

import copy

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, BadModel, LayerNotFound, Model, Preprocess, find_method, generator
from glasshouse.visualize import Filters, first_layer_filters

PREPROCESS = Preprocess(size=(12, 12), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))


def filters(weights) -> Filters:
    return Filters("conv", weights, torch.arange(len(weights)))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0))


def test_the_weights_are_those_of_the_first_convolution(cnn):
    seen = first_layer_filters(cnn)
    assert seen.layer == "0"
    assert torch.equal(seen.weights, cnn[0].weight)
    assert seen.weights.data_ptr() != cnn[0].weight.data_ptr()
    assert torch.equal(first_layer_filters(cnn, layer="3").weights, cnn[3].weight)


def test_what_a_filter_does_to_pixels_is_what_it_does_to_the_inputs_made_of_them(cnn):
    bgr = Preprocess(size=(12, 12), mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2), channel_order="bgr")
    pixels = torch.rand(2, 3, 12, 12, generator=generator(1))
    for preprocess in (PREPROCESS, bgr):
        on_pixels = first_layer_filters(Model.of(cnn, preprocess=preprocess), acting_on="pixels").weights
        change = pixels - pixels.flip(0)
        wanted = cnn[0](preprocess.normalise(pixels)) - cnn[0](preprocess.normalise(pixels.flip(0)))
        torch.testing.assert_close(
            nn.functional.conv2d(change, on_pixels, padding=1), wanted, rtol=1e-4, atol=1e-5, msg=repr(preprocess)
        )
    assert torch.equal(first_layer_filters(cnn, preprocess=bgr).weights, cnn[0].weight.flip(1))


def test_symmetric_scaling_can_be_read_back_and_leaves_zero_grey():
    weights = drawn(5, 3, 4, 3)
    weights[0, 0, 0, 0] = 0
    pictures = filters(weights).pictures()
    torch.testing.assert_close((pictures - 0.5) * 2 * weights.abs().amax((1, 2, 3), keepdim=True), weights)
    assert pictures[0, 0, 0, 0] == 0.5
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_minmax_scaling_uses_all_of_the_range():
    weights = drawn(5, 3, 4, 4)
    for picture, weight in zip(filters(weights).pictures("minmax"), weights, strict=True):
        torch.testing.assert_close(picture, (weight - weight.min()) / (weight.max() - weight.min()))


def test_constant_filters_are_mid_grey_and_nothing_is_undefined():
    weights = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), -0.3)])
    assert (filters(weights).pictures("minmax") == 0.5).all()
    assert (filters(weights).pictures()[0] == 0.5).all()
    assert (filters(weights).pictures()[1] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_permuting_filters_permutes_the_sheet(channels):
    weights, order = drawn(6, channels, 4, 4), torch.tensor([3, 5, 0, 2, 1, 4])
    sheet, other = (filters(rows).sheet(columns=3, zoom=2, gap=1) for rows in (weights, weights[order]))
    assert sheet.shape == (channels, 2 * 9, 2 * 14)

    def tile(whole, place):
        row, column = divmod(place, 3)
        return whole[:, 10 * row : 10 * row + 8, 10 * column : 10 * column + 8]

    for place, of in enumerate(order.tolist()):
        assert torch.equal(tile(other, place), tile(sheet, of))
    assert (sheet[:, 8:10] == 1).all()


def test_the_sheet_of_other_channels_has_their_planes_side_by_side():
    seen = filters(drawn(2, 5, 3, 3))
    sheet = seen.sheet(columns=1, zoom=1, gap=0)
    assert sheet.shape == (1, 6, 15)
    assert torch.equal(sheet[0, 3:, 6:9], seen.pictures()[1, 2])


def test_planted_faults_are_found():
    rows = torch.linspace(-1, 1, 9)
    weights = drawn(5, 3, 9, 9)
    weights[0] = rows
    weights[1] = -2 * rows + 0.01 * drawn(3, 9, 9)
    weights[2] *= 1e-5
    weights[3] = rows[:, None]
    weights[3, 2] = -2 * weights[3, 0]  # the three channels cancel
    seen = filters(weights)
    assert seen.dead.tolist() == [False, False, True, False, False]
    assert seen.noisy.tolist() == [False, False, False, False, True]
    assert seen.duplicates.tolist() == [[0, 1]]
    assert seen.colour[0] < 1e-6
    torch.testing.assert_close(seen.colour[3], torch.tensor(1.0))
    assert "1 dead, 1 as rough as noise, 1 pairs alike" in repr(seen)


def test_roughness_has_its_closed_forms():
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2 * 2.0 - 1
    noise = drawn(1, 3, 64, 64)[0]
    stripes = (torch.arange(6) % 2 * 2.0 - 1).expand(6, 6)
    seen = filters(torch.stack([board, torch.ones(6, 6), stripes])[:, None]).roughness
    torch.testing.assert_close(seen, torch.tensor([2.0, 0.0, 1.0]))
    torch.testing.assert_close(filters(noise[None]).roughness, torch.ones(1), atol=0.03, rtol=0)
    by_hand, count, w = 0.0, 0, drawn(1, 2, 3, 4)[0]
    for c in range(2):
        for i in range(3):
            for j in range(4):
                for a, b in ((i + 1, j), (i, j + 1)):
                    if a < 3 and b < 4:
                        by_hand, count = by_hand + float(w[c, i, j] - w[c, a, b]) ** 2, count + 1
    expected = by_hand / count / (2 * float(w.square().mean()))
    assert float(filters(w[None]).roughness) == pytest.approx(expected, rel=1e-5)


def test_principal_components_span_what_the_filters_vary_in():
    basis = torch.linalg.qr(drawn(27, 2)).Q.T
    weights = drawn(40, 2) @ (basis * torch.tensor([[5.0], [1.0]])) + drawn(27)
    seen = filters(weights.view(40, 3, 3, 3)).components(28)
    assert seen.weights.shape == (27, 3, 3, 3)
    first = seen.weights[:2].flatten(1)
    torch.testing.assert_close(first @ first.T, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(first @ basis.T @ basis, first, atol=1e-4, rtol=0)
    assert float(seen.share[:2].sum()) == pytest.approx(1, abs=1e-5)
    assert "27 principal components, 100% of the variance" in repr(seen)
    with pytest.raises(BadInput, match="Ask for 1 or more"):
        filters(weights.view(40, 3, 3, 3)).components(0)


def test_patch_embeddings_and_flattened_images_have_filters_too():
    embed = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Flatten())
    assert first_layer_filters(embed).weights.shape == (16, 3, 4, 4)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 5))
    seen = first_layer_filters(flat, preprocess=PREPROCESS)
    image = torch.rand(1, 3, 12, 12, generator=generator(2))
    wanted = flat(image)[0] - flat[1].bias
    torch.testing.assert_close((seen.weights * image).sum((1, 2, 3)), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(BadModel, match=r"432 inputs in a row.*Pass preprocess="):
        first_layer_filters(flat)


def test_a_later_layer_shows_the_size_of_its_weights(cnn):
    seen = first_layer_filters(cnn, layer="3")
    torch.testing.assert_close(seen.by_size()[2, 1, 0], sum(abs(cnn[3].weight[2, c, 1, 0]) for c in range(6)) / 6)


def test_half_precision_weights_are_shown_in_single(cnn):
    assert first_layer_filters(copy.deepcopy(cnn).bfloat16()).pictures().dtype == torch.float32


def test_a_saved_result_is_the_same(cnn, tmp_path):
    seen = first_layer_filters(Model.of(cnn, preprocess=PREPROCESS))
    again = Filters.load(seen.save(tmp_path / "filters"))
    assert torch.equal(again.weights, seen.weights)
    assert repr(again) == repr(seen)
    assert again.settings == seen.settings


def test_what_has_no_filters_is_refused_with_advice(cnn):
    with pytest.raises(LayerNotFound, match="no layer 'stem'"):
        first_layer_filters(cnn, layer="stem")
    with pytest.raises(BadModel, match="has no weights of two or four axes"):
        first_layer_filters(cnn, layer="1")
    with pytest.raises(BadModel, match="neither a 2-D convolution nor a linear layer"):
        first_layer_filters(nn.Sequential(nn.ReLU()))
    with pytest.raises(BadInput, match="a preprocessing that is unknown"):
        first_layer_filters(cnn, acting_on="pixels")
    with pytest.raises(BadInput, match="a preprocessing that is for 3 channels"):
        first_layer_filters(cnn, layer="3", acting_on="pixels", preprocess=PREPROCESS)
    with pytest.raises(BadInput, match="make no sheet"):
        first_layer_filters(cnn).sheet(zoom=0)


def test_it_is_in_the_registry():
    assert find_method("visualize.first_layer_filters").function is first_layer_filters
