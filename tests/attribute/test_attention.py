"""Rollout and relevance against matrix products written out, finite differences, and cases with a closed form."""

import copy
import gc
import weakref
from typing import ClassVar

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from conformance.architectures import build, pictures
from conformance.transformers_zoo import EVERY, PREFIX, READ, grid_of, size_of, vit
from glasshouse import attribute, data, zoo
from glasshouse.core import BadInput, BadModel, Explanation, NothingMatched, resize

METHODS = [attribute.attention_rollout, attribute.attention_relevance]
TARGETS = [1, 3]


class Tiny(nn.Module):
    """Two blocks of two heads over 2×3 patches and `n_before` further tokens, of which the first is read.

    `given` replaces the attention of a block; `scores` what goes into every softmax.
    """

    def __init__(self, n_before: int = 1, depth: int = 2):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, 4)
        self.before = nn.Parameter(torch.zeros(n_before, 4))
        self.positions = nn.Parameter(torch.zeros(6 + n_before, 4))
        self.qkv = nn.ModuleList(nn.Linear(4, 12) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.head = nn.Linear(4, 5)
        self.scores: Tensor | None = None
        for number, weight in enumerate(self.parameters()):
            nn.init.normal_(weight, std=0.7, generator=torch.Generator().manual_seed(number))
        self.double().eval()

    def forward(self, images: Tensor, given: dict[int, Tensor] | None = None) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.before.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for block, (qkv, out) in enumerate(zip(self.qkv, self.out, strict=True)):
            q, k, v = rearrange(qkv(tokens), "n t (three m d) -> three n m t d", three=3, m=2)
            scores = q @ k.transpose(-2, -1) / 2**0.5 if self.scores is None else self.scores.expand(len(q), 2, -1, -1)
            weights = given[block] if given and block in given else scores.softmax(-1)
            tokens = tokens + torch.tanh(out(rearrange(weights @ v, "n m t d -> n t (m d)")))
        return self.head(tokens[:, 0] if len(self.before) else tokens.mean(1))


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(3)).double()


def softmaxes(net: Tiny, image: Tensor) -> list[Tensor]:
    """The attention of both blocks for one image, heads first, derived without looking inside."""
    found: list[Tensor] = []
    for block in range(len(net.qkv)):
        keep: list[Tensor] = []
        handle = net.qkv[block].register_forward_hook(lambda module, args, out, keep=keep: keep.append(out))
        net(image)
        handle.remove()
        q, k, _ = keep[0][0].view(-1, 3, 2, 2).unbind(1)  # token, head, dimension
        exponents = torch.einsum("qmd,tmd->mqt", q, k) / 2**0.5
        found.append(torch.stack([torch.stack([row.exp() / row.exp().sum() for row in head]) for head in exponents]))
    return [weights.detach() for weights in found]


@pytest.mark.parametrize("discard_ratio", [0.0, 0.5])
@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_rollout_is_the_product_of_the_blocks(tiny, images, heads, discard_ratio):
    e = attribute.attention_rollout(tiny, images, 0, heads=heads, discard_ratio=discard_ratio)
    for n in range(2):
        product = torch.eye(7).double()
        for weights in softmaxes(tiny, images[n : n + 1]):
            one = {"mean": weights.mean(0), "max": weights.max(0).values, "min": weights.min(0).values}[heads]
            order = one.flatten().sort().values
            one = torch.where(one < order[int(discard_ratio * 49)], 0.0, one) + torch.eye(7)
            product = (one / one.sum(1, keepdim=True)) @ product
        torch.testing.assert_close(e.extras["tokens"][n], product[0])
        torch.testing.assert_close(e.native[n], product[0, 1:].view(2, 3))


def test_relevance_is_its_recursion_with_slopes_measured_by_finite_differences(tiny, images):
    e = attribute.attention_relevance(tiny, images, TARGETS)
    for n, target in enumerate(TARGETS):
        image, relevance = images[n : n + 1], torch.eye(7).double()
        for block, weights in enumerate(softmaxes(tiny, image)):
            slope, step = torch.zeros_like(weights), 1e-5
            for place in range(weights.numel()):
                moved = [weights.clone(), weights.clone()]
                for sign, changed in zip((1, -1), moved, strict=True):
                    changed.view(-1)[place] += sign * step
                high, low = (tiny(image, {block: changed[None]})[0, target] for changed in moved)
                slope.view(-1)[place] = (high - low).detach() / (2 * step)
            relevance = relevance + (slope * weights).clamp(min=0).mean(0) @ relevance
        torch.testing.assert_close(e.native[n], relevance[0, 1:].view(2, 3), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(e.extras["tokens"][n], (relevance - torch.eye(7))[0], rtol=1e-6, atol=1e-9)


def test_tokens_that_attend_to_themselves_roll_out_to_themselves(tiny, images):
    tiny.scores = 1e4 * torch.eye(7).double()
    e = attribute.attention_rollout(tiny, images, 0)
    assert torch.equal(e.extras["tokens"], torch.eye(7).double()[:1].expand(2, 7))
    assert (e.native == 0).all()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_even_attention_rolls_out_evenly(images, depth):
    # Each block keeps half of what was there and spreads the other half: 1 - 2^-depth ends up spread over 7 tokens.
    net = Tiny(depth=depth)
    net.scores = torch.zeros(7, 7).double()
    e = attribute.attention_rollout(net, images, 0)
    torch.testing.assert_close(e.native, torch.full((2, 2, 3), (1 - 0.5**depth) / 7).double())


def test_rollout_does_not_know_what_is_carried(tiny, images):
    # The last block's values reach the output, but not its attention; nor does the head.
    deaf = copy.deepcopy(tiny)
    deaf.qkv[-1].weight.data[8:] = 0
    deaf.qkv[-1].weight.data[8] = 1
    deaf.head.weight.data.mul_(-3)
    first, second = (attribute.attention_rollout(net, images, 0) for net in (tiny, deaf))
    assert not torch.allclose(first.score, second.score)
    torch.testing.assert_close(first.native, second.native)


def test_rollout_is_the_same_for_every_class_and_relevance_is_not(tiny, images):
    for method, same in ((attribute.attention_rollout, True), (attribute.attention_relevance, False)):
        assert torch.allclose(method(tiny, images, 0).native, method(tiny, images, 1).native) is same


def test_patches_that_change_places_take_their_values_with_them(tiny, images):
    # Without positions a transformer does not know where its patches are.
    tiny.positions.data.zero_()
    turned = images.unflatten(3, (3, 4)).roll(1, 3).flatten(3)
    for method in METHODS:
        torch.testing.assert_close(method(tiny, turned, 2).native, method(tiny, images, 2).native.roll(1, 2))


def test_where_the_mean_is_read_the_rows_of_all_patches_count(images):
    # Weights are changed so that even tokens that are read are alike; a mean of rows of R sums to 1 as each of them.
    net = Tiny(n_before=0)
    e = attribute.attention_rollout(net, images, 0)
    for n in range(2):
        product = torch.eye(6).double()
        for weights in softmaxes(net, images[n : n + 1]):
            product = ((weights.mean(0) + torch.eye(6)) / 2) @ product
        torch.testing.assert_close(e.native[n].flatten(), product.mean(0))


def test_relevance_of_what_is_always_the_same_is_zero(images):
    for n_before in (0, 1):
        net = Tiny(n_before)
        nn.init.zeros_(net.head.weight)
        assert (attribute.attention_relevance(net, images, 0).native == 0).all()
        with pytest.raises(NothingMatched, match="the output depends on no token of the last block"):
            attribute.attention_rollout(net, images, 0)


def test_small_steps_do_not_drown_in_the_mean_that_is_read(images):
    # As with a freshly set layer scale: every block adds a millionth to the stream, and relevance is a rounding of I.
    net = Tiny(n_before=0)
    for out in net.out:
        out.weight.data *= 1e-9
        out.bias.data.zero_()
    double = attribute.attention_relevance(net, images, 1).native
    single = attribute.attention_relevance(copy.deepcopy(net).float(), images.float(), 1).native
    assert 0 < double.max() < 1e-8
    close(single, double, 1e-3)


def test_outputs_that_always_sum_to_the_same_still_say_what_is_read(tiny, images):
    expected = attribute.attention_rollout(tiny, images).native
    tiny.head = nn.Sequential(tiny.head, nn.LayerNorm(5)).double()
    close(attribute.attention_rollout(tiny, images).native, expected, 1e-9)


@pytest.fixture(params=EVERY)
def name(request) -> str:
    return request.param


@pytest.fixture(params=METHODS, ids=lambda method: method.__name__)
def method(request):
    return request.param


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()), check_dtype=False)


@pytest.mark.usefixtures("timm")
def test_every_family_is_explained_on_its_own_grid(method, name):
    images = pictures(2, size_of(name))
    e = method(vit(name), images, TARGETS)
    assert e.native.shape == (2, *grid_of(name))
    assert e.heatmap.shape == (2, *size_of(name))
    assert (e.heatmap.flatten(1).std(1) > 0).all()
    alone = method(vit(name), images[1:], TARGETS[1:])
    close(alone.native, e.native[1:])
    close(alone.extras["tokens"], e.extras["tokens"][1:])


@pytest.mark.usefixtures("timm")
def test_the_row_of_rollout_is_a_share_of_all_tokens(name):
    e = attribute.attention_rollout(vit(name), pictures(2, size_of(name)))
    tokens = e.extras["tokens"]
    torch.testing.assert_close(tokens.sum(1), torch.ones(2))
    torch.testing.assert_close(tokens[:, PREFIX.get(name, 1) :], e.native.flatten(1))


@pytest.mark.usefixtures("timm")
def test_the_tokens_that_the_classifier_reads_keep_most_of_themselves(name):
    # Half of every block is the shortcut, so the read tokens start with at least 2^-depth of the whole.
    tokens = attribute.attention_rollout(vit(name), pictures(1, size_of(name))).extras["tokens"][0]
    read = list(READ.get(name, range(1)))
    n_blocks = 1 if name == "timm_one_block" else 2
    assert (tokens[read] >= 0.5**n_blocks / len(read)).all()


def test_the_same_answer_in_every_precision(tiny, images, method):
    double = method(tiny, images, 1)
    assert double.native.dtype == torch.float64
    close(method(copy.deepcopy(tiny).float(), images.float(), 1).native, double.native, 1e-3)
    half = method(copy.deepcopy(tiny).bfloat16(), images.bfloat16(), 1)
    assert half.native.dtype == torch.float32
    assert torch.corrcoef(torch.stack([half.native.flatten(), double.native.flatten().float()]))[0, 1] > 0.95


def test_every_kind_of_target_is_understood(tiny, images, method):
    top = tiny(images).argmax(1)
    free: Explanation = method(tiny, images)
    assert free.target == tuple(top.tolist())
    for target in (top, top.tolist(), torch.eye(5).double()[top], lambda y: y.amax(1)):
        close(method(tiny, images, target).native, free.native, 1e-9)
    for score in ("prob", "logprob"):
        assert method(tiny, images, 2, score=score).native.isfinite().all()


def test_the_model_is_left_as_it_was(tiny, images, method):
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    handle = tiny.head.register_forward_hook(lambda *_: None)  # with hooks, the model itself is run
    with torch.inference_mode():
        hooked = method(tiny, images, 1)
    handle.remove()
    close(hooked.native, method(tiny, images, 1).native, 1e-9)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in tiny.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert torch._C._len_torch_function_stack() == 0


class Watched(Tiny):
    """Remembers its patches weakly, in whatever copy it runs."""

    seen: ClassVar[list[weakref.ref]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.extend([weakref.ref(images), weakref.ref(out := super().forward(images))])
        return out


def test_no_graph_outlives_the_call(images, method):
    Watched.seen.clear()
    e = method(Watched(), images, 1)
    gc.collect()
    assert Watched.seen
    assert not [ref for ref in Watched.seen if ref() is not None and ref() is not images]
    assert not any(value.requires_grad for value in (e.native, *e.extras.values()))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", ["toy", "timm_resnet10t", "swin", "timm_swin"])
def test_networks_without_attention_among_all_tokens_are_refused(method, architecture):
    words = "attends within windows" if "swin" in architecture else "no attention among tokens"
    with pytest.raises(NothingMatched, match=words):
        method(build(architecture), pictures())


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(tiny, images, ratio):
    with pytest.raises(BadInput, match="is no share"):
        attribute.attention_rollout(tiny, images, discard_ratio=ratio)


class Cut(Tiny):
    """Its output does not depend on the images as far as gradients can tell."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


def test_a_model_that_cannot_be_differentiated_is_refused(images, method):
    with pytest.raises(BadModel, match="not connected to the images"):
        method(Cut(), images, 1)


@pytest.mark.slow
def test_the_pages_say_what_is_measured_on_creatures():
    model, scenes = zoo.load("creatures_vit"), data.scenes("creatures", 100, seed=90001)
    images, parts = model.preprocess(scenes.images), ("tail", "legs", "back", "body", "crown", "head", "eye")
    creature = scenes.masks[:, [scenes.part(name) for name in parts]].any(1)
    logits = model.module(images).detach()
    right = logits.argmax(1) == scenes.categories
    images, creature, logits = images[right], creature[right], logits[right]
    first, second = logits.topk(2).indices.T

    def correlation(own: Tensor, other: Tensor) -> float:
        both = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(own.flatten(1), other.flatten(1), strict=True)]
        return float(torch.stack(both).mean())

    def measured(own: Tensor, other: Tensor) -> list[float]:
        """Share of the map on the creature; how often its brightest point is; correlation between the classes."""
        maps = resize(own.clamp(min=0)[:, None], (64, 64))[:, 0].clamp(min=0)
        brightest = creature.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True)).float().mean()
        share = ((maps * creature).sum((1, 2)) / maps.sum((1, 2))).mean()
        return [float(share), float(brightest), correlation(own, other)]

    assert len(images) == 92
    assert creature.float().mean() == pytest.approx(0.11, abs=0.005)
    answers = {
        method: [method(model, images, target).native for target in (first, second)]
        for method in (attribute.attention_rollout, attribute.attention_relevance)
    }
    assert measured(*answers[METHODS[0]]) == pytest.approx([0.22, 0.83, 1.0], abs=0.006)
    assert measured(*answers[METHODS[1]]) == pytest.approx([0.41, 0.67, 0.60], abs=0.006)
    assert torch.equal(*answers[METHODS[0]])
    few = attribute.attention_rollout(model, images, first, heads="max", discard_ratio=0.9).native
    assert measured(few, few)[0] == pytest.approx(0.45, abs=0.006)
    random = copy.deepcopy(model.module)
    nn.init.normal_(random.head.weight, generator=torch.Generator().manual_seed(0))
    close(attribute.attention_rollout(random, images).native, answers[METHODS[0]][0], 1e-5)
    for score, expected in (("prob", -0.40), ("logit", 0.48)):
        e = attribute.token_occlusion(model, images, first, strides=2, score=score, all_classes=True)
        other = -e.extras["scores"][range(92), second]  # as far as correlation sees, the fall of the second class
        assert correlation(e.extras["grid"], other) == pytest.approx(expected, abs=0.006)
