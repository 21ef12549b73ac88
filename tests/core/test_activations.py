"""Reading what layers give out: exact beside in-place operations, several runs, inputs, and no trace left."""

import gc
import weakref
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadInput, LayerNotFound, edit, insert, probe, scale

Pair = namedtuple("Pair", ["maps", "note"])


class Branches(nn.Module):
    """One tensor read by a layer and then overwritten by another; one activation used three times."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs)
        y = self.second(x)
        x = self.act(x)
        y += x
        return self.head(self.act(self.act(y) - 0.1).mean((2, 3)))


class Says(nn.Module):
    """Gives its input in some container."""

    def __init__(self, container):
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 1)
        self.wrap = Wrap(container)

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.wrap(self.inner(inputs))
        maps = out["maps"] if isinstance(out, dict) else out if isinstance(out, Tensor) else out[0]
        return maps.mean((2, 3))


class Wrap(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.container = container

    def forward(self, maps: Tensor):
        return self.container(maps)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return Branches().eval().requires_grad_(False)


def by_hand(net: Branches, images: Tensor) -> dict[str, Tensor]:
    """The same net without any in-place operation."""
    x = net.first(images)
    y = net.second(x)
    active = F.relu(x)
    total = y + active
    both = F.relu(total)
    last = F.relu(both - 0.1)
    pooled = last.mean((2, 3))
    return {
        "first": x,
        "second": y,
        "second.input": x,
        "act#0": active,
        "act#1": both,
        "act#-1": last,
        "act.input#0": x,
        "act.input#1": total,
        "head.input": pooled,
        "head": net.head(pooled),
    }


def test_every_place_reads_as_if_nothing_were_in_place(net, images):
    expected = by_hand(net, images)
    with probe(net, *expected) as seen:
        output = net(images)
    torch.testing.assert_close(output, expected["head"])
    for place, value in expected.items():
        torch.testing.assert_close(seen[place], value, rtol=0, atol=0, msg=lambda m, place=place: f"{place}: {m}")


@pytest.mark.parametrize("place", ["second", "act#0", "act#1", "act#-1", "head.input"])
def test_the_gradient_at_a_place_is_that_of_the_net_without_in_place_operations(net, images, place):
    with probe(net, place) as seen:
        score = net(images.requires_grad_())[:, 1].sum()
    expected = by_hand(net, images)
    (gradient,) = torch.autograd.grad(score, seen[place])
    (reference,) = torch.autograd.grad(expected["head"][:, 1].sum(), expected[place])
    assert reference.any()
    torch.testing.assert_close(gradient, reference)


def test_the_gradient_at_an_input_is_what_flows_through_that_layer(net, images):
    with probe(net, "second.input", "second") as seen:
        score = net(images.requires_grad_())[:, 1].sum()
    (outside,) = torch.autograd.grad(score, seen["second"], retain_graph=True)
    (through,) = torch.autograd.grad(seen["second"], seen["second.input"], outside, retain_graph=True)
    (whole,) = torch.autograd.grad(score, seen["second.input"])
    torch.testing.assert_close(whole, through)


def test_a_layer_that_ran_often_must_be_told_which_run(net, images):
    with probe(net, "act", "act#7") as seen:
        net(images)
    with pytest.raises(BadInput, match=r"'act' ran 3 times.*'act#0'"):
        seen["act"]
    with pytest.raises(LayerNotFound, match="ran 3 times"):
        seen["act#7"]


def test_reading_a_layer_that_was_not_probed_or_did_not_run_is_an_error(net):
    with probe(net, "first") as seen:
        pass
    with pytest.raises(LayerNotFound, match="did not run"):
        seen["first"]
    with pytest.raises(LayerNotFound, match="Did you mean 'first'"):
        seen["frist"]
    assert list(seen) == ["first"]
    assert len(seen) == 1


@pytest.mark.parametrize("layer", ["", "frist", "frist.input", "first#0.5", "first#a"])
def test_a_name_that_stands_for_nothing_is_an_error_before_anything_runs(net, layer):
    with pytest.raises((LayerNotFound, BadInput)), probe(net, "second", layer):
        pytest.fail("the body ran")
    assert hooks(net) == 0


def test_a_layer_that_is_called_input_is_found_as_a_layer():
    net = nn.Sequential()
    net.add_module("block", nn.Sequential())
    net.block.add_module("input", nn.Conv2d(3, 1, 1))
    images = torch.ones(1, 3, 2, 2)
    with probe(net, "block.input", "block.input.input") as seen:
        net(images)
    assert seen["block.input"].shape == (1, 1, 2, 2)
    assert seen["block.input.input"].shape == (1, 3, 2, 2)


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x * 2


def test_stopping_runs_nothing_behind_the_layer(images):
    net = nn.Sequential(nn.Conv2d(3, 2, 1), Counted(), Counted(), Counted())
    with probe(net, "1", stop=True) as seen:
        net(images)
        pytest.fail("the body went on")
    assert seen["1"].shape == (3, 2, 14, 18)
    assert [net[i].runs for i in (1, 2, 3)] == [1, 0, 0]
    with probe(net, "0", "2", stop=True) as seen:
        net(images)
    assert [net[i].runs for i in (1, 2, 3)] == [2, 1, 0]


@pytest.mark.parametrize(("place", "runs"), [("act#0", 1), ("act#1", 2), ("act#-1", 3), ("act#-2", 3)])
def test_stopping_waits_for_the_run_that_was_named(net, images, place, runs):
    with probe(net, place, stop=True) as seen:
        net(images)
    assert len(seen.runs[place]) == runs
    with probe(net, place) as full:
        net(images)
    torch.testing.assert_close(seen[place], full[place], rtol=0, atol=0)


def test_an_outer_stop_leaves_the_outer_with(net, images):
    with probe(net, "first", stop=True) as outer:
        with probe(net, "head") as inner:
            net(images)
        pytest.fail("the outer body went on")
    assert outer["first"].shape == (3, 4, 14, 18)
    assert not inner.runs["head"]


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules())


def test_no_hook_is_left_however_the_body_ends(net, images):
    with probe(net, "first"):
        pass
    assert hooks(net) == 0
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), probe(net, "first", "second.input"):
            fail_after(net(images), error)
        assert hooks(net) == 0
    with pytest.raises(RuntimeError), probe(net, "first"):
        net(torch.zeros(1, 5, 4, 4))
    assert hooks(net) == 0


def test_a_users_hooks_stay_and_run(net, images):
    called = []
    handle = net.first.register_forward_hook(lambda *_: called.append(1))
    with probe(net, "first"):
        net(images)
    assert called == [1]
    assert list(net.first._forward_hooks) == [handle.id]


def test_probes_nest(net, images):
    expected = by_hand(net, images)
    with probe(net, "first") as outer, probe(net, "first", "second") as inner:
        net(images)
    for seen in (outer, inner):
        torch.testing.assert_close(seen["first"], expected["first"])
    torch.testing.assert_close(inner["second"], expected["second"])


def test_a_probe_outside_an_edit_sees_what_was_before_it_and_one_inside_what_is_after(net, images):
    with probe(net, "first") as before, edit(net, {"first": scale(range(4), 2.0)}), probe(net, "first") as after:
        net(images)
    torch.testing.assert_close(after["first"], 2 * before["first"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_are_the_same_without_gradients(net, images, mode):
    expected = by_hand(net, images)
    with mode(), probe(net, *expected) as seen:
        net(images)
    for place, value in expected.items():
        torch.testing.assert_close(seen[place], value.detach(), rtol=0, atol=0)


def test_the_graph_dies_with_what_was_seen(net, images):
    with probe(net, "second") as seen:
        net(images)
    activation = weakref.ref(seen["second"])
    del seen
    gc.collect()
    assert activation() is None


@pytest.mark.parametrize(
    "container",
    [lambda x: x, lambda x: (x, 1), lambda x: [x, 1], lambda x: {"note": 1, "maps": x}, lambda x: Pair(x, 1)],
    ids=["tensor", "tuple", "list", "dict", "namedtuple"],
)
def test_the_first_tensor_of_a_container_is_read_and_rewritten(images, container):
    net = Says(container).eval()
    with probe(net, "wrap", "inner") as seen:
        plain = net(images)
    torch.testing.assert_close(seen["wrap"], seen["inner"])
    with edit(net, {"wrap": insert([1], 3.0)}):
        changed = net(images)
    torch.testing.assert_close(changed[:, 0], plain[:, 0])
    torch.testing.assert_close(changed[:, 1], torch.full((3,), 3.0))


def test_a_layer_that_gives_no_tensor_is_an_error(images):
    net = Says(lambda x: (1, x)).eval()
    with pytest.raises(BadInput, match="gives a tuple, not a tensor"), probe(net, "wrap"):
        net(images)


def fail_after(_: Tensor, error: type[BaseException]) -> None:
    raise error
