"""Models under a name of their own: a function that builds the network, and a card of what is known."""

import fnmatch
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from glasshouse.core.errors import not_found
from glasshouse.core.model import Model, Preprocess
from glasshouse.zoo.shipping import Shipped
from glasshouse.zoo.weights import Packed

Build: TypeAlias = Callable[[], nn.Module | Model]


@dataclass(frozen=True)
class ModelCard:
    """What is known about a registered model, for those who load it.

    Attributes:
        weights: where its trained weights are: in a published package, or shipped with glasshouse; None where
            there are none.
        class_names: in the order of the outputs, or `imagenet`.
        source: where the model comes from, as a URL.
    """

    preprocess: Preprocess | None = None
    weights: Packed | Shipped | None = None
    class_names: tuple[str, ...] | Literal["imagenet"] = ()
    licence: str = "unknown"
    source: str = "unknown"
    paper: str = ""

    @property
    def about(self) -> Mapping[str, Any]:
        """What was recorded with shipped weights: `about`, `n_weights`, `steps`, `seconds`, `data`, …"""
        return self.weights.about if isinstance(self.weights, Shipped) and self.weights.exists else {}

    @property
    def figures(self) -> Mapping[str, float]:
        """What was measured of shipped weights on held-out data, by name."""
        return self.about.get("figures", {})


@dataclass(frozen=True)
class Entry:
    """A registered model."""

    name: str
    build: Build
    card: ModelCard


_ENTRIES: dict[str, Entry] = {}


def register(name: str, *, card: ModelCard | None = None) -> Callable[[Build], Build]:
    """Make `zoo.load(name)` work: decorates a function that returns a network, or a trained `Model`.

    A name that is taken goes to the newcomer, with a warning.
    """

    def add(build: Build) -> Build:
        if name in _ENTRIES:
            warnings.warn(f"the model name '{name}' was taken; it now means the new one.", stacklevel=2)
        _ENTRIES[name] = Entry(name, build, card or ModelCard())
        return build

    return add


def entry(name: str) -> Entry:
    """The registered model of that name."""
    if name not in _ENTRIES:
        raise not_found("registered model", name, sorted(_ENTRIES))
    return _ENTRIES[name]


def card(name: str) -> ModelCard:
    """What is known about the registered model of that name."""
    return entry(name).card


def names(pattern: str = "*") -> list[str]:
    """Names of registered models that match a pattern such as `*lite*`."""
    return sorted(fnmatch.filter(_ENTRIES, pattern))
