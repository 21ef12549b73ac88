"""Mosaics read from one cell: exact methods mark nothing else, and Grad-CAM leaks by what can be worked out by hand."""

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput, geometry
from glasshouse.evaluate.localisation.disconnection import disconnected, disconnected_pointing_game
from glasshouse.evaluate.localisation.mosaics import grid_mosaics, grid_pointing_game

H, W = 6, 8
SIDES = pytest.mark.parametrize("side", [2, 3])
PARTS = pytest.mark.parametrize("part", ["full", "part"])


@pytest.fixture
def split():
    """Two convolutions of 3 × 3 with pooling between them, and a head, as two modules."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1)
        )
        return features.eval(), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9)).eval()


@pytest.fixture
def several():
    return torch.randn(18, 2, H, W, generator=torch.Generator().manual_seed(1))


CLASSES = [index % 9 for index in range(18)]


@SIDES
def test_full_is_the_network_on_the_cell_alone(split, several, side):
    features, head = split
    game = grid_mosaics(several, CLASSES, side=side, n_mosaics=2)
    for cell in range(side * side):
        row, col = divmod(cell, side)
        alone = game.images[:, :, row * H : (row + 1) * H, col * W : (col + 1) * W]
        model = disconnected(features, head, cell, side=side)
        torch.testing.assert_close(model(game.images), head(features(alone)))


def test_part_reads_the_cell_of_features_that_see_beyond_it(split, several):
    features, head = split
    mosaic = grid_mosaics(several, CLASSES, n_mosaics=1).images[:1]
    maps = features(mosaic)
    torch.testing.assert_close(disconnected(features, head, 2, part="part")(mosaic), head(maps[:, :, 3:, :4]))
    assert not maps[:, :, 3:, :4].allclose(features(mosaic[:, :, H:, :W]))


@pytest.mark.parametrize(("name", "side"), [("saliency", 3), ("input_x_gradient", 2), ("guided_backprop", 2)])
def test_in_full_the_gradient_has_no_mass_outside_the_cell(split, several, name, side):
    found = []

    def explain(model, images, target):
        found.append(getattr(attribute, name)(model, images, target))
        return found[-1]

    score = disconnected_pointing_game(*split, several, CLASSES, explain, side=side, n_mosaics=2)
    torch.testing.assert_close(score.value, torch.ones(2 * side * side))
    assert score.chance == pytest.approx(1 / side**2)
    for cell, explanation in enumerate(found):
        row, col = divmod(cell, side)
        maps = explanation.heatmap.clone()
        assert maps[:, row * H : (row + 1) * H, col * W : (col + 1) * W].any()
        maps[:, row * H : (row + 1) * H, col * W : (col + 1) * W] = 0
        assert not maps.any()


def test_in_part_the_gradient_reaches_as_far_as_the_features_see(split, several):
    # 3 × 3, pooled by 2, 3 × 3: a feature sees 3 pixels beyond its own two
    reached = torch.zeros(2 * H, 2 * W, dtype=torch.bool)

    def explain(model, images, target):
        answer = attribute.saliency(model, images, target)
        if model.cell == 0:
            reached.logical_or_((answer.heatmap != 0).any(0))
        return answer

    score = disconnected_pointing_game(*split, several, CLASSES, explain, part="part", n_mosaics=8)
    assert reached[H : H + 3].any(1).all()
    assert reached[:, W : W + 3].any(0).all()
    assert not reached[H + 3 :].any()
    assert not reached[:, W + 3 :].any()
    joined = grid_pointing_game(nn.Sequential(*split), several, CLASSES, attribute.saliency, n_mosaics=8)
    assert joined.mean < score.mean < 1


def test_methods_that_only_ask_are_exact_in_full_too(split, several):
    def occlude(model, images, target):
        return attribute.occlusion(model, images, target, sliding_window_shapes=2, strides=2, score="logit")

    score = disconnected_pointing_game(*split, several, CLASSES, occlude, n_mosaics=2)
    torch.testing.assert_close(score.value, torch.ones(8))


@PARTS
def test_grad_cam_leaks_what_the_other_cells_hold_of_the_units_it_weighs(part):
    # One unit per class, which is the image's brightness there. Grad-CAM has one weight per unit, not per place.
    features, head = nn.Conv2d(5, 5, 1, bias=False), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features.weight.data = torch.eye(5).view(5, 5, 1, 1)
    brightness = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) + 0.1  # of image i in unit k
    images = brightness.view(5, 5, 1, 1).expand(-1, -1, H, W).contiguous()

    def explain(model, images, target):
        return attribute.grad_cam(model, images, target, layer="features")

    score = disconnected_pointing_game(features, head, images, list(range(5)), explain, part=part, n_mosaics=4)
    game = grid_mosaics(images, list(range(5)), n_mosaics=4)
    shown = game.images[:, :, ::H, ::W].flatten(2)  # each cell's brightness in each unit
    expected = [float(shown[q, k, q % 4] / shown[q, k].sum()) for q, k in enumerate(game.target)]
    assert score.value.tolist() == pytest.approx(expected)
    assert score.extras["target"].tolist() == game.target
    assert 0.1 < score.mean < 0.9


@PARTS
def test_features_are_the_map_of_the_whole_mosaic(split, several, part):
    mosaic = grid_mosaics(several, CLASSES, n_mosaics=1).images
    model = disconnected(*split, 1, part=part)
    layer = geometry(model, mosaic)["features"]
    assert (layer.axes, layer.grid, layer.calls) == ("nkij", (H, W), 1)
    assert attribute.grad_cam(model, mosaic, 0, layer="features").native.shape == (4, H, W)


def test_passes_are_counted_and_the_parts_stay_as_they_were(split, several, counted):
    features, head = split
    sizes = counted(head)
    before = {name: value.clone() for name, value in (*features.state_dict().items(), *head.state_dict().items())}
    score = disconnected_pointing_game(features, head, several, CLASSES, attribute.saliency, n_mosaics=2)
    assert score.n_forward == sum(sizes) == 8
    assert score.settings == {"part": "full", "side": 2, "n_mosaics": 2, "seed": 0}
    for name, value in (*features.state_dict().items(), *head.state_dict().items()):
        assert value.equal(before[name])
    assert not features.training
    assert all(module._forward_hooks == {} for module in features.modules())


def test_what_does_not_fit_is_named(split, several):
    features, head = split
    with pytest.raises(BadInput, match="part 'half' is unknown"):
        getattr(disconnected, "__wrapped__", disconnected)(features, head, 0, part="half")
    with pytest.raises(BadInput, match="no cell 4 in 2 × 2"):
        disconnected(features, head, 4)
    with pytest.raises(BadInput, match="not 2 × 2 cells of one size"):
        disconnected(features, head, 0)(torch.zeros(1, 2, 2 * H + 1, 2 * W))
    with pytest.raises(BadInput, match="not 2 × 2 cells of one size"):  # 6 pooled to 3 in a mosaic's half
        disconnected(nn.Sequential(nn.MaxPool2d(4, 4)), head, 0, part="part")(torch.zeros(1, 2, 2 * H, 2 * W))
    with pytest.raises(BadInput, match="not of the mosaics"):
        disconnected_pointing_game(features, head, several, CLASSES, lambda model, images, target: images[:, 0, :2])
