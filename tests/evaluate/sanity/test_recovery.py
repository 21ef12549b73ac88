"""Guided backprop draws the image even from random weights; the gradient does not."""

import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch

from glasshouse import attribute
from glasshouse.attribute.recovery import equalised, random_net
from glasshouse.core import BadInput, Explanation, blur
from glasshouse.evaluate.sanity.recovery import equal_patches, image_recovery


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """A cat, minus ImageNet's mean, on the scale of bytes, as in the released experiments."""
    pixels = skimage.transform.resize(skimage.data.chelsea(), (64, 96), preserve_range=True, anti_aliasing=True)
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() - mean


@pytest.mark.parametrize(("n_filters", "predicted", "fine"), [(16, 0.62, 0.39), (256, 0.95, 0.63)])
def test_guided_backprop_of_a_random_network_draws_the_image(photo, n_filters, predicted, fine):
    # 0.64 and 0.95 on the image of another cat: with the photograph the figures move by some 0.05
    net = random_net(photo, n_filters=n_filters, seed=1)
    score = image_recovery(net, photo, attribute.guided_backprop(net, photo, 3))
    assert float(score.extras["patches"]) == pytest.approx(predicted, abs=0.06)
    assert float(score.value) == pytest.approx(fine, abs=0.1)
    assert float(score.value) > 8 * float(score.stderr)


@pytest.mark.parametrize("method", ["saliency", "deconvnet"])
def test_the_gradient_of_a_random_network_does_not_and_deconvnet_only_behind_pooling(photo, method):
    net = random_net(photo, n_filters=64, seed=1)
    score = image_recovery(net, photo, getattr(attribute, method)(net, photo, 3))
    assert abs(float(score.value)) < 0.05
    if method == "deconvnet":
        net = random_net(photo, n_filters=64, pool=9, seed=1)
        assert float(image_recovery(net, photo, attribute.deconvnet(net, photo, 3)).value) > 0.2


def test_the_correlation_is_numpys_with_every_channel_at_every_pixel(cnn, images):
    explanation = attribute.input_x_gradient(cnn, images)
    score = image_recovery(cnn, images, explanation, sigma=1.5)
    fine = images - blur(images, 1.5)
    for index in range(3):
        for name, other in (("", fine), ("image", images)):
            both = explanation.native[index].flatten().numpy(), other[index].flatten().numpy()
            value = score.extras[name][index] if name else score.value[index]
            assert float(value) == pytest.approx(np.corrcoef(*both)[0, 1], abs=1e-5)
    assert (score.direction, score.n_forward) == ("diagnostic", 0)


def test_equal_patches_are_those_of_the_theory(photo):
    torch.testing.assert_close(equal_patches(photo), equalised(photo))
    assert not equal_patches(torch.zeros(1, 3, 8, 8)).any()


def test_the_fine_structure_itself_scores_one_and_grids_are_compared_in_grey(cnn, images):
    fine = images - blur(images, 4.0)
    own = Explanation(fine.sum(1), fine, "by_hand", (0, 0, 0), torch.zeros(3), {})
    torch.testing.assert_close(image_recovery(cnn, images, own).value, torch.ones(3))
    grey = (images.mean(1, keepdim=True) - blur(images.mean(1, keepdim=True), 4.0))[:, 0]
    own = Explanation(grey, torch.zeros(3, 2, 2), "by_hand", (0, 0, 0), torch.zeros(3), {})
    torch.testing.assert_close(image_recovery(cnn, images, own).value, torch.ones(3))


def test_an_image_without_structure_has_no_score(cnn, images, explained, random_maps):
    images[0] = 1.0
    maps = random_maps(3, (14, 18))
    maps[1] = 2.0
    assert image_recovery(cnn, images, explained(maps)).reason == ("no_variation", "constant_map", "")
    with pytest.raises(BadInput, match="sigma"):
        image_recovery(cnn, images, explained(maps), sigma=0.0)
