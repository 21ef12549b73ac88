"""A small model with names, and views of two photographs."""

from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from glasshouse import report
from glasshouse.core import Model, Preprocess

VOID = {"meta", "img", "input", "br", "link"}


class Reader(HTMLParser):
    """Collects tags, ids and addresses, and checks that every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def parsed() -> type[Reader]:
    """Reads a page, or a piece of one, and checks that its tags are closed."""
    return Reader


@pytest.fixture
def model(cnn: nn.Sequential) -> Model:
    preprocess = Preprocess(size=(24, 24), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Model.of(cnn, preprocess=preprocess, class_names=["cat", "dog", "<b>bird</b>", "fish"], name="tiny")


@pytest.fixture
def photos() -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return [torch.rand(3, 30, 40, generator=source), torch.rand(3, 24, 24, generator=source)]


@pytest.fixture
def views(model: Model, photos: list[torch.Tensor]) -> tuple[report.View, ...]:
    return report.explain(
        model, photos, methods=["grad_cam", "saliency", "input_x_gradient"], target="cat", tier="lite"
    )
