"""What a recorded forward pass says of a model."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse.core.trace import record


class Mixed(nn.Module):
    """Module, functional, in-place and reused operations."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.relu(self.conv(inputs))
        y = self.relu(self.norm(x))
        y += x
        y[:, 0] = 0
        return F.dropout(F.relu(y), training=self.training).mean((2, 3))


def test_every_kind_of_call_is_recorded_with_the_layer_it_ran_in(images):
    trace = record(Mixed().eval(), images)
    assert [(op.name, op.layer) for op in trace.ops] == [
        ("conv2d", "conv"),
        ("relu", "relu"),
        ("batch_norm", "norm"),
        ("relu", "relu"),
        ("add_", ""),
        ("__setitem__", ""),
        ("relu", ""),
        ("dropout", ""),
        ("mean", ""),
    ]


def test_a_value_written_in_place_is_a_new_value_of_the_same_object(images):
    trace = record(Mixed().eval(), images)
    add = next(op for op in trace.ops if op.name == "add_")
    (made,) = add.outputs
    assert made not in add.inputs
    assert trace.objects[made] == trace.objects[add.inputs[0]]
    assert trace.objects[made] != trace.objects[add.inputs[1]]


def test_layers_are_listed_in_the_order_they_finished_with_every_run(images):
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), nn.Flatten())
    trace = record(net, images)
    assert trace.finished == ["0.0", "0.1", "0", "1"]
    assert trace.calls["0"][0].outputs == trace.calls["0.1"][0].outputs
    assert trace.calls["0"][0].inputs == trace.inputs
    assert len(record(Mixed().eval(), images).calls["relu"]) == 2


def test_readers_are_the_operations_that_read_a_value(images):
    trace = record(Mixed().eval(), images)
    (active,) = trace.calls["relu"][0].outputs
    assert [trace.ops[number].name for number in trace.readers(active)] == ["batch_norm", "add_"]


def test_recording_a_model_in_training_mode_changes_nothing(images):
    net = Mixed().train()
    net.norm.eval()
    state = torch.random.get_rng_state()
    mean = net.norm.running_mean.clone()
    hook = net.conv.register_forward_hook(lambda *_: pytest.fail("a user's hook was run"))
    record(net, images)
    assert [net.training, net.conv.training, net.norm.training] == [True, True, False]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(net.norm.running_mean, mean)
    assert list(net.conv._forward_hooks) == [hook.id]
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) == 1


def test_an_error_in_the_model_leaves_no_hook_and_no_mode(cnn):
    fused = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        record(cnn, torch.zeros(1, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cnn.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_attention_is_seen_where_it_would_be_fused():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    trace = record(layer, torch.randn(1, 5, 8))
    names = [op.name for op in trace.ops]
    assert "multi_head_attention_forward" in names
    assert names.count("linear") == 2


def test_recording_keeps_no_tensor_alive(images):
    trace = record(Mixed().eval(), images)
    assert not any(isinstance(item, Tensor) for op in trace.ops for item in (*op.args, *op.kwargs.values()))
