"""Score-CAM, Ablation-CAM and Eigen-CAM against loops over units, and against what is known of the answer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.core import BadInput, ablate, edit, probe, unit_maps


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def cnn(cnn: nn.Sequential) -> nn.Sequential:
    """With a unit that never fires, and one that is the same everywhere."""
    with torch.no_grad():
        cnn[3].weight[5:7], cnn[3].bias[5], cnn[3].bias[6] = 0, -1, 0.7
    return cnn.double()


class Mixer(nn.Module):
    """Patches, a class token, units, a layer that mixes tokens; the units are read again behind it."""

    def __init__(self):
        super().__init__()
        self.patches, self.units = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 6)
        self.token, self.norm, self.head = nn.Parameter(torch.randn(1, 1, 6)), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), 1, 6), x], 1)
        y = self.norm(self.units(x)) + x
        return self.head(((y @ y.transpose(1, 2)).softmax(-1) @ y.tanh())[:, 0])


class ChannelsLast(nn.Module):
    """A stem, then layers whose units are the last axis, and a head that pools them."""

    def __init__(self):
        super().__init__()
        self.stem, self.units, self.head = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.gelu(self.units(self.stem(images).permute(0, 2, 3, 1))).mean((1, 2)))


class Residual(nn.Module):
    """The layer's input is added behind it, in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 5, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).tanh()
        y = self.layer(x)
        y += x
        return self.head(self.relu(y).mean((2, 3)))


@pytest.fixture
def nets(cnn) -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        nets = {"cnn": cnn, "tokens": Mixer(), "channels last": ChannelsLast(), "residual": Residual()}
    return {name: net.double().eval() for name, net in nets.items()}


LAYERS = [
    ("cnn", "4"),  # pooled: the head alone
    ("cnn", "3"),  # pooled behind a ReLU
    ("cnn", "1"),
    ("tokens", "units"),
    ("channels last", "units"),  # pooled behind a GELU
    ("channels last", "stem"),
    ("residual", "layer"),
    ("residual", "relu"),
]


def maps_of(net: nn.Module, images: Tensor, layer: str) -> Tensor:
    with probe(net, layer) as seen, torch.no_grad():
        net(images)
    return unit_maps(net, images, layer).maps(seen[layer])


def score_cam_by_hand(net: nn.Module, images: Tensor, layer: str, target: int, base: float = 0.0) -> Tensor:
    """Image by image and unit by unit."""
    out: list[Tensor] = []
    for image, maps in zip(images, maps_of(net, images, layer), strict=True):
        gains, chosen = [], []
        for unit in maps:
            large = F.interpolate(unit[None, None], images.shape[2:], mode="bilinear", align_corners=False)[0, 0]
            if unit.max() == unit.min():
                continue
            mask = (large - large.min()) / (large.max() - large.min())
            seen = image * mask + base * (1 - mask)
            gains.append((net(seen[None]) - net(torch.zeros_like(images[:1])))[0, target])
            chosen.append(unit)
        weights = torch.stack(gains).softmax(0)
        out.append(sum(w * a for w, a in zip(weights, chosen, strict=True)).clamp(min=0))
    return torch.stack(out).detach()


@pytest.mark.parametrize(("name", "layer"), LAYERS[:6])
def test_score_cam_looks_through_every_unit(nets, images, name, layer):
    e = attribute.score_cam(nets[name], images, 1, layer=layer, chunk=5)
    torch.testing.assert_close(e.native, score_cam_by_hand(nets[name], images, layer, 1))
    torch.testing.assert_close(e.extras["weight"].sum(1), torch.ones(2).double())


def test_score_cam_shows_a_baseline_where_the_mask_is_0(cnn, images):
    e = attribute.score_cam(cnn, images, 1, baselines=0.8)
    torch.testing.assert_close(e.native, score_cam_by_hand(cnn, images, "4", 1, 0.8))
    assert not torch.allclose(e.native, attribute.score_cam(cnn, images, 1).native, rtol=1e-3)


def test_score_cam_gives_no_weight_to_units_that_are_no_masks(cnn, images):
    weight = attribute.score_cam(cnn, images, 1).extras["weight"]
    assert not weight[:, 5:7].any()
    assert (weight[:, :5] > 0).all()
    with torch.no_grad():
        cnn[3].weight[:], cnn[3].bias[:] = 0, torch.arange(8.0)
    e = attribute.score_cam(cnn, images, 1)
    assert not e.native.any()
    assert not e.extras["weight"].any()


def test_score_cam_of_the_strongest_units_leaves_the_others_out(cnn, images):
    maps = maps_of(cnn, images, "4")
    strength = maps.mean((2, 3))
    strength[:, 5:7] = -1  # strong but constant: no mask
    few, whole = attribute.score_cam(cnn, images, 1, top_k=3), attribute.score_cam(cnn, images, 1)
    for n in range(2):
        best = strength[n].topk(3).indices
        assert few.extras["weight"][n].nonzero()[:, 0].tolist() == sorted(best.tolist())
        among = whole.extras["weight"][n, best]
        torch.testing.assert_close(few.extras["weight"][n, best], among / among.sum())
    for k in (8, 100):
        torch.testing.assert_close(attribute.score_cam(cnn, images, 1, top_k=k).native, whole.native)


class Runs(nn.Module):
    """Counts the rows that it is given."""

    def __init__(self, inner: nn.Module, rows: list[int]):
        super().__init__()
        self.inner, self.rows = inner, rows

    def __deepcopy__(self, memo):
        return Runs(self.inner, self.rows)

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.inner(x)


def test_score_cam_runs_once_per_mask(images):
    rows: list[int] = []
    stem = Runs(nn.Conv2d(3, 5, 3), rows)
    net = nn.Sequential(stem, nn.Tanh(), nn.Flatten(), nn.Linear(900, 4)).double().eval()
    attribute.score_cam(net, images, 1, layer="1")
    rows.clear()
    attribute.score_cam(net, images, 1, layer="1", chunk=4)
    assert rows == [2, 4, 4, 2]


def ablation_by_hand(net: nn.Module, images: Tensor, layer: str, read) -> Tensor:
    """Every unit switched off in a run of the whole network."""
    maps = maps_of(net, images, layer)
    weights: list[Tensor] = []
    with torch.no_grad():
        clean = read(net(images))
        for unit in range(maps.shape[1]):
            with edit(net, {layer: ablate([unit])}):
                weights.append((clean - read(net(images))) / clean.abs())
    return torch.stack(weights, 1)


@pytest.mark.parametrize("score", ["logit", "prob"])
@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_ablation_cam_switches_every_unit_off(nets, images, name, layer, score):
    net = nets[name]

    def read(output: Tensor) -> Tensor:
        return (output if score == "logit" else output.softmax(1))[:, 2]

    weight = ablation_by_hand(net, images, layer, read)
    e = attribute.ablation_cam(net, images, 2, layer=layer, chunk=5, score=score)
    torch.testing.assert_close(e.extras["weight"], weight)
    expected = torch.einsum("nk,nkij->nij", weight, maps_of(net, images, layer))
    torch.testing.assert_close(e.native, expected.relu())
    signed = attribute.ablation_cam(net, images, 2, layer=layer, score=score, relu=False)
    torch.testing.assert_close(signed.native, expected)
    assert weight.abs().max() > 0


def test_a_negative_score_does_not_turn_the_map_of_ablation_cam_over(cnn, images):
    before = attribute.ablation_cam(cnn, images, 1, relu=False)
    with torch.no_grad():
        cnn[-1].bias[1] -= 5
    after = attribute.ablation_cam(cnn, images, 1, relu=False)
    assert (before.score > 0).any()
    assert (after.score < 0).all()
    scale = (before.score / after.score).abs().double()[:, None, None]
    torch.testing.assert_close(after.native, before.native * scale)


def test_a_score_of_0_divides_by_nothing_in_ablation_cam(cnn, images):
    clean = attribute.ablation_cam(cnn, images[:1], 1)
    raised = attribute.ablation_cam(cnn, images[:1], lambda y: y[:, 1] - clean.score.double())
    exact = float(cnn(images[:1]).detach()[0, 1])
    zero = attribute.ablation_cam(cnn, images[:1], lambda y: y[:, 1] - exact)
    assert float(zero.score) == 0
    torch.testing.assert_close(zero.extras["weight"], clean.extras["weight"] * clean.score.abs().double())
    assert raised.native.isfinite().all()


def test_ablation_cam_before_the_pooling_runs_the_network_once(cnn, images):
    rows: list[int] = []
    cnn[0] = Runs(cnn[0], rows)
    attribute.ablation_cam(cnn, images, 1)
    rows.clear()
    attribute.ablation_cam(cnn, images, 1)
    assert rows == [2]


def test_ablation_cam_skips_units_that_are_silent(images):
    rows: list[int] = []
    tail = nn.Sequential(nn.Conv2d(5, 4, 3), nn.Tanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), Runs(tail, rows)).double().eval()
    with torch.no_grad():
        net[0].weight[3:], net[0].bias[3:] = 0, -1
    attribute.ablation_cam(net, images, 1, layer="1", chunk=3)
    rows.clear()
    attribute.ablation_cam(net, images, 1, layer="1", chunk=3)
    # The clean run and its check, then six pairs of an image and a unit in threes, of which the first is checked.
    assert rows == [2, 2, 3, 3, 3]


def test_eigen_cam_is_the_projection_on_the_first_singular_vector(nets, images):
    for name, layer in LAYERS:
        for center in (False, True):
            maps = maps_of(nets[name], images, layer)
            e = attribute.eigen_cam(nets[name], images, 1, layer=layer, center=center)
            for found, units in zip(e.native, maps, strict=True):
                rows = units.flatten(1).T
                rows = rows - rows.mean(0) if center else rows
                _, _, right = torch.linalg.svd(rows, full_matrices=False)
                expected = (rows @ right[0]).view_as(found)
                largest = expected.flatten()[expected.abs().argmax()]
                torch.testing.assert_close(found, expected * largest.sign())


@pytest.mark.parametrize("n_units", [2, 50])
def test_eigen_cam_finds_the_one_pattern_there_is(images, n_units):
    # A layer that gives brightness times a fixed vector has nothing else to show.
    vector = torch.linspace(1, 2, n_units).double()
    net = nn.Sequential(nn.Conv2d(3, n_units, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    net[0].weight.data = (vector[:, None] * torch.tensor([0.2, 0.5, 0.3]).double())[:, :, None, None]
    brightness = torch.einsum("c,nchw->nhw", torch.tensor([0.2, 0.5, 0.3]).double(), images)
    sign = torch.where(brightness.amax((1, 2)) >= -brightness.amin((1, 2)), 1, -1)[:, None, None]
    found = attribute.eigen_cam(net, images, 0, layer="0").native
    torch.testing.assert_close(found, brightness * sign * vector.norm())


def test_eigen_cam_is_the_same_for_every_class(cnn, images):
    a, b = attribute.eigen_cam(cnn, images, 0), attribute.eigen_cam(cnn, images, 3)
    assert torch.equal(a.native, b.native)
    assert not torch.equal(a.score, b.score)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam", "eigen_cam"])
def test_half_precision_gives_weights_in_single(nets, images, method):
    net = nets["residual"]
    expected = getattr(attribute, method)(net, images, 1, layer="layer").native
    found = getattr(attribute, method)(net.bfloat16(), images.bfloat16(), 1, layer="layer").native
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten().double(), expected.flatten()]))[0, 1] > 0.9


def test_numbers_that_make_no_sense_are_errors(cnn, images):
    for settings in ({"chunk": 0}, {"top_k": 0}):
        with pytest.raises(BadInput, match="at least 1"):
            attribute.score_cam(cnn, images, **settings)
    with pytest.raises(BadInput, match="chunk 0 must be at least 1"):
        attribute.ablation_cam(cnn, images, chunk=0)
    with pytest.raises(BadInput, match="do not broadcast"):
        attribute.score_cam(cnn, images, baselines=torch.zeros(7))
