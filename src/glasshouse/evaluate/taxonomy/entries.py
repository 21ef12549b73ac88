"""All specs by name: those of this package, and those that plug-ins add."""

from glasshouse.core import Info, NotFound
from glasshouse.core.errors import not_found
from glasshouse.evaluate.taxonomy.attributing import ATTRIBUTING
from glasshouse.evaluate.taxonomy.judging import JUDGEMENTS
from glasshouse.evaluate.taxonomy.looking import LOOKING
from glasshouse.evaluate.taxonomy.measuring import AXIOMS, COMPLEXITY, FAITHFULNESS, LOCALISATION, ROBUSTNESS, SANITY
from glasshouse.evaluate.taxonomy.reading import READINGS
from glasshouse.evaluate.taxonomy.specs import MethodSpec, MetricSpec

_methods: dict[str, MethodSpec] = {**ATTRIBUTING, **LOOKING}
_metrics: dict[str, MetricSpec] = {
    **FAITHFULNESS,
    **LOCALISATION,
    **COMPLEXITY,
    **SANITY,
    **AXIOMS,
    **ROBUSTNESS,
    **JUDGEMENTS,
    **READINGS,
}
"""The other half of the method registry, which plug-ins add to as they do to that."""


def add_method_spec(name: str, spec: MethodSpec) -> None:
    """Say where a method stands, by its full name: `add_method_spec("attribute.mine", MethodSpec(…))`."""
    _methods[name] = spec


def add_metric_spec(name: str, spec: MetricSpec) -> None:
    """Say what a metric asks, by its short name: `add_metric_spec("mine", MetricSpec(…))`."""
    _metrics[name] = spec


def method_spec(info: Info) -> MethodSpec:
    """What is written down of a method; for an attribution method of which nothing is, what most of them are."""
    if info.name in _methods:
        return _methods[info.name]
    if info.maps:
        return MethodSpec("processing.salience", "heatmap", "region")
    raise NotFound(
        f"nothing is known of what '{info.name}' explains.",
        f'Call taxonomy.add_method_spec("{info.name}", taxonomy.MethodSpec(…)).',
    )


def metric_spec(name: str) -> MetricSpec:
    """What is written down of a metric, by its short or full name."""
    short = name.removeprefix("evaluate.")
    if short not in _metrics:
        raise not_found("metric", short, list(_metrics), NotFound)
    return _metrics[short]


def has_spec(info: Info) -> bool:
    """Whether something was written down of a method, and not only derived."""
    return info.name in _methods


def metric_names() -> tuple[str, ...]:
    """All metrics of which something is written down, registered or not."""
    return tuple(_metrics)
