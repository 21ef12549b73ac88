"""All methods by name: what they cost, what they claim, and what is known against them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from inspect import Parameter, Signature, signature
from typing import Any, Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

from glasshouse.core.errors import BadInput, NotFound, not_found

P = ParamSpec("P")
R = TypeVar("R")
Reduction: TypeAlias = Literal["sum", "max_abs"]
"""How colour channels become one value per pixel: "sum" keeps totals, "max_abs" is the saliency map's."""
ReductionOf: TypeAlias = Callable[[Mapping[str, Any]], Reduction]


Claim: TypeAlias = Literal[
    "complete", "dummy", "implementation", "silent", "equivariant", "linear", "symmetric", "input_invariant"
]
"""What a method promises of its values; tests/laws/test_claims.py tests every claim on all methods that make it.

- complete: they sum to a difference of scores, so that a gap means an error.
- dummy: an input that the network ignores gets 0, and does not change the rest.
- implementation: two networks that compute the same function get the same values, however they are written.
- silent: a network that answers the same for every image gets zeros.
- equivariant: where the network does not care about a shift, the map of a shifted image is shifted.
- linear: the values (`native`) for a weighted sum of logits are the weighted sum of the values for each.
- symmetric: two pixels of the same values that the network cannot tell apart get the same values.
- input_invariant: a constant added to every image, and taken away again in the first layer, changes nothing.
"""


Need: TypeAlias = Literal["", "attention"]
"""What a method can do nothing without. Methods that need particular operations find out for themselves."""


class Cost(NamedTuple):
    """What one image costs, in passes of the whole network."""

    forward: float
    backward: float = 0.0


CostOf: TypeAlias = Callable[[Mapping[str, Any], Sequence[int]], Cost | None]
"""From the settings of a call and the shape `n c h w` of its images to what one image costs; None where that depends
on the network."""


@dataclass(frozen=True)
class Info:
    """What the registry knows of a method.

    Args:
        name: `folder.function`.
        function: the public function.
        cost: passes per image, or None where that depends on the data.
        claims: what the method promises of its values.
        class_sensitive: False if the method is known to answer much the same for every class.
        warning: what a reader must know before trusting it; empty if nothing is known against it.
        paper: author, venue and year.
        example: settings under which the method is quick, for tests and trials.
        reduction: how an attribution method's channels become one value per pixel.
        maps: whether it gives an `Explanation`, one map for each image.
        needs: what a network must have for it.
        place: where it stands in `evaluate.taxonomy`, as a `MethodSpec`, of a metric a `MetricSpec`. Other packages
            say it here; None leaves it to the tables of this one.
    """

    name: str
    function: Callable[..., Any]
    cost: CostOf | None = None
    claims: frozenset[Claim] = frozenset()
    class_sensitive: bool = True
    warning: str = ""
    paper: str = ""
    example: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reduction: Reduction | ReductionOf = "sum"
    maps: bool = False
    needs: Need = ""
    place: object = None

    @property
    def folder(self) -> str:
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> Signature:
        return signature(self.function)

    def price(self, settings: Mapping[str, Any], shape: Sequence[int]) -> Cost | None:
        """What one image costs under these settings; None where nobody can tell beforehand.

        A baseline that asks about every image but the clean one several times says how often in `passes`.
        """
        cost, times = self.cost(settings, shape) if self.cost else None, getattr(settings.get("baseline"), "passes", 1)
        return cost if cost is None or times == 1 else Cost(1 + times * (cost.forward - 1), cost.backward)

    @property
    def defaults(self) -> dict[str, Any]:
        """What each argument is when it is not given."""
        named = self.parameters.parameters.values()
        return {parameter.name: parameter.default for parameter in named if parameter.default is not Parameter.empty}


_registry: dict[str, Info] = {}
_plugins_loaded: list[bool] = []


def register(info: Info) -> None:
    """Add a method; a name that is taken by another function is an error."""
    known = _registry.get(info.name)
    if known is not None and known.function.__module__ != info.function.__module__:
        raise BadInput(
            f"a method '{info.name}' exists already, in {known.function.__module__}.", "Choose another name."
        )
    _registry[info.name] = info


def list_methods(pattern: str = "*") -> list[str]:
    """Names of all methods that match, plug-ins included: `list_methods("attribute.*cam*")`."""
    load_plugins()
    return sorted(name for name in _registry if fnmatchcase(name, pattern))


def find_method(name: str, folder: str = "*") -> Info:
    """A registered method by full or short name; an unknown one raises with the nearest names."""
    load_plugins()
    if name in _registry and folder in ("*", _registry[name].folder):
        return _registry[name]
    names = list_methods(f"{folder}.*" if folder != "*" else "*")
    for full in names:
        if name in (full, full.rpartition(".")[2]):
            return _registry[full]
    raise not_found("method", name, names if "." in name else [n.rpartition(".")[2] for n in names], NotFound)


def load_plugins() -> None:
    """Import what other packages announce under the entry-point group `glasshouse.methods`, once."""
    if not _plugins_loaded:
        _plugins_loaded.append(True)
        for entry in entry_points(group="glasshouse.methods"):
            try:
                entry.load()
            except Exception as error:  # somebody else's code: it must not take ours down
                warnings.warn(f"the plug-in '{entry.name}' cannot be loaded: {error}", stacklevel=3)


def registered(
    folder: str,
    cost: CostOf | None = None,
    paper: str = "",
    warning: str = "",
    example: Mapping[str, Any] | None = None,
    place: object = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator that puts a function of another kind than attribution into the registry, unchanged."""

    def add(function: Callable[P, R]) -> Callable[P, R]:
        register(
            Info(
                f"{folder}.{function.__name__}",
                function,
                cost,
                paper=paper,
                warning=warning,
                example=example or {},
                place=place,
            )
        )
        return function

    return add
