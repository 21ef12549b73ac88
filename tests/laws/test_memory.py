"""Where memory is short every method answers all the same, in smaller parts, and says so."""

import pytest
import torch
from torch import Tensor, nn

from conformance.architectures import Attentive
from glasshouse import attribute
from glasshouse.core import Aim, Info, OutOfMemory, find_method, list_methods

METHODS = [info for name in list_methods("attribute.*") if (info := find_method(name)).maps]


class Tight(nn.Module):
    """A classifier in whose memory only so many images fit."""

    def __init__(self, most: int, needs: str = ""):
        super().__init__()
        self.most = most
        self.net = (
            Attentive(classes=4)
            if needs == "attention"
            else nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(6, 8, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(8, 4),
            )
        )

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError("no room")
        return self.net(inputs)


def tight(most: int, needs: str = "") -> Tight:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Tight(most, needs).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", [None, 2, [3, 0, 1]], ids=["top", "one", "each"])
@pytest.mark.parametrize("info", METHODS, ids=lambda info: info.short)
def test_a_method_that_runs_out_of_memory_takes_smaller_parts(info: Info, images: Tensor, target):
    plenty = info.function(tight(1000, info.needs), images, target, **info.example)
    little = info.function(tight(1, info.needs), images, target, **info.example)
    torch.testing.assert_close(little.heatmap, plenty.heatmap, rtol=1e-4, atol=1e-4 * float(plenty.heatmap.abs().max()))
    torch.testing.assert_close(little.score, plenty.score)
    assert little.target == plenty.target
    assert {name: value.shape for name, value in little.extras.items()} == {
        name: value.shape for name, value in plenty.extras.items()
    }
    assert little.provenance["images_at_once"] == 1
    assert "images_at_once" not in plenty.provenance
    if "chunk" in little.settings:
        assert little.settings["chunk"] == 1


def test_where_not_even_one_image_fits_the_error_says_so(images):
    with pytest.raises(OutOfMemory, match="not even one image"):
        attribute.saliency(tight(1), images, _raising)


def _raising(output: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize(
    "spec", [None, 1, [2, 0, 1], torch.tensor([2, 0, 1]), torch.eye(3), lambda output: output[:, 0]]
)
def test_a_question_about_some_of_the_images_is_their_part_of_the_question(spec):
    output, rows = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0])
    whole, part = Aim.of(spec).read(output), Aim.of(spec).part(rows).read(output[rows])
    torch.testing.assert_close(part, whole[rows])
