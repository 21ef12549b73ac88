"""Recovery on a model that reads two places, so that what blurring either does is known."""

import pytest
import torch
from torch import Tensor, nn

from glasshouse import diagnose
from glasshouse.core import BadInput, Explanation
from glasshouse.diagnose.recover import deletion_mask, rank

N = 4


class Places(nn.Module):
    """Class k is how bright the k-th quarter of the image is at its brightest."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.mean(1)
        quarters = [rows[:, y : y + 16, x : x + 16].amax((1, 2)) for y in (0, 16) for x in (0, 16)]
        return torch.stack(quarters, 1)


@pytest.fixture
def adversarial() -> diagnose.Adversarial:
    """Class 0 by a broad plate; a bright dot elsewhere, in another quarter each time, takes the answer away."""
    images = torch.zeros(N, 3, 32, 32)
    images[..., 2:14, 2:14] = 1
    for n, (y, x) in enumerate(dots()):
        images[n, :, y : y + 2, x : x + 2] = 2
    before = torch.zeros(N).long()
    after = Places()(images).argmax(1)
    return diagnose.Adversarial("by_hand", images, before, before, after, torch.ones(N), "linf")


def dots() -> list[tuple[int, int]]:
    return [(8, 24), (24, 8), (24, 24), (2, 18)]


def dotted(model: nn.Module, images: Tensor) -> Explanation:
    """A map that knows where the dot is: 1 around the brightest pixel."""
    heatmap = torch.zeros(len(images), 32, 32)
    for n, image in enumerate(images):
        place = int(image.mean(0).argmax())
        heatmap[n, max(0, place // 32 - 2) : place // 32 + 5, max(0, place % 32 - 2) : place % 32 + 5] = 1
    return Explanation(heatmap, heatmap[:, None], "dotted", (0,) * len(images), torch.zeros(len(images)), {})


def test_blurring_what_speaks_for_the_wrong_answer_brings_the_right_one_back(adversarial):
    found = diagnose.recover_labels(Places(), adversarial, torch.tensor([0, 0, 0, 1]), explain=dotted, k=2)
    assert (found.top, found.top_k, found.truth, found.stderr) == (1.0, 1.0, 0.75, 0.0)
    assert found.control == 0.0  # the dots of others are elsewhere
    assert found.attacked_top_k == 1.0
    assert found.removed == pytest.approx(49 / 1024)
    assert found.recovered.all()
    assert "dotted, 4 images, 100.0%" in repr(found)


def test_the_blur_is_that_of_the_image_in_proportion_to_its_size(adversarial):
    found = diagnose.recover_labels(Places(), adversarial, explain=dotted, blur_sigma=0.01)  # none to speak of
    assert found.top == 0.0
    assert found.truth is None


def test_the_share_that_is_removed_can_be_given(adversarial):
    found = diagnose.recover_labels(Places(), adversarial, explain=dotted, remove=49 / 1024)
    assert found.removed == pytest.approx(49 / 1024)
    assert found.top == 1.0


def test_a_mask_is_the_map_or_its_highest_pixels():
    values = torch.tensor([[[0.1, 0.9], [0.4, 0.2]]])
    e = Explanation(values, values[:, None], "made_up", (0,), torch.zeros(1), {})
    assert torch.equal(deletion_mask(e, None), values)
    assert deletion_mask(e, 0.5).tolist() == [[[0, 1], [1, 0]]]
    signed = Explanation(values - 0.5, values[:, None], "made_up", (0,), torch.zeros(1), {})
    with pytest.raises(BadInput, match=r"no masks.*remove=0.1"):
        deletion_mask(signed, None)
    with pytest.raises(BadInput, match="no share"):
        deletion_mask(e, 1.5)


def test_a_rank_counts_the_classes_above():
    output = torch.tensor([[3.0, 1, 2], [3, 1, 2], [3, 1, 2]])
    assert rank(output, torch.tensor([0, 2, 1])).tolist() == [0, 1, 2]


def test_images_that_kept_their_answer_are_left_out_and_one_alone_is_not_enough(adversarial):
    kept = diagnose.Adversarial(
        "by_hand",
        adversarial.images,
        adversarial.before,
        adversarial.before,
        torch.tensor([0, 2, 3, 1]),
        adversarial.distance,
        "linf",
    )
    assert diagnose.recover_labels(Places(), kept, explain=dotted).rows.tolist() == [1, 2, 3]
    with pytest.raises(BadInput, match="changed 0 answers"):
        diagnose.recover_labels(Places(), diagnose.fgsm(Places(), adversarial.images, epsilon=0.0), explain=dotted)


def test_the_result_is_saved(adversarial, tmp_path):
    found = diagnose.recover_labels(Places(), adversarial, explain=dotted)
    back = diagnose.Recovery.load(found.save(tmp_path / "recovery.safetensors"))
    assert back.to_dict() == found.to_dict()
