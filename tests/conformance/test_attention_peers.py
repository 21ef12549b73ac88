"""Attention as transformers and timm hand it out, and the papers' formulas for one image and one ViT, by einsum.

The authors' own code wants a Vision Transformer of its own and takes one image at a time; here timm's network is run
by hand, without hooks, as that code would.
"""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import pictures
from conformance.transformers_zoo import vit
from glasshouse import attribute
from glasshouse.core.attention import attention_maps

TARGET = 3


def by_hand(net: nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits of a timm ViT for one image and the attention `m q t` of its blocks, step by step from its weights."""
    tokens = net.patch_embed.proj(image)[0].flatten(1).T
    tokens = torch.cat([net.cls_token[0], tokens]) + net.pos_embed[0]
    maps = []
    for block in net.blocks:
        attend, given = block.attn, block.norm1(tokens)
        weight, bias = attend.qkv.weight.view(3, 2, 16, 32), attend.qkv.bias.view(3, 2, 1, 16)
        q, k, v = torch.einsum("smdc,tc->smtd", weight, given) + bias
        maps.append(torch.softmax(torch.einsum("mqd,mtd->mqt", q, k) / 4, 2))
        heads = torch.einsum("mqt,mtd->qmd", maps[-1], v).flatten(1)
        tokens = tokens + heads @ attend.proj.weight.T + attend.proj.bias
        tokens = tokens + block.mlp(block.norm2(tokens))
    return net.head(net.norm(tokens)[0]), maps


def rollout(maps: list[Tensor]) -> Tensor:
    result = torch.eye(maps[0].shape[-1])
    for attention in maps:
        block = (attention.mean(0) + torch.eye(len(result))) / 2
        result = torch.einsum("qk,kt->qt", block / block.sum(1, keepdim=True), result)
    return result


def relevance(score: Tensor, maps: list[Tensor]) -> Tensor:
    result = torch.eye(maps[0].shape[-1])
    for attention, slope in zip(maps, torch.autograd.grad(score, maps), strict=True):
        block = torch.einsum("mqt->qt", (slope * attention).clamp(min=0).detach()) / len(attention)
        result = result + torch.einsum("qk,kt->qt", block, result)
    return result


@pytest.fixture(params=["timm", "timm_wide"])
def net(timm, request) -> nn.Module:
    return vit(request.param)


@pytest.fixture
def images(net) -> Tensor:
    return pictures(2, net.patch_embed.img_size)


def test_the_network_run_by_hand_is_the_network(net, images):
    with attention_maps(net) as kept:
        expected = net(images)
    for n in range(2):
        found, maps = by_hand(net, images[n : n + 1])
        torch.testing.assert_close(found, expected[n], rtol=1e-4, atol=1e-4)
        for weights, theirs in zip(kept.values(), maps, strict=True):
            torch.testing.assert_close(weights[n], theirs, rtol=1e-4, atol=1e-5)


def test_rollout(net, images):
    e = attribute.attention_rollout(net, images, TARGET)
    for n in range(2):
        expected = rollout(by_hand(net, images[n : n + 1])[1])[0, 1:].detach()
        torch.testing.assert_close(e.native[n].flatten(), expected, rtol=1e-4, atol=1e-6)


def test_relevance(net, images):
    e = attribute.attention_relevance(net, images, TARGET)
    for n in range(2):
        output, maps = by_hand(net, images[n : n + 1])
        expected = relevance(output[TARGET], maps)[0, 1:]
        torch.testing.assert_close(e.native[n].flatten(), expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("how", ["hook", "fx"])
def test_timm_extracts_the_same_attention(timm, how):
    written_out = copy.deepcopy(vit("timm"))
    for block in written_out.blocks:
        block.attn.fused_attn = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.utils.attention_extract import AttentionExtract

        theirs = AttentionExtract(written_out, method=how)(pictures())
    with attention_maps(vit("timm")) as maps:
        vit("timm")(pictures())
    assert [name.rpartition(".")[0] for name in theirs] == list(maps)
    for weights, expected in zip(maps.values(), theirs.values(), strict=True):
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["sdpa", "eager"])
def transformers(request) -> tuple[nn.Module, nn.Module]:
    """A network with fused or written-out attention, and its twin that can return its own."""
    pytest.importorskip("transformers")
    own, twin = vit(f"transformers_{request.param}"), copy.deepcopy(vit("transformers_eager"))
    twin.load_state_dict(own.state_dict())
    return own, twin


@pytest.mark.slow
def test_transformers_return_the_same_attention(transformers):
    own, twin = transformers
    with torch.no_grad():
        theirs = twin(pictures(), output_attentions=True).attentions
        with attention_maps(own) as maps:
            own(pictures())
    for weights, expected in zip(maps.values(), theirs, strict=True):
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rollout_and_relevance_of_the_attention_that_transformers_return(transformers):
    own, twin = transformers
    found = [method(own, pictures(), TARGET) for method in (attribute.attention_rollout, attribute.attention_relevance)]
    for n in range(2):
        output = twin(pictures()[n : n + 1], output_attentions=True)
        maps = list(output.attentions)
        slopes = torch.autograd.grad(output.logits[0, TARGET], maps)
        result = torch.eye(17)
        for weights, slope in zip(maps, slopes, strict=True):
            result = result + (slope * weights)[0].clamp(min=0).mean(0).detach() @ result
        for e, expected in zip(found, (rollout([w[0].detach() for w in maps]), result), strict=True):
            row = expected[0, 1:]
            torch.testing.assert_close(e.native[n].flatten(), row, rtol=1e-4, atol=1e-4 * float(row.max()))
