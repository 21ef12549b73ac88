"""Units kept for a class, where it is known which ones are read, and against the optimisation written out."""

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import build, pictures
from glasshouse import attribute
from glasshouse.attribute import UnitAttribution
from glasshouse.core import BadInput, ablate, cut, edit, watching
from glasshouse.data.glass import wired_classifier
from glasshouse.data.world.figures import PAINTS

QUICK = {"areas": (0.2, 0.5), "n_steps": 12}


class Planted(nn.Module):
    """Ten units, of which the first class reads 3 and 7 and the second 0 and 1."""

    def __init__(self):
        super().__init__()
        self.units, self.head = nn.Conv2d(3, 10, 1), nn.Linear(10, 2, bias=False)
        nn.init.normal_(self.units.weight, generator=torch.Generator().manual_seed(0))
        nn.init.ones_(self.units.bias)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[0, [3, 7]] = torch.tensor([5.0, 4.0])
            self.head.weight[1, [0, 1]] = 6.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(x).relu().mean((2, 3)))


@pytest.fixture
def planted() -> Planted:
    return Planted().eval()


@pytest.mark.parametrize(("target", "read"), [(0, [3, 7]), (1, [0, 1])])
def test_the_units_that_a_class_reads_are_the_ones_kept(planted, target, read):
    e = attribute.channel_extremal_perturbation(planted, pictures(2), target, layer="units", areas=(2,), n_steps=300)
    for mask in e.extras["masks"][:, 0]:
        assert sorted(mask.topk(2).indices.tolist()) == read
        assert float(mask[read].min()) > 0.98
        assert float(mask.sum()) == pytest.approx(2, abs=0.1)
    assert sorted(e.top(2)[0].tolist()) == read
    torch.testing.assert_close(e.extras["reward"][:, 0], e.score, rtol=0.02, atol=0)


@pytest.mark.parametrize(("target", "kept"), [("warm", [0, 1, 2]), ("cold", [3, 4]), ("either", [0, 1, 2])])
def test_a_glass_classifier_keeps_the_colours_that_speak_for_the_class(target, kept):
    glass = wired_classifier()
    stripes = PAINTS.T.repeat_interleave(3, 1)[None, :, None].expand(2, 3, 24, 24).contiguous()
    settings = {"layer": "inside_on", "areas": (len(kept),), "n_steps": 100}
    e = attribute.channel_extremal_perturbation(glass, stripes, glass.index(target), **settings)
    ranking = e.values.mean(0)
    assert sorted(ranking.topk(len(kept)).indices.tolist()) == kept
    assert set(kept) <= set(glass.truth.reads["inside_on"][glass.index(target)].nonzero()[:, 0].tolist())


def by_hand(net: Planted, image: Tensor, target: int, counts: list[int], n_steps: int) -> Tensor:
    """One image, one area after the other, with torch's own optimiser on the pooled units."""
    masks: list[Tensor] = []
    for count in counts:
        free = torch.ones(10, dtype=torch.float64)
        optimiser = torch.optim.SGD([free], lr=0.01, momentum=0.9, dampening=0.9)
        for t in range(n_steps - 1):
            free.requires_grad_()
            reward = net.head((free[:, None, None] * net.units(image)[0]).relu().mean((1, 2)))[target]
            least = free.detach().sort().values[-count]
            above, equal = free.detach() > least + 1e-9, (free.detach() - least).abs() <= 1e-9
            reference = above + equal * (count - above.sum()) / equal.sum()  # units that nobody reads stay equal
            optimiser.zero_grad()
            (0.25 * 120 ** (t / n_steps) * (free - reference).square().sum() - reward).backward()
            optimiser.step()
            free.data.clamp_(0, 1)
        masks.append(free.detach())
    return torch.stack(masks)


def test_the_optimisation_written_out_gives_the_same_masks(planted):
    net, images = planted.double().requires_grad_(False), pictures(2).double()
    e = attribute.channel_extremal_perturbation(net, images, [0, 1], layer="units", areas=(3, 0.6), n_steps=8)
    for n in range(2):
        expected = by_hand(net, images[n : n + 1], n, [3, 6], 8)
        torch.testing.assert_close(e.extras["masks"][n], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(e.values, e.extras["masks"].mean(1))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("architecture", ["toy", "residual", "vit", "timm_swin", "squeezenet1_1"])
def test_the_numbers_beside_it_are_what_they_are_called(architecture):
    model, images = build(architecture), pictures()
    e = attribute.channel_extremal_perturbation(model, images, 3, **QUICK)
    n, k = e.values.shape
    assert isinstance(e, UnitAttribution)
    assert e.extras["masks"].shape == (n, 2, k)
    other = attribute.channel_attribution(model, images, 3, layer=e.layer)
    torch.testing.assert_close(e.extras["gradient_x_activation"], other.values, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        clean = model(images)[:, 3]
        for unit in (0, k - 1):
            with edit(model, {e.layer: ablate([unit])}):
                fall = clean - model(images)[:, 3]
            torch.testing.assert_close(e.extras["ablation"][:, unit], fall, rtol=1e-3, atol=1e-4)


def test_the_reward_is_the_score_with_the_units_faded(cnn, images):
    e = attribute.channel_extremal_perturbation(cnn, images, [3, 0, 1], layer="3", **QUICK)
    suffix = cut(cnn, images, "3")
    with torch.no_grad():
        for area in range(2):
            faded = suffix(suffix.activation * e.extras["masks"][:, area, :, None, None])
            expected = faded[range(3), [3, 0, 1]]
            torch.testing.assert_close(e.extras["reward"][:, area], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_neither_chunks_nor_neighbours_change_anything(cnn, images, chunk):
    net, images = cnn.double(), images.double()
    whole = attribute.channel_extremal_perturbation(net, images, 2, layer="3", **QUICK)
    parts = attribute.channel_extremal_perturbation(net, images, 2, layer="3", chunk=chunk, **QUICK)
    alone = attribute.channel_extremal_perturbation(net, images[1:2], 2, layer="3", **QUICK)
    torch.testing.assert_close(parts.values, whole.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.values, whole.values[1:2], rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.extras["ablation"], whole.extras["ablation"], rtol=0, atol=1e-12)


def test_it_is_saved_and_loaded_as_it_was(cnn, images, tmp_path):
    e = attribute.channel_extremal_perturbation(cnn, images, **QUICK)
    back = UnitAttribution.load(e.save(tmp_path / "e.safetensors"))
    assert torch.equal(back.values, e.values)
    assert back.settings == e.settings
    assert back.layer == "4"


def test_a_model_and_its_images_are_left_as_they_were(cnn, images):
    weights, before = [w.clone() for w in cnn.parameters()], images.clone()
    cnn.train()
    attribute.channel_extremal_perturbation(cnn, images, **QUICK)
    assert cnn.training
    assert all(w.requires_grad and w.grad is None for w in cnn.parameters())
    assert all(map(torch.equal, weights, cnn.parameters()))
    assert torch.equal(images, before)


def test_settings_out_of_range_are_errors(cnn, images):
    for settings in ({"areas": ()}, {"areas": (9,)}, {"areas": (0.0,)}, {"n_steps": 0}, {"chunk": 0}):
        with pytest.raises(BadInput):
            attribute.channel_extremal_perturbation(cnn, images, layer="3", **settings)
    with pytest.raises(LookupError, match="no layer 'conv'"):
        attribute.channel_extremal_perturbation(cnn, images, layer="conv")


def test_progress_counts_steps_on_a_real_network(lite0):
    told: list[tuple[int, int]] = []
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with watching(lambda done, total: told.append((done, total))):
        e = attribute.channel_extremal_perturbation(lite0, images, layer="blocks.5.1", areas=(0.1,), n_steps=4)
    assert told[:3] == [(1, 3), (2, 3), (3, 3)]
    assert e.values.shape == (1, e.extras["ablation"].shape[1])


def test_where_what_follows_is_linear_the_order_is_that_of_gradient_x_activation(cnn, images):
    e = attribute.channel_extremal_perturbation(cnn.double(), images.double(), 2, layer="4", areas=(3,), n_steps=200)
    expected = e.extras["gradient_x_activation"]
    assert torch.equal(e.top(3).sort(1).values, expected.topk(3).indices.sort(1).values)
    torch.testing.assert_close(e.extras["ablation"], expected)  # a linear score falls by each unit's term
