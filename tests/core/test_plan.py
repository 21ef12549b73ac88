"""The private copy: the same function, never the user's module, never out of date."""

import copy
import gc
import logging
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core import BadModel, borrow, geometry, prepare, probe, untouched
from glasshouse.core.plan import TrainingModeWarning, lock_of, weights_fingerprint


class Net(nn.Module):
    """Norms that can be folded and norms that cannot."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False))
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, affine=False)
        self.conv3, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.shared, self.norm4 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.stem(inputs)))
        x = F.relu(self.norm2(self.conv2(x)))
        y = self.conv3(x)
        x = self.norm3(y) + y  # read twice: must not be folded
        x = self.norm4(self.shared(self.shared(x)))  # used twice: must not be folded
        return self.head(self.drop(x.mean((2, 3))))


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = Net()
        for norm in (net.norm1, net.norm2, net.norm3, net.norm4):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.1, 2.0)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return net.eval()


def state(net: nn.Module) -> dict:
    """All that a user could find changed."""
    return {
        "values": {name: (value.data_ptr(), value.clone()) for name, value in net.state_dict(keep_vars=True).items()},
        "flags": {
            name: (p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in net.named_parameters()
        },
        "modules": {name: (id(m), type(m), m.training, sorted(vars(m))) for name, m in net.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in net.named_modules()},
    }


def assert_same_state(a: dict, b: dict) -> None:
    assert a["modules"] == b["modules"]
    assert a["hooks"] == b["hooks"]
    for name, (place, value) in a["values"].items():
        assert b["values"][name][0] == place
        assert torch.equal(b["values"][name][1], value)
    for name, (flag, grad) in a["flags"].items():
        assert b["flags"][name][0] == flag
        assert grad is b["flags"][name][1] or torch.equal(grad, b["flags"][name][1])


def test_folding_is_exact_and_only_where_nothing_else_reads_the_convolution(net, images):
    net, images = net.double(), images.double()
    plan = prepare(net, images)
    torch.testing.assert_close(plan.model(images), net(images), rtol=1e-12, atol=1e-12)
    assert plan.folded == {"stem", "stem.0", "norm1.input", "conv2", "norm2.input"}
    factor = net.norm1.weight / (net.norm1.running_var + net.norm1.eps).sqrt()
    torch.testing.assert_close(plan.model.stem[0].weight, net.stem[0].weight * factor[:, None, None, None])
    torch.testing.assert_close(plan.model.stem[0].bias, net.norm1.bias - net.norm1.running_mean * factor)


@pytest.mark.parametrize(
    "layer", ["stem", "stem.0", "norm1.input", "conv2", "conv2#0", "norm2.input", "norm1", "norm2", "head"]
)
def test_what_is_asked_for_is_what_the_model_gives_there(net, images, layer):
    with torch.no_grad(), probe(net, layer) as expected:
        net(images)
    with borrow(net, images, [layer]) as network, torch.no_grad(), probe(network, layer) as seen:
        network(images)
    torch.testing.assert_close(seen[layer], expected[layer])


def test_the_users_module_is_never_changed(net, images):
    net(images).sum().backward()
    before = state(net)
    for exact in (False, True):
        for dtype in (torch.float32, torch.float32):
            prepare(net, images.to(dtype), ["conv2"], exact)
            prepare(net, images.to(dtype), [], exact)
    assert_same_state(before, state(net))


def test_a_plan_is_made_once(net, images):
    first = prepare(net, images)
    assert prepare(net, images).model is first.model
    assert prepare(net, images, ["head"]).model is first.model
    assert prepare(net, images, ["conv2"]).model is not first.model
    assert prepare(net, images, ["conv2"]).model is prepare(net, images, ["stem.0"]).model
    exact = prepare(net, images, exact=True)
    assert exact.model is not first.model
    assert isinstance(exact.model.norm1, nn.BatchNorm2d)
    assert not exact.folded


def one_step(net: nn.Module) -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def in_place(net: nn.Module) -> None:
    with torch.no_grad():
        net.head.weight[0, 0] += 1e-3


def flip_data(net: nn.Module) -> None:
    net.conv2.weight.data.copy_(net.conv2.weight.data.flip(0).clone())


def small_data(net: nn.Module) -> None:
    net.conv2.weight.data[0, 0, 0, 0] *= 1.001


def running_mean(net: nn.Module) -> None:
    net.norm1.running_mean.data += 0.1


def load(net: nn.Module) -> None:
    net.load_state_dict({name: value * 1.5 for name, value in net.state_dict().items()})


def new_parameter(net: nn.Module) -> None:
    net.head.weight = nn.Parameter(net.head.weight.detach() * 2)


def new_layer(net: nn.Module) -> None:
    net.drop = nn.Tanh()


def new_setting(net: nn.Module) -> None:
    net.norm1.eps = 1.0


CHANGES = [one_step, in_place, flip_data, small_data, running_mean, load, new_parameter, new_layer, new_setting]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_model_is_noticed(net, images, change):
    with borrow(net, images) as network:
        before = network(images)
    change(net)
    with borrow(net, images) as network:
        after = network(images)
    torch.testing.assert_close(after, net(images), rtol=1e-4, atol=1e-5)
    assert not torch.equal(before, after)


def test_swapping_two_values_of_a_large_weight_changes_the_fingerprint():
    net = nn.Linear(1000, 1000)
    before = weights_fingerprint(net)
    assert weights_fingerprint(net) == before
    net.weight.data[3, [10, 11]] = net.weight.data[3, [11, 10]].clone()
    assert weights_fingerprint(net) != before


def test_weights_that_are_no_numbers_are_named(net, images):
    net.conv3.weight.data[0, 0] = torch.nan
    with pytest.raises(BadModel, match=r"weight 'conv3\.weight' holds NaN"):
        prepare(net, images)


def test_a_model_with_hooks_is_run_itself(net, images):
    first = prepare(net, images)
    assert first.private
    doubled = net.conv2.register_forward_hook(lambda m, args, out: out * 2)
    plan = prepare(net, images)
    assert plan.model is net
    assert not plan.private
    with borrow(net, images) as network:
        torch.testing.assert_close(network(images), net(images))
    doubled.remove()
    assert prepare(net, images).model is first.model
    for register in ("register_forward_pre_hook", "register_full_backward_hook"):
        handle = getattr(net.conv2, register)(lambda *_: None)
        assert prepare(net, images).model is net
        handle.remove()


def test_a_model_whose_forward_was_replaced_is_run_itself(net, images):
    plain = net.forward
    net.forward = lambda inputs: plain(inputs) * 2
    with borrow(net, images) as network:
        torch.testing.assert_close(network(images), net(images))
        assert network is net


def test_a_model_that_cannot_be_copied_is_run_itself(images):
    class Single(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is only one of me")

    net = Single(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with borrow(net, images) as network:
        assert network is net


def test_a_copy_that_computes_something_else_is_thrown_away(images, caplog):
    class Standardised(nn.Conv2d):
        """Scales its weight each time, so that nothing can be folded into it."""

        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight / self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)

    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, 2.0, 5.0)
    net = nn.Sequential(Standardised(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with caplog.at_level(logging.WARNING, "glasshouse"), borrow(net, images) as network:
        assert network is not net
        torch.testing.assert_close(network(images), net(images))
    assert "an unchanged copy is used" in caplog.text


def test_shared_weights_are_not_folded(images):
    first, second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    second.weight = first.weight
    net = nn.Sequential(first, nn.BatchNorm2d(3), second, nn.BatchNorm2d(3), nn.Flatten()).eval()
    nn.init.normal_(net[1].running_mean)
    plan = prepare(net, images)
    assert not plan.folded
    torch.testing.assert_close(plan.model(images), net(images))


def test_the_norm_is_not_taken_for_the_convolution_it_was_folded_into(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with borrow(net, images) as network:
        assert geometry(network, images).usual() == geometry(net, images).usual() == "1"


def test_half_precision_is_kept(net, images):
    net, images = net.bfloat16(), images.bfloat16()
    with borrow(net, images) as network:
        output = network(images)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, net(images), rtol=0.05, atol=0.05)


def test_a_model_in_training_mode_is_run_in_evaluation_mode_with_a_warning_and_put_back(net, images):
    expected = net(images)
    net.train()
    net.norm2.eval()
    before, draws = state(net), torch.random.get_rng_state()
    with pytest.warns(TrainingModeWarning, match=r"norm1, norm3, norm4 and 1 more"), borrow(net, images) as network:
        torch.testing.assert_close(network(images), expected)
    assert_same_state(before, state(net))
    assert torch.equal(torch.random.get_rng_state(), draws)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_untouched_puts_modes_back_however_it_ends(net, error):
    def stop() -> None:
        assert not net.drop.training
        raise error

    net.drop.train()
    with pytest.warns(TrainingModeWarning), pytest.raises(error), untouched(net):
        stop()
    assert net.drop.training
    assert not net.norm1.training


def test_borrowing_works_in_every_gradient_mode_and_nests(net, images):
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode(), borrow(net, images) as network, borrow(network, images) as inner:
            leaf = images.detach().clone().requires_grad_()
            assert torch.autograd.grad(inner(leaf)[:, 0].sum(), leaf)[0].any()
            assert inner is network
    assert net.conv2.weight.requires_grad


def test_images_made_in_inference_mode_are_taken(net, images):
    with torch.inference_mode():
        images = images + 0
    with borrow(net, images) as network, torch.no_grad():
        assert network(images.clone()).isfinite().all()


def test_plans_are_freed_with_the_model(images):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).eval()
    hooked = copy.deepcopy(net)
    hooked[0].register_forward_hook(lambda *_: None)
    references = []
    for model in (net, hooked):
        references += [weakref.ref(model), weakref.ref(prepare(model, images).model)]
    del net, hooked, model
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_a_model_is_used_by_one_thread_at_a_time(net, images):
    inside, waited = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        assert not lock_of(net).acquire(blocking=False)
        waited.set()

    thread = threading.Thread(target=other)
    thread.start()
    with borrow(net, images), borrow(net, images):
        inside.set()
        assert waited.wait(5)
    thread.join()
    assert lock_of(net).acquire(blocking=False)
    lock_of(net).release()
