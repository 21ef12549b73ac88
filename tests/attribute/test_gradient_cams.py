"""Class activation maps made of gradients, against sums written out, the papers' derivations, and closed forms."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from glasshouse import attribute
from glasshouse.core import BadModel, LayerNotFound, geometry, probe, resize

FAMILY = ("grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
RECTIFIED = ("grad_cam", "grad_cam_pp", "layer_cam", "grad_cam_elementwise")


def by_hand(method: str, maps: Tensor, slopes: Tensor) -> Tensor:
    """One image's map, unit by unit and place by place, as the papers write it; `maps` and `slopes` are `k i j`."""
    k, rows, cols = maps.shape
    places = list(product(range(rows), range(cols)))
    out = torch.zeros(rows, cols, dtype=maps.dtype)
    for unit in range(k):
        a, g = maps[unit], slopes[unit]
        weight = 0.0
        for u in places:
            if method == "grad_cam":
                weight += g[u] / len(places)
            if method == "xgrad_cam":
                weight += a[u] / a.sum() * g[u]
            if method == "grad_cam_pp" and g[u] > 0:
                weight += g[u] ** 2 / (2 * g[u] ** 2 + a.clamp(min=0).sum() * g[u] ** 3) * g[u]
        for u in places:
            if method == "hires_cam":
                out[u] += g[u] * a[u]
            elif method == "layer_cam":
                out[u] += max(g[u], 0) * a[u]
            elif method == "grad_cam_elementwise":
                out[u] += max(g[u] * a[u], 0)
            else:
                out[u] += weight * a[u]
    return out.clamp(min=0) if method in RECTIFIED else out


def slope_of(tail, maps: Tensor, target: int) -> Tensor:
    """The gradient of one score, one image at a time."""
    return torch.stack([torch.autograd.functional.jacobian(lambda a: tail(a[None])[0, target], a) for a in maps])


def net_with(activation: nn.Module, between: nn.Module | None = None) -> nn.Sequential:
    """A network whose gradient differs from place to place; its layer `1` is the last before the head."""
    head = nn.Flatten(), nn.Linear(60, 16), between or nn.Tanh(), nn.Linear(16, 4)
    return nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), activation, *head).double().eval()


@pytest.fixture
def draws():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        yield


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
@pytest.mark.parametrize("method", FAMILY)
def test_a_map_is_the_sum_over_units_and_places(method, activation, images):
    net = net_with(activation())
    maps = net[:2](images).detach()
    slopes = slope_of(net[2:], maps, 1)
    expected = torch.stack([by_hand(method, a, g) for a, g in zip(maps, slopes, strict=True)])
    e = getattr(attribute, method)(net, images, 1, layer="1")
    torch.testing.assert_close(e.native, expected)
    assert e.native.shape == (2, 3, 4)
    assert e.heatmap.shape == (2, 12, 16)
    assert (slopes < 0).any()
    assert e.native.abs().sum() > 0


@pytest.mark.usefixtures("draws")
def test_alpha_of_grad_cam_pp_is_the_papers_ratio_of_derivatives():
    # Y = exp(score) of a tail that is linear near A; its second and third derivatives are taken, not written down.
    net = net_with(nn.ReLU(), nn.ReLU())
    images = torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(1)).double()
    maps = net[:2](images).detach()[0]
    alpha, first = torch.zeros_like(maps), torch.zeros_like(maps)
    for place in product(*map(range, maps.shape)):
        t = maps[place].clone().requires_grad_()
        a = maps.clone()
        a[place] = t
        y = net[2:](a[None])[0, 1].exp()
        (one,) = torch.autograd.grad(y, t, create_graph=True)
        (two,) = torch.autograd.grad(one, t, create_graph=True)
        (three,) = torch.autograd.grad(two, t)
        first[place] = one / y
        alpha[place] = two / (2 * two + maps[place[0]].sum() * three) if one > 0 else 0
    weight = (alpha * first.clamp(min=0)).sum((1, 2))
    expected = torch.einsum("k,kij->ij", weight, maps).relu().detach()
    torch.testing.assert_close(attribute.grad_cam_pp(net, images, 1, layer="1").native[0], expected)
    assert weight.max() > 0


def test_where_pooling_and_a_linear_layer_follow_they_are_cam_over_the_number_of_places(cnn, images):
    cnn = cnn.double()
    cam = attribute.cam(cnn, images, 2).native / attribute.cam(cnn, images, 2).native[0].numel()
    for method in ("hires_cam", "xgrad_cam"):
        torch.testing.assert_close(getattr(attribute, method)(cnn, images, 2).native, cam)
    assert (cam < 0).any()
    torch.testing.assert_close(attribute.grad_cam(cnn, images, 2, relu=False).native, cam)
    torch.testing.assert_close(attribute.grad_cam(cnn, images, 2).native, cam.relu())
    positive = cnn[-1].weight.detach()[2].clamp(min=0)
    with probe(cnn, "4") as seen, torch.no_grad():
        cnn(images)
    share = torch.einsum("k,nkij->nij", positive, seen["4"]) / cam[0].numel()
    torch.testing.assert_close(attribute.layer_cam(cnn, images, 2).native, share)
    torch.testing.assert_close(attribute.grad_cam_elementwise(cnn, images, 2).native, share)


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("method", ["hires_cam", "xgrad_cam"])
def test_before_one_linear_layer_the_values_sum_to_the_score_without_its_bias(method, images):
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(700, 4)).double().eval()
    e = getattr(attribute, method)(net, images, 3, layer="1")
    expected = net(images)[:, 3].detach() - net[3].bias[3].detach()
    torch.testing.assert_close(e.native.sum((1, 2)), expected)


@pytest.mark.usefixtures("draws")
def test_small_gradients_have_the_same_map_in_grad_cam_pp(images):
    # Where S g is small beside 2, alpha is 1/2: the map is proportional to the gradient, however small that is.
    net = net_with(nn.ReLU())
    maps = []
    for scale in (1e-6, 1e-12):
        net[-1].weight.data = torch.ones_like(net[-1].weight) * scale
        maps.append(attribute.grad_cam_pp(net, images, 1, layer="1").native / scale)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=0)
    slopes = slope_of(net[2:], net[:2](images).detach(), 1) / 1e-12
    weight = slopes.clamp(min=0).sum((2, 3)) / 2
    torch.testing.assert_close(maps[1], torch.einsum("nk,nkij->nij", weight, net[:2](images).detach()))


def test_negative_activations_do_not_make_weights_of_grad_cam_pp_explode(images):
    # Over all values, 2 + S g would be 0 for g = 2 and S = -1.
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, images):
            maps = self.layer(torch.full((len(images), 1, 2, 2), -0.25).to(images) + 0 * images.mean())
            return 2 * maps.sum((2, 3))

    e = attribute.grad_cam_pp(Shift(), images, 0, layer="layer", relu=False)
    torch.testing.assert_close(e.native, torch.full((2, 2, 2), -1.0).double())


def test_a_unit_whose_values_sum_to_0_has_no_weight_in_xgrad_cam(cnn, images):
    with torch.no_grad():
        cnn[3].bias[2], cnn[3].weight[2] = -1, 0
    e = attribute.xgrad_cam(cnn.double(), images, 1)
    torch.testing.assert_close(e.native, attribute.hires_cam(cnn, images, 1).native)


class Mixer(nn.Module):
    """A tiny transformer-like net: patches, a class token, a layer that mixes tokens, a head on the class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0)))
        self.units = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)
        self.double().eval()

    def start(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), 1, 6), x], 1)

    def finish(self, x):
        x = self.norm(x)
        share = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head((share @ x.tanh())[:, 0])

    def forward(self, images):
        return self.finish(self.units(self.start(images)))


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("method", FAMILY)
def test_tokens_are_maps_and_the_class_token_is_left_out(method):
    net, images = Mixer(), torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(1)).double()
    tokens = net.units(net.start(images)).detach()
    slopes = slope_of(net.finish, tokens, 3)

    def grid(values: Tensor) -> Tensor:
        return values[1:].T.reshape(6, 3, 5)

    pairs = zip(tokens, slopes, strict=True)
    expected = torch.stack([by_hand(method, grid(a), grid(g)) for a, g in pairs])
    e = getattr(attribute, method)(net, images, 3, layer="units")
    torch.testing.assert_close(e.native, expected)
    assert e.heatmap.shape == (2, 12, 20)


class ChannelsLast(nn.Module):
    """A stem, then layers whose units are the last axis."""

    def __init__(self):
        super().__init__()
        self.stem, self.units, self.head = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 7), nn.Linear(7, 4)
        self.double().eval()

    def finish(self, x):
        return self.head((x.tanh() * x).mean((1, 2)).exp())

    def forward(self, images):
        return self.finish(self.units(self.stem(images).permute(0, 2, 3, 1)))


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("method", FAMILY)
def test_units_are_found_on_the_last_axis(method, images):
    net = ChannelsLast()
    maps = net.units(net.stem(images).permute(0, 2, 3, 1)).detach()
    slopes = slope_of(net.finish, maps, 0)
    pairs = zip(maps, slopes, strict=True)
    expected = torch.stack([by_hand(method, a.permute(2, 0, 1), g.permute(2, 0, 1)) for a, g in pairs])
    torch.testing.assert_close(getattr(attribute, method)(net, images, 0, layer="units").native, expected)


@pytest.mark.parametrize("method", FAMILY)
def test_a_layer_is_read_before_what_overwrites_it(method, images):
    # The ReLU after the norm writes in place, and the norm would be folded away if nobody looked at its input.
    def build(inplace: bool) -> nn.Sequential:
        draw = torch.Generator().manual_seed(0)
        parts = [nn.Conv2d(3, 3, 3, stride=3), nn.BatchNorm2d(3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1)]
        net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(3, 4)).double().eval()
        for weight in net.parameters():
            nn.init.normal_(weight, generator=draw)
        nn.init.uniform_(net[1].running_var, 0.5, 2, generator=draw)
        return net

    for layer in ("0", "1", "2"):
        until, tail = build(False)[: int(layer) + 1], build(False)[int(layer) + 1 :]
        maps = until(images).detach()
        pairs = zip(maps, slope_of(tail, maps, 1), strict=True)
        expected = torch.stack([by_hand(method, a, g) for a, g in pairs])
        found = getattr(attribute, method)(build(True), images, 1, layer=layer).native
        torch.testing.assert_close(found, expected.nan_to_num())


@pytest.mark.usefixtures("draws")
def test_the_graph_begins_at_the_layer(images):
    seen: list[bool] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.requires_grad)
            return x

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Looks(), nn.Conv2d(4, 4, 3), nn.ReLU(), Looks(), nn.Flatten())
    net.append(nn.Linear(384, 4)).double().eval()
    attribute.grad_cam(net, images, 1, layer="3")
    seen.clear()
    attribute.grad_cam(net, images, 1, layer="3")
    assert seen == [False, True]


def test_one_of_several_runs_of_a_layer_can_be_named(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.relu(self.conv(self.relu(self.conv(images)))).mean((2, 3)))

    net = Twice().double().eval()
    first = net.relu(net.conv(images)).detach()
    tail = lambda a: net.head(net.relu(net.conv(a)).mean((2, 3)))  # noqa: E731
    pairs = zip(first, slope_of(tail, first, 1), strict=True)
    expected = torch.stack([by_hand("hires_cam", a, g) for a, g in pairs])
    torch.testing.assert_close(attribute.hires_cam(net, images, 1, layer="relu#0").native, expected)


def test_without_a_layer_the_last_one_with_positions_is_used_and_named(cnn, images):
    e = attribute.grad_cam(cnn.double(), images)
    assert e.layer == geometry(cnn, images).usual() == "4"
    assert e.settings["layer"] == "4"
    assert e.native.shape == (2, 6, 8)


@pytest.mark.parametrize("method", [*FAMILY, "guided_grad_cam"])
def test_mirrored_weights_and_images_give_mirrored_maps(method, cnn, images):
    before = getattr(attribute, method)(cnn.double(), images, 1).native
    for part in cnn:
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.flip(3).detach()
    torch.testing.assert_close(getattr(attribute, method)(cnn, images.flip(3), 1).native.flip(-1), before)


@pytest.mark.parametrize("method", FAMILY[:-1])
@pytest.mark.usefixtures("draws")
def test_relu_only_cuts_negative_values_off(method, images):
    net, explain = net_with(nn.GELU()), getattr(attribute, method)
    signed = explain(net, images, 1, layer="0", relu=False).native
    assert (signed < 0).any()
    torch.testing.assert_close(explain(net, images, 1, layer="0", relu=True).native, signed.clamp(min=0))


def test_guided_grad_cam_is_guided_backprop_where_grad_cam_is(cnn, images):
    coarse = attribute.grad_cam(cnn.double(), images, 1)
    fine = attribute.guided_backprop(cnn, images, 1).native
    e = attribute.guided_grad_cam(cnn, images, 1)
    torch.testing.assert_close(e.native, fine * resize(coarse.native[:, None], (12, 16)))
    assert (e.native < 0).any()
    assert e.native.shape == images.shape
    assert e.layer == "4"


@pytest.mark.usefixtures("draws")
def test_guided_grad_cam_says_what_to_do_about_other_activations(images):
    net = net_with(nn.GELU())
    with pytest.raises(RuntimeError, match="no relu or relu6"):
        attribute.guided_grad_cam(net, images, 1, layer="1")
    net[4] = nn.ReLU()
    e = attribute.guided_grad_cam(net, images, 1, layer="1", others="guided")
    fine = attribute.guided_backprop(net, images, 1, others="guided").native
    coarse = attribute.grad_cam(net, images, 1, layer="1").native
    torch.testing.assert_close(e.native, fine * resize(coarse[:, None], (12, 16)))


@pytest.mark.parametrize("method", [*FAMILY, "guided_grad_cam"])
def test_a_layer_that_is_not_there_names_the_nearest(method, cnn, images):
    with pytest.raises(LayerNotFound, match=r"no layer '44' here.*Did you mean '4'"):
        getattr(attribute, method)(cnn.double(), images, layer="44")


def test_a_net_without_positions_has_no_map():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with pytest.raises(BadModel, match="no layer of this model has a spatial output"):
        attribute.grad_cam(net, torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
