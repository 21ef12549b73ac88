"""Several methods and targets at once: the values of single calls, for fewer passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.core import (
    BadInput,
    GlasshouseError,
    Interrupted,
    LayerNotFound,
    NothingMatched,
    find_method,
    list_methods,
)

METHODS = [info for name in list_methods("attribute.*") if (info := find_method(name)).maps]


class Passes:
    """Images that went forward; copies of a network share it."""

    def __init__(self):
        self.forward = 0

    def __deepcopy__(self, memo: dict) -> "Passes":
        return self


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.passes = Passes()
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes.forward += len(inputs)
        x = F.relu(self.last(F.relu(self.norm(self.first(inputs)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net() -> Counted:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Counted().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("info", METHODS, ids=lambda info: info.short)
def test_values_are_those_of_single_calls(info, net, images):
    targets = [2, None, [0, 3]]
    together = attribute.compare(net, images, [info.short, "saliency"], targets, settings={info.short: info.example})
    if info.short in together.skipped:
        with pytest.raises(GlasshouseError) as alone:
            info.function(net, images, 2, **info.example)
        assert together.skipped[info.short] == str(alone.value)
        return
    for target, e in zip(targets, together[info.short], strict=True):
        alone = info.function(net, images, target, **info.example)
        torch.testing.assert_close(e.native, alone.native, rtol=1e-5, atol=1e-6 * float(alone.native.abs().max()))
        torch.testing.assert_close(e.heatmap, alone.heatmap, rtol=1e-5, atol=1e-6 * float(alone.heatmap.abs().max()))
        torch.testing.assert_close(e.score, alone.score)
        assert (e.target, e.settings, e.layer) == (alone.target, alone.settings, alone.layer)
        assert e.extras.keys() == alone.extras.keys()


def counted(net: Counted, images: Tensor, methods: list[str], targets: list, **settings) -> int:
    attribute.compare(net, images, methods, targets, **settings)  # plans and geometry are made
    net.passes.forward = 0
    result = attribute.compare(net, images, methods, targets, **settings)
    assert result.passes["made"] == net.passes.forward
    return net.passes.forward


def test_methods_of_one_gradient_share_one_pass_for_all_targets(net, images):
    assert counted(net, images, ["saliency", "input_x_gradient", "grad_cam"], [0, 1, 2, None]) == len(images)


def test_each_backward_rule_needs_one_pass_of_its_own_for_all_targets(net, images):
    assert counted(net, images, ["saliency", "guided_backprop", "deconvnet"], [0, 1, 2]) == 3 * len(images)


def test_images_changed_alike_for_every_target_are_run_once(net, images):
    settings = {"occlusion": {"sliding_window_shapes": 8, "strides": 8}}
    one = counted(net, images, ["occlusion"], [1], settings=settings)
    assert counted(net, images, ["occlusion"], [1, 2, 3, 0], settings=settings) == one


def test_the_model_is_left_as_it_was(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    attribute.compare(net, images, ["grad_cam", "occlusion"], [0, 1])
    assert "forward" not in vars(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(
        attribute.saliency(net, images, 1).native,
        attribute.compare(net, images, ["saliency"], [1])["saliency"][0].native,
    )


def test_a_model_with_hooks_of_its_own_is_asked_without_sharing(net, images):
    calls: list[int] = []
    net.last.register_forward_hook(lambda *_: calls.append(1))
    result = attribute.compare(net, images, ["saliency", "grad_cam"], [0, 1])
    assert calls
    assert not result.passes
    assert "forward" not in vars(net)


def test_a_method_that_does_not_suit_is_skipped_and_says_why(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    result = attribute.compare(net, images, ["guided_backprop", "saliency"], [0, 1])
    assert list(result.explanations) == ["saliency"]
    assert "gelu" in result.skipped["guided_backprop"]
    assert repr(result) == "Comparison(saliency; 2 targets, 1 skipped)"
    with pytest.raises(BadInput, match="guided_backprop was skipped"):
        result["guided_backprop"]
    with pytest.raises(NothingMatched, match="gelu"):
        attribute.compare(net, images, ["guided_backprop"])


@pytest.mark.parametrize(
    ("methods", "targets", "settings", "words"),
    [
        ([], [None], {}, "no method was named"),
        (["saliency"], [], {}, "no target was given"),
        (["saliency"], [9], {}, "out of range"),
        (["saliency"], [0], {"occlusion": {}}, "not among the methods"),
        (["occlusion"], [0], {"occlusion": {"window": 3}}, "no setting 'window'"),
    ],
)
def test_what_cannot_be_asked_is_an_error_before_anything_runs(net, images, methods, targets, settings, words):
    with pytest.raises(BadInput, match=words):
        attribute.compare(net, images, methods, targets, settings=settings)


def test_an_unknown_layer_is_an_error(net, images):
    with pytest.raises(LayerNotFound):
        attribute.compare(net, images, ["grad_cam"], settings={"grad_cam": {"layer": "nowhere"}})


def test_progress_rises_to_the_total(net, images):
    told: list[tuple[int, int]] = []
    settings = {"smooth": {"n_samples": 12, "chunk": 4}}
    attribute.compare(
        net,
        images,
        ["saliency", "smooth"],
        [0, 1],
        settings=settings,
        progress=lambda done, total: told.append((done, total)),
    )
    done = [step for step, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    assert len(told) > 4


def test_what_was_finished_before_a_cancel_is_kept(net, images):
    asked: list[int] = []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Interrupted, match=r"cancelled during smooth; 2 of 3 methods") as stopped:
        attribute.compare(net, images, ["saliency", "grad_cam", "smooth"], cancel=cancel)
    finished = stopped.value.finished
    assert isinstance(finished, attribute.Comparison)
    assert list(finished.explanations) == ["saliency", "grad_cam"]
    assert "forward" not in vars(net)


def test_a_comparison_is_saved_and_loaded_as_it_was(net, images, tmp_path):
    result = attribute.compare(net, images, ["saliency", "grad_cam"], [0, 1])
    back = attribute.Comparison.load(result.save(tmp_path / "c.safetensors"))
    assert repr(back) == repr(result)
    assert torch.equal(back["grad_cam"][1].native, result["grad_cam"][1].native)
