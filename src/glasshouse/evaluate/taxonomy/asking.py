"""Questions to the taxonomy: which methods are like this, and how is each put to the test?"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import NamedTuple

from glasshouse import evaluate
from glasshouse.core import find_method, list_methods
from glasshouse.core.result import Direction
from glasshouse.evaluate.taxonomy.describing import Described, describe
from glasshouse.evaluate.taxonomy.entries import method_spec, metric_spec, metric_specs
from glasshouse.evaluate.taxonomy.specs import Access, Architecture, Asks, Form, Kind, MetricSpec, Requirement, Scope


class Evaluation(NamedTuple):
    """A metric that applies to a method. `call` is what gives the number, empty where there is nothing yet."""

    metric: str
    kind: Kind
    direction: Direction
    needs: frozenset[Requirement]
    call: str


def all_described() -> tuple[Described, ...]:
    """Every registered method that has a place in the taxonomy, in order of name."""
    infos = [find_method(name) for name in list_methods()]
    known = [(info, method_spec(info)) for info in infos if info.folder != "evaluate"]
    return tuple(Described(info, spec) for info, spec in known if spec)


def find(
    family: str = "*",
    *,
    access: Collection[Access] | None = None,
    form: Form | None = None,
    question: Asks | None = None,
    scope: Scope | None = None,
    models: Architecture | None = None,
    max_cost: float | int | None = None,
) -> tuple[str, ...]:
    """Methods that are as asked: `find("processing.*", access={"forward"}, max_cost=500)`.

    Args:
        family: a pattern, such as "representation.unit" or "processing.*".
        access: all that is to be had of the model; methods that need more are left out.
        models: the kind of network they must work on.
        max_cost: forward and backward passes together, for an image of 224 × 224 under default settings; methods whose
            cost nobody can tell beforehand are left out.
    """

    def suits(method: Described) -> bool:
        cost = method.cost
        return (
            fnmatchcase(method.spec.family, family)
            and (access is None or method.access <= set(access))
            and form in (None, method.spec.form)
            and question in (None, method.question)
            and scope in (None, method.scope)
            and (models is None or bool(method.models & {models, "any"}))
            and (max_cost is None or (cost is not None and cost.forward + cost.backward <= max_cost))
        )

    return tuple(method.name for method in all_described() if suits(method))


def evaluations(
    method: str, *, kind: Kind | None = None, given: Collection[Requirement] | None = None
) -> tuple[Evaluation, ...]:
    """The metrics that can be asked of a method's explanations, those that are about the model first.

    Args:
        given: what there is besides model, images and explanation; None also lists metrics that need more.
    """
    described, known = describe(method), set(list_methods("evaluate.*"))
    found = list[Evaluation]()
    for name, metric in metric_specs().items():
        usable = given is None or metric.needs <= set(given)
        if applies(name, metric, described) and kind in (None, metric.kind) and usable:
            found.append(Evaluation(name, metric.kind, metric.direction, metric.needs, caller(name, metric, known)))
    return tuple(sorted(found, key=lambda evaluation: evaluation.kind))


def applies(name: str, metric: MetricSpec, method: Described) -> bool:
    """Whether a metric can be asked of what a method gives."""
    if name in method.spec.evaluations:
        return True
    return (
        method.spec.form in metric.applies_to
        and any(fnmatchcase(method.spec.family, pattern) for pattern in metric.families)
        and (metric.claim is None or metric.claim in method.claims)
    )


def caller(name: str, metric: MetricSpec, known: Collection[str]) -> str:
    """What gives the number: a function, or the attribute of a function's result; empty where there is none yet."""
    if metric.given_by:
        return ".".join(metric.given_by)
    return f"evaluate.{name}" if f"evaluate.{name}" in known or hasattr(evaluate, name) else ""


def methods_for(metric: str) -> tuple[str, ...]:
    """The methods whose explanations a metric can be asked of."""
    short, spec = metric.removeprefix("evaluate."), metric_spec(metric)
    return tuple(method.name for method in all_described() if applies(short, spec, method))
