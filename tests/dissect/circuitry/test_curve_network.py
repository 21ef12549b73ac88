"""The written curve detectors pass, and the judge tells detectors from other networks."""

from dataclasses import replace
from math import cos, pi, sin

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, find_method
from glasshouse.dissect.circuitry.curve_network import CurveTuning, apart, curve_detectors, judge_curves

SIDE = 73


@pytest.fixture(scope="module")
def detectors() -> nn.Sequential:
    return curve_detectors()


@pytest.fixture(scope="module")
def judged(detectors: nn.Sequential) -> CurveTuning:
    return judge_curves(detectors, radii=(12.0, 15.0), n_steps=1)


def drawing(normal: float, radius: float, reach: float = pi / 4, width: float = 3.0, blur: float = 0.5) -> Tensor:
    """An arc through the centre of an image by the distance to 181 points of it: nothing shared with the judge."""
    at = torch.arange(SIDE).double() - SIDE // 2
    up, right = torch.meshgrid(-at, at, indexing="ij")
    turns = torch.linspace(-reach, reach, 181, dtype=torch.float64)
    x = radius * (cos(normal) - torch.cos(normal + turns))
    y = radius * (sin(normal) - torch.sin(normal + turns))
    gap = ((right[..., None] - x) ** 2 + (up[..., None] - y) ** 2).amin(-1).sqrt()
    return (0.5 + 0.5 * torch.sigmoid((width / 2 - gap) / (blur / 2))).float()[None, None]


def at_centre(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        maps = net(images)
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]


def test_all_sixteen_pass_for_every_kind_of_curve(judged: CurveTuning):
    assert judged.accepted.all()
    assert judged.accepted.shape == (4, 2, 16)
    assert judged.error.max() <= 1  # 15 would do
    assert 30 <= judged.half_width.min() <= judged.half_width.max() <= 60
    assert judged.echo.max() < 0.25
    assert judged.straight_share.max() < 0.25  # 0.5 would do
    assert judged.sharp_share.max() < 1
    assert judged.turned.min() > 0.995  # 0.95 would do


@pytest.mark.slow
def test_ten_pass_too():
    judged = judge_curves(curve_detectors(10), radii=(12.0,), n_steps=1, contrast=-0.3)
    assert judged.accepted.all()
    assert judged.turned.min() > 0.99
    torch.testing.assert_close(judged.due, torch.arange(10) * 36.0)


def test_other_drawings_of_arcs_say_the_same(detectors: nn.Sequential, judged: CurveTuning):
    images = torch.cat([drawing(unit * pi / 8, 12.0) for unit in range(0, 16, 3)])
    found = at_centre(detectors, images)
    assert found.argmax(1).tolist() == list(range(0, 16, 3))
    arcs = judged.response[0, 0, ::3]
    torch.testing.assert_close(found, arcs, atol=0.1 * float(arcs.max()), rtol=0)


def test_turning_the_pixels_by_a_step_moves_the_answer_by_one_unit(detectors: nn.Sequential):
    arcs = torch.cat([drawing(unit * pi / 8 + 0.1, 13.0, reach=1.0) for unit in (0, 1, 2, 3, 6)])
    turn = torch.tensor([[cos(pi / 8), sin(-pi / 8), 0], [sin(pi / 8), cos(pi / 8), 0]]).expand(5, 2, 3)
    grid = F.affine_grid(turn, [5, 1, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(arcs, grid, mode="bicubic", padding_mode="border", align_corners=False)
    before, after = at_centre(detectors, arcs), at_centre(detectors, moved)
    assert torch.equal(after.argmax(1), (before.argmax(1) + 1) % 16)
    for one, other in zip(before.roll(1, 1), after, strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.95


def test_responses_follow_contrast_in_proportion_and_do_not_see_brightness(detectors: nn.Sequential):
    image = drawing(0.5, 12.0)
    full = at_centre(detectors, image)
    assert full.max() > 0.02
    torch.testing.assert_close(at_centre(detectors, 0.1 * image + 3), 0.1 * full, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(at_centre(detectors, 1 - image), full, atol=1e-5, rtol=1e-3)  # dark on light


def test_it_is_the_same_network_every_time_and_what_it_was_built_from_shows():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other = curve_detectors(4, radius=6.0), curve_detectors(4, radius=6.0)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    assert [name for name, layer in one.named_children() if isinstance(layer, nn.Conv2d)] == [
        "gabors",
        "proto_lines",
        "lines",
        "early_curves",
        "curves",
    ]
    assert not any("bias" in name for name in one.state_dict())


def test_at_the_default_radius_a_unit_sees_69_pixels(detectors: nn.Sequential):
    field = 1 + sum(layer.weight.shape[-1] - 1 for layer in detectors if isinstance(layer, nn.Conv2d))
    assert field == 69
    assert detectors(torch.rand(1, 1, 69, 72)).shape == (1, 16, 1, 4)


def test_the_judge_rejects_what_is_no_curve_detector():
    torch.manual_seed(3)
    noise = nn.Sequential(nn.Conv2d(1, 4, 15), nn.ReLU())
    seen = judge_curves(noise, radii=(12.0,), image_size=31, n_steps=2)
    assert not seen.accepted.any()
    flat = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU())
    nn.init.constant_(flat[0].weight, -1.0)
    seen = judge_curves(flat, radii=(12.0,), image_size=31, n_steps=2)
    assert not seen.accepted.any()  # silent units do not pass for want of an echo


def test_readings_are_what_a_bump_of_known_shape_gives():
    step = 5.0
    orientations, due = torch.arange(0, 360, step), torch.tensor([0.0, 90.0, 180.0, 270.0])
    bump = torch.relu(1 - apart(orientations[:, None], due + 10) / 60)  # 10° off, half width 30°
    echo = torch.where(apart(orientations[:, None], due + 180) < 1, 0.2, 0.0)
    tuning = CurveTuning(
        ("arc",), torch.tensor([9.0]), orientations, due, (bump + echo)[None, None], 0.3 * torch.ones(2, 4),
        torch.tensor([[0.9] * 4, [2.0] * 4]), 1.0
    )  # fmt: skip
    torch.testing.assert_close(tuning.peak, torch.ones(1, 1, 4))
    assert (tuning.error - 10).abs().max() < 1
    assert (tuning.half_width - 30).abs().max() <= step / 2
    torch.testing.assert_close(tuning.echo, torch.full((1, 1, 4), 0.2))
    torch.testing.assert_close(tuning.straight_share, torch.full((1, 1, 4), 0.3))
    torch.testing.assert_close(tuning.sharp_share, torch.full((1, 1, 4), 0.9))  # lines with lines
    boundary = replace(tuning, kinds=("disc",))
    torch.testing.assert_close(boundary.sharp_share, torch.full((1, 1, 4), 2.0))  # boundaries with boundaries
    torch.testing.assert_close(tuning.turned, torch.ones(1, 1, 72))


def test_saving_and_loading_is_the_identity_and_one_line_says_it(judged: CurveTuning, tmp_path):
    assert CurveTuning.load(judged.save(tmp_path / "curves.safetensors")).to_dict() == judged.to_dict()
    assert repr(judged).startswith("CurveTuning(16 units, 16 pass; off by 0.")
    assert "\n" not in repr(judged)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: curve_detectors(2), "2 orientations are too few"),
        (lambda: curve_detectors(radius=100.0), "radius 100 px is not in 4…64"),
        (lambda: judge_curves(nn.Conv2d(3, 4, 3)), "does not take grey images of 69 px"),
        (lambda: judge_curves(nn.Conv2d(1, 4, 90)), "does not take grey images of 69 px"),
        (lambda: judge_curves(nn.Flatten()), r"not maps n k i j"),
        (lambda: judge_curves(nn.Conv2d(1, 4, 3), radii=()), "leave nothing to draw"),
    ],
)
def test_a_mistake_is_named(call, said: str):
    with pytest.raises(BadInput, match=said):
        call()


def test_it_is_found_by_its_name():
    assert find_method("curve_detectors", "dissect").function is curve_detectors
