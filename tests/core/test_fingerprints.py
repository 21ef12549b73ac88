"""Equal for equal networks, and for no others."""

import copy
import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from glasshouse.core.errors import BadInput
from glasshouse.core.fingerprints import fingerprint, fingerprint_data


def named() -> nn.Module:
    net = nn.Module()
    net.half = nn.Linear(2, 2).to(torch.bfloat16)
    net.norm = nn.BatchNorm2d(3)
    net.register_buffer("scalar", torch.tensor(2.5))
    net.register_buffer("empty", torch.empty(0), persistent=False)
    net.register_buffer("flags", torch.tensor([True, False]))
    return net


def set_at(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], object]:
    def harm(net: nn.Module) -> None:
        values = dict([*net.named_parameters(), *net.named_buffers()])[name]
        values.data = change(values.data)

    return harm


def test_a_copy_in_another_memory_layout_has_the_same_fingerprint(cnn: nn.Sequential):
    assert fingerprint(copy.deepcopy(cnn)) == fingerprint(cnn)
    assert fingerprint(copy.deepcopy(cnn).to(memory_format=torch.channels_last)) == fingerprint(cnn)
    assert len(fingerprint(named())) == 64


@pytest.mark.parametrize(
    "harm",
    [
        set_at("scalar", lambda x: x + 1e-6),
        set_at("flags", lambda x: ~x),
        set_at("half.weight", lambda x: x.view(4, 1)),
        set_at("half.weight", lambda x: x.view(torch.float16)),
        set_at("norm.running_mean", lambda x: -x),  # minus zero is another number to the bit
        lambda net: net.norm.register_buffer("more", torch.empty(0)),
        lambda net: setattr(net, "norm", nn.GroupNorm(1, 3)),
        lambda net: setattr(net, "relu", nn.ReLU()),
    ],
)
def test_whatever_changes_in_a_network_changes_its_fingerprint(harm: Callable[[nn.Module], object]):
    torch.default_generator.manual_seed(0)
    net = named()
    before = fingerprint(net)
    harm(net)
    assert fingerprint(net) != before


def test_it_is_made_as_the_page_says():
    net = nn.Linear(2, 1, bias=False)
    digest = hashlib.sha256(b"\0Linear\nweight\0torch.float32\0(1, 2)\n" + net.weight.detach().numpy().tobytes())
    assert fingerprint(net) == digest.hexdigest()


def test_data_is_known_by_its_ids_in_order():
    class Album(list[str]):
        def ids(self) -> list[str]:
            return list(self)

    seen = {fingerprint_data(Album(names)) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", ""])}
    assert len(seen) == 5
    assert fingerprint_data(torch.zeros(3, 1)) == fingerprint_data([7, 8, 9]) != fingerprint_data([7, 8])
    with pytest.raises(BadInput, match="2 items and 3 ids"):
        fingerprint_data(type("Bad", (list,), {"ids": [1, 2, 3]})([1, 2]))
