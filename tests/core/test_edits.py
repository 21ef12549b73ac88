"""Each edit against the same arithmetic done by hand, on maps, tokens, channels-last and vectors."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core import (
    BadInput,
    LayerNotFound,
    NothingMatched,
    ablate,
    edit,
    insert,
    paste,
    probe,
    replace,
    scale,
)


class Twice(nn.Module):
    """Runs one layer two times."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.again(self.again(self.first(inputs))).mean((2, 3))


class Tokens(nn.Module):
    """Patches, a class token before them, and layers on tokens."""

    def __init__(self):
        super().__init__()
        self.patch, self.start = nn.Conv2d(3, 6, 4, 4), nn.Parameter(torch.ones(1, 1, 6))
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patch(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(patches), -1, -1), patches], 1)
        return self.head(self.mix(tokens)).mean(1)


class Last(nn.Module):
    """Works channels-last, as Swin and ConvNeXt do."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.mix(self.patch(inputs).permute(0, 2, 3, 1)).mean((1, 2)))


def run(net: nn.Module, images: Tensor, layer: str, change) -> tuple[Tensor, Tensor]:
    """A layer's output before and after the edit."""
    with probe(net, layer) as before, edit(net, {layer: change}), probe(net, layer) as after:
        net(images)
    return before[layer], after[layer]


def test_ablating_sets_the_units_to_zero_and_leaves_the_others(cnn, images):
    before, after = run(cnn, images, "3", ablate([1, 5]))
    expected = before.clone()
    expected[:, [1, 5]] = 0
    torch.testing.assert_close(after, expected, rtol=0, atol=0)


def test_ablating_everything_leaves_the_bias_of_the_head(cnn, images):
    with edit(cnn, {"4": ablate(range(8))}):
        torch.testing.assert_close(cnn(images), cnn[-1].bias.expand(3, -1))


@pytest.mark.parametrize("value", [2.5, torch.tensor([2.5, -1.0])])
def test_inserting_sets_one_value_per_unit(cnn, images, value):
    before, after = run(cnn, images, "0", insert([4, 0], value))
    expected = before.clone()
    for place, unit in enumerate([4, 0]):
        expected[:, unit] = value if isinstance(value, float) else value[place]
    torch.testing.assert_close(after, expected, rtol=0, atol=0)


def test_scaling_multiplies_and_one_changes_nothing(cnn, images):
    before, after = run(cnn, images, "0", scale([2], -3.0))
    torch.testing.assert_close(after[:, 2], -3 * before[:, 2])
    torch.testing.assert_close(after[:, [0, 1, 3, 4, 5]], before[:, [0, 1, 3, 4, 5]], rtol=0, atol=0)
    before, after = run(cnn, images, "0", scale(range(6), 1.0))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_replacing_by_another_images_activation_gives_that_images_output(cnn, images):
    with probe(cnn, "3") as seen:
        other = cnn(images[2:])
    with edit(cnn, {"3": replace(seen["3"].detach())}):
        torch.testing.assert_close(cnn(images), other.expand(3, -1))


def test_pasting_changes_the_positions_of_the_mask_only(cnn, images):
    mask = torch.zeros(7, 9)
    mask[2:4, 3:] = 1
    new = torch.randn(1, 8, 7, 9)
    before, after = run(cnn, images, "3", paste(new, mask))
    expected = torch.where(mask.bool(), new, before)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("shape", [(7, 9), (3, 7, 9)])
def test_a_mask_between_0_and_1_blends(cnn, images, shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    before, after = run(cnn, images, "3", insert([0, 3], 2.0, mask))
    expected = before.clone()
    weight = mask if mask.ndim == 3 else mask.expand(3, 7, 9)
    for n in range(3):
        for unit in (0, 3):
            expected[n, unit] = weight[n] * 2.0 + (1 - weight[n]) * before[n, unit]
    torch.testing.assert_close(after, expected)


def test_an_edit_changes_a_copy_and_not_what_the_layer_gave(cnn, images):
    with probe(cnn, "0") as seen:
        cnn(images)
    clean = seen["0"].clone()
    before, _ = run(cnn, images, "0", ablate([0]))
    torch.testing.assert_close(before, clean, rtol=0, atol=0)


def test_gradients_flow_through_what_was_not_edited(cnn, images):
    images = images.requires_grad_()
    with probe(cnn, "0") as seen, edit(cnn, {"0": ablate([1])}):
        score = cnn(images)[:, 2].sum()
    (gradient,) = torch.autograd.grad(score, seen["0"])
    assert not gradient[:, 1].any()
    assert gradient[:, 0].any()


def test_the_class_token_is_left_alone(images):
    net = Tokens().eval()
    images = images[..., :12, :16]
    for layer in ("mix", "mix.input"):
        before, after = run(net, images, layer, insert([2], 7.0))
        expected = before.clone()
        expected[:, 1:, 2] = 7
        torch.testing.assert_close(after, expected, rtol=0, atol=0)


def test_masks_lie_on_the_grid_of_tokens(images):
    net, mask = Tokens().eval(), torch.zeros(3, 4)
    mask[1, 2] = 1
    before, after = run(net, images[..., :12, :16], "mix", ablate([0], mask))
    changed = (before != after).any(0).any(1).nonzero()[:, 0].tolist()
    assert changed == [1 + 1 * 4 + 2]


def test_channels_last_units_are_the_last_axis(images):
    net = Last().eval()
    before, after = run(net, images, "mix", insert([3], torch.tensor([9.0])))
    expected = before.clone()
    expected[..., 3] = 9
    torch.testing.assert_close(after, expected, rtol=0, atol=0)
    assert after.shape == (3, 7, 9, 6)


def test_vectors_have_one_position(cnn, images):
    before, after = run(cnn, images, "7", insert([1], 4.0))
    expected = before.clone()
    expected[:, 1] = 4
    torch.testing.assert_close(after, expected, rtol=0, atol=0)


def test_a_run_can_be_edited_alone_each_time_the_model_runs(images):
    net = Twice().eval()
    with probe(net, "again#0", "again#1") as before:
        net(images)
    with probe(net, "again#0", "again#1") as once, edit(net, {"again#0": ablate([0])}):
        first = net(images)
    torch.testing.assert_close(once["again#0"], before["again#0"])
    assert not torch.equal(once["again#1"], before["again#1"])
    with edit(net, {"again#0": ablate([0])}):
        torch.testing.assert_close(net(images), first, rtol=0, atol=0)
        torch.testing.assert_close(net(images), first, rtol=0, atol=0)
    with edit(net, {"again": ablate([0])}):
        torch.testing.assert_close(net(images)[:, 0], torch.zeros(3))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (ablate([]), NothingMatched, "names no unit"),
        (ablate([8]), BadInput, "0…7"),
        (ablate([-1]), BadInput, "0…7"),
        (ablate([0], torch.zeros(7, 9)), NothingMatched, "selects no position"),
        (ablate([0], torch.ones(9, 7)), BadInput, r"\(9, 7\).*\(7, 9\)"),
        (replace(torch.zeros(1, 8, 7, 8)), BadInput, "cannot replace"),
        (replace(torch.zeros(2, 8, 7, 9)), BadInput, "cannot replace"),
    ],
)
def test_an_edit_that_cannot_apply_is_an_error(cnn, images, change, error, text):
    with pytest.raises(error, match=text), edit(cnn, {"3": change}):
        cnn(images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cnn.modules())


def test_an_edit_of_a_layer_or_run_that_is_not_there_is_an_error(cnn, images):
    with pytest.raises(LayerNotFound, match="'44'"), edit(cnn, {"44": ablate([0])}):
        pytest.fail("the body ran")
    with pytest.raises(LayerNotFound, match="runs 1 times"), edit(cnn, {"3#1": ablate([0])}):
        cnn(images)
    with pytest.raises(BadInput, match="counts runs from the first"), edit(cnn, {"3#-1": ablate([0])}):
        pytest.fail("the body ran")


def test_an_edit_where_units_cannot_be_told_apart_is_an_error(images):
    net = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 9)), nn.Linear(9, 2))
    with pytest.raises(NothingMatched, match="cannot tell the units of layer '0'"), edit(net, {"0": ablate([0])}):
        net(images)


def test_edits_leave_no_trace(cnn, images):
    clean = cnn(images)
    with edit(cnn, {"3": ablate([0])}):
        pass
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), edit(cnn, {"3": ablate([0]), "0.input": scale([1], 2.0)}):
            fail_after(cnn(images), error)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cnn.modules())
    torch.testing.assert_close(cnn(images), clean, rtol=0, atol=0)


def test_editing_a_model_in_training_mode_moves_no_running_mean_but_the_models_own(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    plain, edited = net.train(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    edited.load_state_dict(plain.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        expected = plain(images)
        torch.default_generator.manual_seed(5)
        with edit(edited.train(), {"2": scale([0], 1.0)}):
            result = edited(images)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(edited[1].running_mean, plain[1].running_mean, rtol=0, atol=0)
    assert edited.training
    assert edited[3].training


def fail_after(_: Tensor, error: type[BaseException]) -> None:
    raise error
