"""Tuning curves: units whose preference is known, found again."""

from math import pi

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import BadInput, NotFound, Preprocess, find_method
from glasshouse.dissect.circuitry import stimuli
from glasshouse.dissect.circuitry.responses import Tuning
from glasshouse.dissect.circuitry.tuning import STIMULI, tuning_curves

ORIENTATIONS, FREQUENCY = (0, 30, 75, 120), 0.125


def gabor_net(kernel: int = 17, stride: int = 1) -> nn.Sequential:
    """Four cosine filters without a mean, rectified."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, kernel, stride=stride, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with torch.no_grad():
        for unit, degrees in enumerate(ORIENTATIONS):
            wave = stimuli.gabor(degrees, FREQUENCY, 0, sigma=3).pixels((kernel, kernel), channels=1)[0]
            net[0].weight[unit, 0] = wave - wave.mean()
    return net.eval()


@pytest.fixture(scope="module")
def seen() -> Tuning:
    over = {"orientation": range(0, 180, 15), "frequency": (0.0625, 0.125, 0.25), "phase": range(0, 360, 45)}
    return tuning_curves(gabor_net(), "grating", over, layer="1", size=24, channels=1, batch_size=100)


def circular_gap(found: Tensor, wanted: Tensor, period: float) -> Tensor:
    gap = (found - wanted).remainder(period)
    return torch.minimum(gap, period - gap)


def test_a_gabor_filter_prefers_its_own_orientation_frequency_and_phase(seen: Tuning):
    assert seen.preferred("orientation").tolist() == list(ORIENTATIONS)
    assert seen.preferred("frequency").tolist() == [FREQUENCY] * 4
    assert seen.preferred("phase").tolist() == [0] * 4
    gaps = circular_gap(seen.vector_mean(), torch.tensor(ORIENTATIONS, dtype=torch.float64), 180)
    assert (gaps < 2).all()


def test_responses_are_those_of_the_filter_to_the_picture(seen: Tuning):
    net = gabor_net()
    for place, (orientation, phase) in {(3, 1, 2): (45, 90), (10, 1, 0): (150, 0)}.items():
        centre = (3 + 8, 3 + 8)  # the middle one of 8 positions, whose kernel has 17 pixels
        picture = stimuli.grating(orientation, 0.125, phase).pixels((24, 24), channels=1, centre=centre)
        torch.testing.assert_close(seen.responses[:, *place], net[:2](picture[None])[0, :, 3, 3].detach())
    torch.testing.assert_close(seen.blank, torch.zeros(4), atol=1e-6, rtol=0)


def test_a_linear_filter_is_tuned_as_the_transform_of_its_window_says(seen: Tuning):
    # cos² would be the phase average; here height ∝ exp(-2π²σ²|f - f0|²) at phase 0, half at |f - f0| = 0.0625.
    half = (2 * torch.log(torch.tensor(2.0)) / (4 * pi**2 * 9)) ** 0.5
    degrees = 2 * torch.asin(half / (2 * FREQUENCY)) * 180 / pi
    assert ((seen.half_width() - degrees).abs() < 5).all()


def test_a_rectified_filter_cares_for_phase_and_a_sum_over_phases_does_not(seen: Tuning):
    assert (seen.invariance("phase").abs() < 1e-5).all()
    net = nn.Sequential(nn.Conv2d(1, 8, 17, bias=False), nn.ReLU(), nn.Conv2d(8, 1, 1, bias=False), nn.ReLU()).eval()
    with torch.no_grad():
        for unit in range(8):
            wave = stimuli.gabor(0, FREQUENCY, 45 * unit, sigma=3).pixels((17, 17), channels=1)[0]
            net[0].weight[unit, 0] = wave - wave.mean()
        net[2].weight.fill_(1)
    over = {"phase": range(0, 360, 15)}
    complex_ = tuning_curves(net, "grating", over, layer="3", size=17, channels=1)
    assert float(complex_.invariance("phase")) > 0.9


def test_a_centre_between_pixels_is_found_behind_a_stride():
    net = gabor_net(kernel=8, stride=4)
    over = {"orientation": range(0, 180, 15), "phase": (0, 180)}
    found = tuning_curves(net, "grating", over, layer="1", size=(31, 36), channels=1)
    assert found.settings["position"] == (2, 3)
    assert found.preferred("phase").tolist() == [0] * 4
    turned = tuning_curves(net, "grating", {"orientation": (0, 90)}, layer="1", size=(31, 36), channels=1, units=[0])
    assert turned.responses[0, 0] > 2 * turned.responses[0, 1]


def test_a_unit_that_weighs_colours_prefers_the_hue_of_its_weights():
    net = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.Flatten()).eval()
    hues = torch.arange(6) * 60.0 + 10
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([stimuli.hued(float(hue)) for hue in hues])[:, :, None, None])
    found = tuning_curves(net, "colour_patch", layer="0", size=4)
    assert (circular_gap(found.vector_mean("hue"), hues.double(), 360) < 1e-3).all()
    assert (circular_gap(found.preferred("hue"), hues.double(), 360) <= 5).all()
    assert (found.half_width("hue") - 60).abs().max() < 1  # a cosine
    torch.testing.assert_close(found.echo(180, "hue"), -torch.ones(6, dtype=torch.float64), atol=2e-3, rtol=0)


# What is read off a curve


def tuned(curve: Tensor, values: list[float], axis: str = "orientation", period: float = 360.0) -> Tuning:
    units, blank = torch.arange(len(curve)), torch.zeros(len(curve))
    return Tuning("layer", units, "edge", {axis: tuple(map(float, values))}, curve, blank, {axis: period})


def test_a_triangle_has_the_half_width_and_the_echo_that_it_was_drawn_with():
    angles = torch.arange(0, 360, 10.0)
    gap = circular_gap(angles, torch.tensor(350.0), 360)
    echo = circular_gap(angles, torch.tensor(170.0), 360)
    curve = (1 - gap / 40).clamp(min=0) + 0.3 * (1 - echo / 40).clamp(min=0)
    found = tuned(curve[None], angles.tolist())
    assert float(found.preferred()) == 350
    assert found.reach()[0].tolist() == pytest.approx([330, 370])
    assert float(found.half_width()) == pytest.approx(20)
    assert float(found.echo(180)) == pytest.approx(0.3)
    assert float(found.echo(185)) == pytest.approx(0.3 * 0.875)
    assert float(found.echo(90)) == 0
    assert float(found.vector_mean()) == pytest.approx(350, abs=1e-3)
    weights = curve.double()
    both = (weights * torch.exp(1j * torch.deg2rad(angles.double()))).sum().abs() / weights.sum()
    assert float(found.selectivity()) == pytest.approx(float(both), abs=1e-6)


def test_reach_ends_where_an_open_axis_does():
    found = tuned(torch.tensor([[4.0, 3, 1, 0], [1, 1.5, 2, 2]]), [4, 8, 16, 32], "radius", 0.0)
    assert found.reach("radius")[0].tolist() == pytest.approx([4, 12])
    assert found.reach("radius")[1].tolist() == pytest.approx([4, 32])


def test_flat_and_silent_units_have_no_width():
    found = tuned(torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [-1, -2, -1, -3]]), [0, 90, 180, 270])
    assert found.half_width().isnan().all()
    assert found.selectivity()[:2].tolist() == [0, 0]
    assert found.echo()[0] == 1
    assert found.echo()[1:].isnan().all()
    assert found.invariance("orientation")[0] == 1


def test_an_axis_that_is_not_a_full_circle_is_named():
    found = tuned(torch.tensor([[1.0, 2, 1]]), [0, 10, 20])
    for ask in (found.vector_mean, found.selectivity, found.echo, found.families):
        with pytest.raises(BadInput, match="'orientation' do not go full circle"):
            ask()
    with pytest.raises(NotFound, match="'radius' was not varied"):
        found.curve("radius")


def test_shifted_curves_are_a_family_with_order_and_phase():
    angles = torch.arange(0, 360, 15.0)
    bump = [(-(circular_gap(angles, torch.tensor(at), 360) / 25).square()).exp() for at in (30.0, 120, 210, 300)]
    other = (-(circular_gap(angles, torch.tensor(0.0), 180) / 25).square()).exp()
    found = tuned(torch.stack([*bump, other]), angles.tolist()).families(threshold=0.95)
    assert found.members == ((0, 1, 2, 3),)
    assert found.order(0) == 4
    assert found.phase[:4].tolist() == [0, 90, 180, 270]
    assert found.between(1, 3)["degrees"] == 180
    assert found.similarity[0, 4] < 0.95


# Data, sizes, kinds


def test_deviations_are_measured_by_the_data_set():
    photos = torch.rand(6, 1, 20, 22, generator=torch.Generator().manual_seed(0))
    net = gabor_net()
    found = tuning_curves(
        net, "edge", {"orientation": (0, 90)}, layer="1", size=20, channels=1, data=photos, batch_size=4
    )
    values = net[:2](photos).detach().double().transpose(0, 1).flatten(1)
    expected = (found.responses - values.mean(1, keepdim=True)) / values.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(found.deviations.double(), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(BadInput, match="no data set was given"):
        tuned(torch.ones(1, 4), [0, 90, 180, 270]).deviations  # noqa: B018


@pytest.mark.parametrize("name", STIMULI)
def test_every_stimulus_is_drawn_by_its_name(name: str, cnn):
    draw, usual = STIMULI[name]
    over = {axis: list(values)[:2] for axis, values in usual.items()}
    found = tuning_curves(cnn, name, over, layer="4", size=(16, 20))
    assert list(found.axes) == list(usual)
    assert found.responses.shape == (8, *[2] * len(usual))
    assert found.stimulus == draw.__name__ == name


def test_the_network_is_fed_through_its_preprocessing(cnn):
    wash = Preprocess(size=(16, 18), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    found = tuning_curves(cnn, stimuli.edge, {"orientation": (0, 40)}, layer="3", preprocess=wash)
    place = found.settings["position"]
    centre = tuple(2 * at + 0.5 for at in place)
    picture = wash.normalise(stimuli.edge(40).pixels((16, 18), centre=centre)[None])
    torch.testing.assert_close(found.responses[:, 1], cnn[:4](picture)[0, :, *place].detach(), rtol=1e-4, atol=1e-5)


def test_it_saves_and_one_unit_can_be_taken_out(seen: Tuning, tmp_path):
    again = Tuning.load(seen.save(tmp_path / "tuning"))
    torch.testing.assert_close(again.unit(2).responses, seen.responses[2:3])
    assert again.axes == seen.axes
    assert "unit 2, grating: 12 orientation" in repr(again.unit(2))
    with pytest.raises(NotFound, match="unit 9 was not looked at"):
        seen.unit(9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stimulus": "curv"}, "no stimulus 'curv'. Did you mean 'curve'"),
        ({"over": {"orient": (0, 1)}}, "cannot be drawn from"),
        ({"over": {"orientation": ()}}, "nothing is varied"),
        ({"size": None}, "size of the pictures is unknown"),
        ({"units": [4]}, "no unit 4 in layer '1'"),
    ],
)
def test_a_mistake_is_named(change: dict, said: str):
    given = {"stimulus": "edge", "over": {"orientation": (0, 90)}, "layer": "1", "size": 20, "channels": 1} | change
    with pytest.raises((BadInput, NotFound), match=said):
        tuning_curves(gabor_net(), **given)


def test_it_is_found_by_its_name():
    assert find_method("tuning_curves", "dissect").function is tuning_curves
