"""Methods made for a test, which leave the registry as it was."""

import pytest
import torch
from torch import nn

from glasshouse.core import Images, Target, method, select
from glasshouse.core.registry import _registry
from glasshouse.evaluate.complexity import edges


@pytest.fixture
def own_methods():
    """Inside, methods may be registered; afterwards they are gone."""
    known = dict(_registry)
    yield
    _registry.clear()
    _registry.update(known)


@pytest.fixture
def sobel(own_methods):
    """A method that shows the edges of the image, whatever the model or the class."""

    @method
    def sobel(model: nn.Module, inputs: Images, target: Target = None) -> Images:
        with torch.no_grad():
            select(model(inputs), target)
        return edges(inputs)[:, None]

    return sobel
