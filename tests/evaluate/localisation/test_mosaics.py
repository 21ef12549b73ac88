"""Mosaics: each image in its place, each class in its cells."""

import pytest
import torch
from torch import nn

from glasshouse import attribute
from glasshouse.core import BadInput
from glasshouse.evaluate.localisation.mass import relevance_mass
from glasshouse.evaluate.localisation.mosaics import focus, focus_mosaics, grid_mosaics, grid_pointing_game

CLASSES = [0, 1, 2, 3, 0, 1, 2, 3, 4, 0]
SIZE = (4, 6)


@pytest.fixture
def shades():
    """Image i is all i, not square."""
    return torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 2, *SIZE).contiguous()


class Colours(nn.Module):
    """Score of class k: how many pixels show a shade of class k. A 1 × 1 convolution, then a mean: all is exact."""

    def forward(self, x):
        shade = torch.stack([(x[:, 0] == i).float() for i in range(10)], 1)
        table = torch.zeros(5, 10)
        table[CLASSES, torch.arange(10)] = 1.0
        return torch.einsum("kc,nchw->nk", table, shade)


def exact(model, images, target):
    """1 where the shade is one of the target's class."""
    of = torch.tensor(CLASSES)[images[:, 0].long()]
    return (of == torch.tensor(target).view(-1, 1, 1)).float()


def even(model, images, target):
    return torch.ones(len(images), *images.shape[2:])


@pytest.mark.parametrize("side", [2, 3])
def test_a_grid_holds_different_classes_and_asks_for_each(shades, side):
    classes = CLASSES if side == 2 else list(range(10))
    game = grid_mosaics(shades, classes, side=side, n_mosaics=5)
    cells = side * side
    assert game.images.shape == (5 * cells, 2, side * SIZE[0], side * SIZE[1])
    for mosaic, target, mask in zip(game.images, game.target, game.masks, strict=True):
        corners = [mosaic[0, r * SIZE[0], c * SIZE[1]] for r in range(side) for c in range(side)]
        assert len({classes[int(shade)] for shade in corners}) == cells
        assert {classes[int(shade)] for shade in mosaic[0][mask]} == {target}
        assert int(mask.sum()) == SIZE[0] * SIZE[1]
    for first in range(0, 5 * cells, cells):
        assert len(set(game.target[first : first + cells])) == cells


def test_focus_shows_two_images_of_the_class_and_two_of_others_in_the_right_cells_for_any_axis(shades):
    game = focus_mosaics(shades, CLASSES, n_mosaics=40)
    layouts = set()
    for mosaic, target, mask in zip(game.images, game.target, game.masks, strict=True):
        shown = [int(mosaic[0, r, c]) for r in (0, SIZE[0]) for c in (0, SIZE[1])]
        inside = [bool(mask[r, c]) for r in (0, SIZE[0]) for c in (0, SIZE[1])]
        assert [CLASSES[shade] == target for shade in shown] == inside
        assert sum(inside) == 2
        assert len(set(shown)) == 4
        assert len({CLASSES[shade] for shade in shown}) == 3
        layouts.add(tuple(inside))
    assert len(layouts) == 6  # quantus once mixed up rows and columns, which only some layouts show


@pytest.mark.parametrize("game", [grid_pointing_game, focus])
def test_exact_maps_score_1_and_even_ones_chance(shades, game):
    assert set(game(Colours(), shades, CLASSES, exact).value.tolist()) == {1}
    score = game(Colours(), shades, CLASSES, even)
    assert score.chance == pytest.approx(0.25 if game is grid_pointing_game else 0.5)
    torch.testing.assert_close(score.value, torch.full_like(score.value, score.chance))
    opposite = game(Colours(), shades, CLASSES, lambda *asked: 1 - exact(*asked))
    assert set(opposite.value.tolist()) == {0}


def test_any_method_plays_and_its_passes_are_counted(cnn, images, counted):
    several = torch.cat([images, images.flip(2), images.flip(3)])
    classes = [0, 1, 2, 3, 0, 1, 2, 3, 0]
    sizes = counted(cnn)
    score = grid_pointing_game(cnn, several, classes, attribute.input_x_gradient, n_mosaics=2)
    assert len(score.value) == 8
    assert score.n_forward == sum(sizes) == 8
    game = grid_mosaics(several, classes, n_mosaics=2)
    by_mask = relevance_mass(cnn, game.images, attribute.input_x_gradient(cnn, game.images, game.target), game.masks)
    torch.testing.assert_close(score.value, by_mask.value)


def test_the_seed_chooses_the_images(shades):
    one, same = (focus_mosaics(shades, CLASSES, seed=1) for _ in range(2))
    assert one.images.equal(same.images)
    assert one.target == same.target
    assert not one.images.equal(focus_mosaics(shades, CLASSES, seed=2).images)


def test_maps_that_say_nothing_have_a_reason(shades):
    score = focus(Colours(), shades, CLASSES, lambda model, images, target: 0 * images[:, 0])
    assert set(score.reason) == {"zero_total"}


def test_too_few_images_or_wrong_maps_are_refused(shades):
    with pytest.raises(BadInput, match="cannot be made from 2 classes"):
        grid_mosaics(shades, [0, 1] * 5)
    with pytest.raises(BadInput, match="10 images of 10 classes"):
        focus_mosaics(shades, list(range(10)))
    with pytest.raises(BadInput, match="one class per image"):
        focus_mosaics(shades, [0, 1])
    with pytest.raises(BadInput, match="not of the mosaics"):
        focus(Colours(), shades, CLASSES, lambda model, images, target: images[:, 0, :2])
