"""Responses of units over a grid of a stimulus's properties, and what neurophysiologists read off such curves."""

from dataclasses import dataclass, field, replace
from math import pi
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glasshouse.core import BadInput, NotFound, Noun
from glasshouse.core.errors import nearest
from glasshouse.dissect.circuitry.families import Families, from_shifts, shifted_correlation


@dataclass(frozen=True, repr=False)
class Tuning(Noun):
    """How each of u units responds to a stimulus, over all combinations of its properties.

    A *height* is a response minus the one to a blank field. What is said of one property is read along the line
    through the unit's best stimulus, the others kept as they are there.

    Args:
        axes: the values of each property, in the order of the axes of `responses` behind the first.
        responses: of the unit at the middle of the layer's grid.
        blank: the same for a field without a stimulus.
        periods: of the properties that come back to where they started.
        mean, std: of the unit's activation over a data set; None where there was none.
        window: height and width of the receptive field in pixels.
    """

    layer: str
    units: Int[Tensor, " u"]
    stimulus: str
    axes: dict[str, tuple[float, ...]]
    responses: Float[Tensor, "u *axes"]
    blank: Float[Tensor, " u"]
    periods: dict[str, float] = field(default_factory=dict[str, float])
    mean: Float[Tensor, " u"] | None = None
    std: Float[Tensor, " u"] | None = None
    window: tuple[int, int] = (0, 0)
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        axes = " × ".join(f"{len(values)} {axis}" for axis, values in self.axes.items())
        if len(self.units) > 1:
            return f"Tuning({self.layer}, {len(self.units)} units, {self.stimulus}: {axes})"
        best = ", ".join(f"{axis} {float(self.preferred(axis)):.3g}" for axis in self.axes)
        return f"Tuning({self.layer} unit {int(self.units)}, {self.stimulus}: {axes}, best at {best})"

    def unit(self, unit: int) -> "Tuning":
        """The same for a single unit, by its number in the layer."""
        found = (self.units == unit).nonzero()
        if not len(found):
            raise NotFound(f"unit {unit} was not looked at.", f"There are: {self.units.tolist()[:8]}.")
        rows = slice(int(found[0, 0]), int(found[0, 0]) + 1)
        names = ("units", "responses", "blank", "mean", "std")
        parts = {name: value[rows] for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **parts)

    @property
    def deviations(self) -> Float[Tensor, "u *axes"]:
        """Responses in standard deviations of the unit's activation over the data set, from its mean."""
        if self.mean is None or self.std is None:
            raise BadInput("no data set was given to measure responses by.", "Call tuning_curves(…, data=images).")
        per_unit = (-1, *[1] * len(self.axes))
        return ((self.responses - self.mean.view(per_unit)) / self.std.view(per_unit)).to(self.responses)

    @property
    def peak(self) -> Float[Tensor, " u"]:
        """The largest response."""
        return self.responses.flatten(1).amax(1)

    def curve(self, axis: str = "orientation") -> Float[Tensor, "u v"]:
        """Heights along one property, through the best stimulus."""
        place = self._place(axis)
        at = torch.stack(torch.unravel_index(self.responses.flatten(1).argmax(1), self.responses.shape[1:]), 1)
        lines = [
            unit[tuple(slice(None) if number == place else int(i) for number, i in enumerate(best))]
            for unit, best in zip(self.responses, at, strict=True)
        ]
        return torch.stack(lines) - self.blank[:, None]

    def preferred(self, axis: str = "orientation") -> Float[Tensor, " u"]:
        """The value of a property at the largest response (the first of equals)."""
        return self._values(axis)[self.curve(axis).argmax(1)]

    def vector_mean(self, axis: str = "orientation") -> Float[Tensor, " u"]:
        """The preferred value by all responses, for a property that comes back to where it started.

        arg Σ_v (r_v - min r) exp(2πi v / period) · period / 2π,   0 … period
        """
        total, period = self._resultant(axis)
        found = (total.angle() * period / (2 * pi)).remainder(period)
        return torch.where(found < period, found, 0.0)  # a negative rounding error becomes a whole period

    def selectivity(self, axis: str = "orientation") -> Float[Tensor, " u"]:
        """1 minus the circular variance: 1 where a single value is answered, 0 where all are answered alike.

            |Σ_v (r_v - min r) exp(2πi v / period)| / Σ_v (r_v - min r)

        Ringach, Shapley and Hawken, Journal of Neuroscience 2002. 0 for a flat curve.
        """
        total, _ = self._resultant(axis)
        weights = self._weights(axis).sum(1)
        return torch.where(weights > 0, total.abs() / weights, 0.0)

    def reach(self, axis: str = "orientation", share: float = 0.5) -> Float[Tensor, "u 2"]:
        """From which value to which, around the best one, a unit keeps this share of its largest height.

        Interpolated linearly. Where the height never falls that far, the end of the axis; on a full circle
        NaN. Values below 0 or beyond the period are on the other side of its seam. NaN without a positive height.
        """
        curves, values, period = self.curve(axis), self._values(axis), self._circle(axis)
        if period:
            curves, values = curves.repeat(1, 3), torch.cat([values - period, values, values + period])
        n = len(self.axes[axis])
        ends = torch.full((len(curves), 2), torch.nan, dtype=torch.float64)
        for row, curve in enumerate(curves.double()):
            best = int(curve[:n].argmax()) + (n if period else 0)
            if curve[best] > 0:
                level, stop = share * curve[best], best + (n if period else len(curve))
                ends[row, 1] = _crossing(curve[best : stop + 1], values[best : stop + 1], level, not period)
                low = max(best - n, 0) if period else 0
                down = slice(low, best + 1)
                ends[row, 0] = _crossing(curve[down].flip(0), values[down].flip(0), level, not period)
        return ends

    def half_width(self, axis: str = "orientation") -> Float[Tensor, " u"]:
        """Half of the width at half height: how far a property may be from its best value."""
        low, high = self.reach(axis).unbind(1)
        return (high - low) / 2

    def echo(self, shift: float | int = 180.0, axis: str = "orientation") -> Float[Tensor, " u"]:
        """Height at the best value plus a shift, as a share of the height at the best value.

        A curve detector that also answers curves turned by 180° has an echo there, a line detector at 90° if it
        answers crosses. Between values of the grid, interpolated linearly.
        """
        period, values, curves = self._circle(axis), self._values(axis), self.curve(axis)
        if not period:
            raise BadInput(f"the values of '{axis}' do not go full circle.", "Vary it evenly over its whole period.")
        step = period / len(values)
        at = (curves.argmax(1).double() + shift / step).remainder(len(values))
        low, weight = at.long() % len(values), at - at.floor()
        there = torch.lerp(_at(curves, low), _at(curves, (low + 1) % len(values)), weight)
        best = curves.double().amax(1)
        return torch.where(best > 0, there / best, torch.nan)

    def invariance(self, axis: str = "phase") -> Float[Tensor, " u"]:
        """The smallest height along a property as a share of the largest: 1 where the unit does not care, 0 or
        below where some values leave it silent. NaN without a positive height."""
        curves = self.curve(axis).double()
        best = curves.amax(1)
        return torch.where(best > 0, curves.amin(1) / best, torch.nan)

    def families(self, *, axis: str = "orientation", threshold: float = 0.9) -> Families:
        """Units whose curves are the same but for a shift, see `equivariance`.

        Args:
            threshold: least correlation of the shifted curves.
        """
        if not (period := self._circle(axis)):
            raise BadInput(f"the values of '{axis}' do not go full circle.", "Vary it evenly over its whole period.")
        place = 1 + self._place(axis)
        whole = self.responses.movedim(place, -1)
        similarity, shift = shifted_correlation(whole.flatten(1, -2) if whole.ndim > 2 else whole[:, None])
        n = len(self.axes[axis])
        degrees = [step * period / n for step in range(n)]
        return from_shifts(self.layer, self.units, similarity, shift, degrees, threshold, period)

    def _place(self, axis: str) -> int:
        if axis not in self.axes:
            raise NotFound(f"'{axis}' was not varied.", nearest(axis, self.axes))
        return list(self.axes).index(axis)

    def _values(self, axis: str) -> Float[Tensor, " v"]:
        self._place(axis)
        return torch.tensor(self.axes[axis], dtype=torch.float64)

    def _circle(self, axis: str) -> float:
        """The period of a property, if its values are spread evenly over one; else 0."""
        values, period = self._values(axis), self.periods.get(axis, 0.0)
        steps = torch.diff(values, append=values[:1] + period)
        return period if period and torch.allclose(steps, steps[:1], atol=1e-6 * period) and steps[0] > 0 else 0.0

    def _weights(self, axis: str) -> Float[Tensor, "u v"]:
        curves = self.curve(axis).double()
        return curves - curves.amin(1, keepdim=True)

    def _resultant(self, axis: str) -> tuple[Tensor, float]:
        if not (period := self._circle(axis)):
            raise BadInput(f"the values of '{axis}' do not go full circle.", "Vary it evenly over its whole period.")
        turns = torch.exp(2j * pi * self._values(axis) / period)
        return (self._weights(axis) * turns).sum(1), period


def _at(curves: Tensor, places: Tensor) -> Tensor:
    return curves.double().gather(1, places[:, None])[:, 0]


def _crossing(curve: Tensor, values: Tensor, level: Tensor, ends: bool) -> float:
    """Where a curve first falls to a level; if it never does, its last value or NaN."""
    below = (curve < level).nonzero()
    if not len(below):
        return float(values[-1]) if ends else torch.nan
    after = int(below[0])
    high, low = curve[after - 1], curve[after]
    return float(torch.lerp(values[after - 1], values[after], (high - level) / (high - low)))
