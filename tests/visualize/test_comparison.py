"""Every preset: alone and in batches, of any size and number of channels; and the sheet that compares them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from glasshouse.core import BadInput, NotFound, draw, find_method, generator
from glasshouse.visualize import (
    PRESETS,
    PresetComparison,
    compare_presets,
    fineness,
    fourier_image,
    layer_energy,
    neuron,
    pixel_image,
    render,
    sphere_image,
    unit,
)


def small(channels=3):
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.SiLU(), nn.Conv2d(4, 5, 3), nn.Flatten()).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator(0)))
    return net.requires_grad_(False)


@pytest.fixture(scope="module")
def net():
    return small()


@pytest.fixture(scope="module")
def sheet(net):
    reference = torch.rand(5, 3, 12, 14, generator=generator(1))
    return compare_presets(net, unit("2", [1, 3]), size=(12, 14), steps=4, reference=reference)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_picture_is_the_same_alone_and_in_a_batch_by_every_preset(net, preset):
    together = render(net, unit("2", [1, 3]), preset=preset, size=(13, 10), steps=4, seed=4)
    alone = render(net, unit("2", 3), preset=preset, size=(13, 10), steps=4, seed=5)
    torch.testing.assert_close(together.pixels[1:], alone.pixels, atol=1e-5, rtol=0)
    again = render(net, unit("2", 3), preset=preset, size=(13, 10), steps=4, seed=5)
    assert torch.equal(alone.pixels, again.pixels)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_draws_any_number_of_channels_and_what_lowers_a_unit_too(preset, channels):
    net = small(channels)
    lowered, raised = (
        render(net, objective, preset=preset, size=(20, 26), channels=channels, steps=6)
        for objective in (-unit("2", 2), unit("2", 2))
    )
    assert lowered.pixels.shape == (1, channels, 20, 26)
    assert 0 <= float(lowered.pixels.min()) <= float(lowered.pixels.max()) <= 1
    assert lowered.labels == ("negative 2 unit 2",)
    assert float(-lowered.activation) < float(raised.activation)


def test_erhans_sphere_has_the_norm_of_photographs_and_its_best_pattern_is_the_filter():
    linear = nn.Sequential(nn.Conv2d(3, 1, 6), nn.Flatten()).eval()
    preset, w = PRESETS["erhan2009"], linear[0].weight.detach()
    free = 0.5 + 0.234 * math.sqrt(3 * 6 * 6) * w / w.norm()
    start = preset.image.pixels(w, (3, 6, 6))
    torch.testing.assert_close(start, free.clamp(0, 1))
    inside = replace(preset, image=sphere_image(0.4))
    pattern = render(linear, unit("0", 0), preset=inside, size=6, steps=60).pixels - 0.5
    torch.testing.assert_close(pattern.norm(), torch.tensor(0.4))
    assert float((pattern * w).sum() / pattern.norm() / w.norm()) > 0.98


def test_decay_follows_its_recursion_on_a_linear_unit():
    linear = nn.Sequential(nn.Conv2d(1, 1, 5, bias=False), nn.Flatten()).eval()
    preset, w = PRESETS["simonyan2013"], linear[0].weight.detach()
    step, expected = preset.learning_rate * w / w.abs().mean(), torch.zeros_like(w)
    for _ in range(20):
        expected = (0.98 * (expected + step)).clamp(-0.5, 0.5)
    pattern = render(linear, unit("0", 0), preset=preset, size=5, channels=1, steps=20).pixels - 0.5
    torch.testing.assert_close(pattern, expected, atol=1e-5, rtol=0)


def test_papers_presets_are_named_and_record_what_they_do(net):
    papers = "erhan2009 simonyan2013 mahendran2015 nguyen2015 mordvintsev2015 oygard2015 tyka2016 mordvintsev2016"
    assert set(papers.split()) < set(PRESETS)
    assert PRESETS["distill2017"] is PRESETS["distill"]
    settings = render(net, unit("2", 1), preset="oygard2015", size=12, steps=1).settings
    assert settings["gradients"] == ("blurred(2, 0.5)", "even()")
    assert settings["filters"] == ("box()",)
    assert settings["optimiser"] == "plain()"
    assert settings["learning_rate"] == 1.5 / 255
    settings = render(net, unit("2", 1), preset="mahendran2015", size=12, steps=1).settings
    assert settings["filters"] == ("penalised(roughness(2), 0.02)", "penalised(alpha_norm(6), 0.1)", "box()")
    assert settings["optimiser"] == "plain(0.9)"


def test_ones_own_preset_and_its_parts(net):
    own = replace(PRESETS["tyka2016"], transforms=())
    picture = render(net, unit("2", 1), preset=own, size=12, steps=3)
    assert picture.settings["preset"] == "own"
    parts = render(net, unit("2", 1), preset="tyka2016", transforms=(), size=12, steps=3)
    assert torch.equal(picture.pixels, parts.pixels)
    assert render(net, unit("2", 1), preset=own, image=pixel_image(), size=12, steps=1).drawn.all()
    with pytest.raises(BadInput, match="this preset filters pixels, and fourier_image"):
        render(net, unit("2", 1), preset=own, image=fourier_image(), size=12, steps=3)


def test_fineness_is_the_share_of_power_above_a_quarter_of_a_cycle():
    column = torch.arange(16.0)
    coarse, fine = (torch.cos(2 * math.pi * column * cycles / 16).expand(1, 1, 12, 16) for cycles in (2, 7))
    found = fineness(0.5 + torch.cat([0.1 * coarse, 0.1 * fine, 0.1 * coarse + 0.2 * fine, 0 * fine]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.8, 0.0]), atol=1e-5, rtol=0)


def test_the_sheet_holds_what_each_preset_draws_alone(net, sheet):
    assert sheet.presets == tuple(name for name in PRESETS if name != "distill2017")
    reference = torch.rand(5, 3, 12, 14, generator=generator(1))
    alone = render(net, unit("2", [1, 3]), preset="nguyen2015", size=(12, 14), steps=4, reference=reference)
    assert torch.equal(sheet["nguyen2015"].pixels, alone.pixels)
    row = sheet.presets.index("nguyen2015")
    assert torch.equal(sheet.activation[row], alone.activation)
    assert torch.equal(sheet.excess[row], alone.excess)
    assert torch.equal(sheet.patch_excess[row], alone.patch_excess)
    assert torch.equal(sheet.fineness[row], fineness(alone.pixels))
    assert len(sheet.seconds) == 14
    assert repr(sheet) == "PresetComparison(unit('2', [1, 3]), 14 presets × 2 pictures)"
    assert find_method("visualize.compare_presets").function is compare_presets


def test_one_picture_of_all_is_rows_of_presets_and_columns_of_units(sheet):
    whole = sheet.sheet(gap=3)
    assert whole.shape == (1, 3, 14 * 15 - 3, 2 * 17 - 3)
    assert torch.equal(whole[0, :, 30:42, 17:31], sheet.pictures[2].pixels[1])
    assert (whole[:, :, 12:15] == 1).all()
    assert sheet.sheet(gap=0).shape == (1, 3, 14 * 12, 2 * 14)


def test_the_sheet_is_saved_and_drawn(sheet, tmp_path):
    again = PresetComparison.load(sheet.save(tmp_path / "sheet"))
    assert again.presets == sheet.presets
    assert torch.equal(again["tyka2016"].pixels, sheet["tyka2016"].pixels)
    html = draw(sheet)
    assert html.count("<img") == 28
    assert "tyka2016" in html


def test_progress_counts_all_presets(net):
    told = []
    compare_presets(
        net, unit("2", 1), presets=["fourier", "distill"], size=8, steps=2, progress=lambda *done: told.append(done)
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_cannot_be_compared_is_refused(net, sheet):
    with pytest.raises(BadInput, match="no presets to compare"):
        compare_presets(net, unit("2", 1), presets=[], size=8)
    with pytest.raises(NotFound, match="no preset 'olah'"):
        compare_presets(net, unit("2", 1), presets=["olah"], size=8)
    with pytest.raises(BadInput, match="no pictures by preset 'olah'"):
        sheet["olah"]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_patch_of_the_data_is_the_best_position_of_any_image(net, sign):
    images = torch.rand(20, 3, 10, 11, generator=generator(2))
    with torch.no_grad():
        maps = sign * net[:3](images)[:, [1, 3]]
    for objective in (unit("2", [1, 3]), neuron("2", [1, 3]), neuron("2", [1, 3], at=(2, 0))):
        picture = render(net, sign * objective, size=(10, 11), steps=2, reference=images)
        torch.testing.assert_close(picture.patch, maps.amax((0, 2, 3)))
        with torch.no_grad():
            drawn = sign * net[:3](picture.pixels)[[0, 1], [1, 3]]
        torch.testing.assert_close(picture.peak, drawn.amax((1, 2)))
        torch.testing.assert_close(picture.patch_excess, picture.peak - picture.patch)
        assert (picture.patch >= picture.reference).all()


def test_an_objective_without_places_has_no_best_patch(net):
    reference = torch.rand(2, 3, 8, 8, generator=generator(2))
    picture = render(net, layer_energy("2"), size=8, steps=1, reference=reference)
    assert picture.patch is None
    with pytest.raises(BadInput, match="no best patch is known for layer_energy"):
        picture.patch_excess  # noqa: B018
    two = render(net, unit("0", 1) + unit("2", 1), size=8, steps=1, reference=reference)
    assert two.peak is None
