"""Attention maps against what networks say themselves, and the tokens they are about."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.architectures import build, pictures
from conformance.transformers_zoo import EVERY, PREFIX, grid_of, size_of, vit
from glasshouse.core import BadModel, NothingMatched
from glasshouse.core.attention import attention_maps, dot_product_attention, token_entry, token_layout

pytestmark = pytest.mark.usefixtures("timm")


@pytest.fixture(params=EVERY)
def name(request) -> str:
    return request.param


def maps_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), attention_maps(model) as maps:
        model(images)
    return dict(maps)


def logits(output) -> Tensor:
    return getattr(output, "logits", output)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_block_has_one_map_whose_rows_sum_to_one(name):
    model, images = vit(name), pictures(3, size_of(name))
    maps = maps_of(model, images)
    i, j = grid_of(name)
    n_tokens = i * j + PREFIX.get(name, 1)
    assert len(maps) == (1 if name == "timm_one_block" else 2)
    for weights in maps.values():
        assert weights.shape == (3, 2, n_tokens, n_tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, n_tokens))
        assert weights.std(-1).min() > 1e-3  # not all alike


def test_a_look_changes_no_answer(name):
    model, images = vit(name), pictures(2, size_of(name))
    with torch.no_grad():
        expected = logits(model(images))
        with attention_maps(model):
            torch.testing.assert_close(logits(model(images)), expected, rtol=1e-5, atol=1e-5)


def test_the_output_depends_on_the_maps_that_are_kept(name):
    model, images = vit(name), pictures(1, size_of(name)).requires_grad_()
    with attention_maps(model) as maps:
        output = logits(model(images))
    for slope in torch.autograd.grad(output[0, 3], list(maps.values())):
        assert slope.abs().max() > 0


def test_fused_and_written_out_attention_have_the_same_maps():
    fused, written_out = vit("timm_qk_norm"), copy.deepcopy(vit("timm_qk_norm"))
    for block in written_out.blocks:
        assert block.attn.fused_attn
        block.attn.fused_attn = False
    same_maps(fused, written_out)


@pytest.mark.slow
def test_transformers_implementations_of_attention_have_the_same_maps():
    fused, written_out = vit("transformers_sdpa"), copy.deepcopy(vit("transformers_eager"))
    written_out.load_state_dict(fused.state_dict())
    same_maps(fused, written_out)


def same_maps(fused: nn.Module, written_out: nn.Module) -> None:
    first, second = maps_of(fused, pictures()), maps_of(written_out, pictures())
    assert list(first) == list(second)
    for layer in first:
        torch.testing.assert_close(first[layer], second[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multihead_attention_has_the_weights_that_it_returns(batch_first, bias):
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).double().eval()
    query, key, value = normal(2, 5, 12), normal(2, 5, 12, seed=1), normal(2, 5, 12, seed=2)
    expected, weights = layer(query, key, value, average_attn_weights=False)
    model = nn.ModuleDict({"attend": layer})
    with attention_maps(model) as maps:
        found, _ = layer(query, key, value, need_weights=False)
    torch.testing.assert_close(maps["attend"], weights)
    torch.testing.assert_close(found, expected)


def test_an_encoder_layer_of_torch_takes_no_short_cut():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    maps = maps_of(nn.Sequential(layer), torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)))
    assert {name: tuple(weights.shape) for name, weights in maps.items()} == {"0.self_attn": (3, 2, 4, 4)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": normal(5, 7, seed=5)},
        {"attn_mask": normal(2, 1, 5, 7, seed=5) > -0.5},
        {"dropout_p": 0.0, "attn_mask": None},
    ],
    ids=str,
)
def test_attention_written_out_is_the_fused_operation(options):
    t = 5 if "is_causal" in options else 7
    query, key, value = normal(2, 3, 5, 4), normal(2, 3, t, 4, seed=1), normal(2, 3, t, 6, seed=2)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(dot_product_attention(query, key, value, **options), expected)


class Twice(nn.Module):
    """One layer that attends two times; beside it, softmaxes that are no attention."""

    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.attend(tokens, tokens, tokens)[0]
        tokens = self.attend(tokens, tokens, tokens)[0]
        tokens = tokens * tokens[:, None].softmax(1)[:, 0] * tokens.softmax(-1)  # over another axis, and of three axes
        return tokens.mean(1).softmax(-1)


def test_runs_are_told_apart_and_other_softmaxes_left_out():
    model = Twice().eval()
    assert list(maps_of(model, torch.ones(2, 3, 6))) == ["attend", "attend#1"]


def test_nothing_is_left_behind():
    model = vit("torchvision")
    with pytest.raises(RuntimeError, match="channels"), attention_maps(model):
        model(pictures(channels=5))
    with attention_maps(model):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch._C._len_torch_function_stack() == 0
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    "options", [{}, {"kdim": 3, "vdim": 3}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}], ids=str
)
@pytest.mark.parametrize("masked", [False, True])
def test_every_form_of_torchs_attention_gives_what_it_gives_otherwise(options, masked):
    layer = nn.MultiheadAttention(4, 2, **options).eval()
    draws = torch.Generator().manual_seed(0)
    tokens, others = (torch.randn(3, 2, width, generator=draws) for width in (4, options.get("kdim", 4)))
    mask = torch.tensor([[False, True, False], [False, False, False]]) if masked else None
    expected, weights = layer(tokens, others, others, key_padding_mask=mask, average_attn_weights=False)
    with attention_maps(layer) as maps:
        out, _ = layer(tokens, others, others, key_padding_mask=mask)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(maps[""], weights)


def test_heads_that_share_keys_are_written_out_too():
    draws = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 3, 2, generator=draws), torch.randn(1, 2, 3, 2, generator=draws)
    expected = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    with attention_maps(nn.Identity()) as maps:
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, k, enable_gqa=True), expected)
    assert maps[""].shape == (1, 4, 3, 3)


def test_the_tokens_of_the_image_are_found(name):
    model, images = vit(name), pictures(1, size_of(name))
    layout = token_layout(model, images)
    assert layout.grid == grid_of(name)
    assert layout.prefix == PREFIX.get(name, 1)
    assert token_entry(model, images) in ("blocks.input", "encoder.layers.input", "vit.layers.0.input")


class PostNorm(nn.Module):
    """Patches through an encoder layer of torch, whose norms come last: attention itself reads the stream."""

    def __init__(self):
        super().__init__()
        self.patches, self.positions = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.ones(1, 16, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.encoder(tokens).mean(1))


def test_the_place_is_outside_the_shortcut_around_attention():
    model = PostNorm().eval()
    layout = token_layout(model, pictures(1))
    assert (layout.grid, layout.prefix) == ((4, 4), 0)
    assert token_entry(model, pictures(1)) == "encoder.input"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy", r"no attention among tokens in this Sequential: it has Conv2d \(2\), ReLU \(2\), "),
        ("convnext", r"no attention among tokens in this ConvNeXt: it has Linear"),
        ("timm_seresnet18", "no attention among tokens"),
        ("swin", r"layer 'features\.1\.0\.attn' attends within windows \(weights \(16, 2, 16, 16\)\)"),
        ("timm_swin", r"layer 'layers\.0\.blocks\.0\.attn\.softmax' attends within windows"),
    ],
)
def test_networks_whose_attention_cannot_be_followed_are_refused(name, words):
    with pytest.raises(NothingMatched, match=words):
        token_layout(build(name), pictures(1))


def test_attention_that_pools_is_refused():
    from conformance.transformers_zoo import timm_vit

    with pytest.raises(NothingMatched, match="attends from 1 tokens to 16, not from all 16 to all"):
        token_layout(timm_vit(class_token=False, global_pool="map").eval(), pictures(1))


class Skips(PostNorm):
    """A second way past attention: the patches are read again at the end."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head((self.encoder(tokens + self.positions) + tokens).mean(1))


def test_a_second_way_past_the_blocks_is_refused():
    with pytest.raises(BadModel, match="no layer around the first attention of this Skips is given all 16 tokens, "):
        token_entry(Skips().eval(), pictures(1))
