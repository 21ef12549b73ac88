"""What is written down of methods and metrics: in the tables of this package, or where another one registers them."""

from glasshouse.core import Info, NotFound, find_method, list_methods
from glasshouse.core.errors import not_found
from glasshouse.evaluate.taxonomy.attributing import ATTRIBUTING
from glasshouse.evaluate.taxonomy.judging import JUDGEMENTS
from glasshouse.evaluate.taxonomy.looking import LOOKING
from glasshouse.evaluate.taxonomy.measuring import AXIOMS, COMPLEXITY, FAITHFULNESS, LOCALISATION, ROBUSTNESS, SANITY
from glasshouse.evaluate.taxonomy.reading import READINGS
from glasshouse.evaluate.taxonomy.specs import MethodSpec, MetricSpec

METHODS: dict[str, MethodSpec] = {**ATTRIBUTING, **LOOKING}
METRICS: dict[str, MetricSpec] = {
    **FAITHFULNESS,
    **LOCALISATION,
    **COMPLEXITY,
    **SANITY,
    **AXIOMS,
    **ROBUSTNESS,
    **JUDGEMENTS,
    **READINGS,
}


def method_spec(info: Info) -> MethodSpec | None:
    """What is said of a method where it is registered, else here; of other attribution methods, what most are."""
    if info.place is not None:
        return info.place if isinstance(info.place, MethodSpec) else None
    usual = MethodSpec("processing.salience", "heatmap", "region") if info.maps else None
    return METHODS.get(info.name, usual)


def metric_specs() -> dict[str, MetricSpec]:
    """What is written down of every metric, registered or not, by its short name."""
    infos = [find_method(name) for name in list_methods("evaluate.*")]
    placed = {info.short: info.place for info in infos if isinstance(info.place, MetricSpec)}
    return {**METRICS, **{short: spec for short, spec in placed.items() if short not in METRICS}}


def metric_spec(name: str) -> MetricSpec:
    """What is written down of a metric, by its short or full name."""
    short = name.removeprefix("evaluate.")
    known = METRICS if short in METRICS else metric_specs()
    if short not in known:
        raise not_found("metric", short, list(known), NotFound)
    return known[short]


def metric_names() -> tuple[str, ...]:
    """All metrics of which something is written down, registered or not."""
    return tuple(metric_specs())
