"""Shared by the tests of the scene world."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def unchecked() -> Iterator[None]:
    """No checks of shapes and types, which cost ten times what the rendering does.

    For tests that render hundreds of sets; the comparison with the reference renderer runs with all checks.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
