"""The geometry of the report's charts: where a value lies on an axis, and the outline of a band of curves.

Charts are drawn by the report's templates as inline SVG. Those that lie along one axis place their marks in
percent, so that they stretch with the page while text and dots keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minimand.study import numerals
from minimand.study.trial import CurvePoint

OUTLIER = 1000.0  # median absolute deviations from the median beyond which a value may fall off an axis
LOG_RATIO = 8.0  # positive values that span more than this are drawn on a logarithmic axis
LARGEST = 1e300  # what is larger could overflow in a difference

Curves = Sequence[Sequence[CurvePoint]]
Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A value marked on an axis."""

    value: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from ``low`` to ``high``; positions run from 0 to 100.

    >>> Scale(0.0, 10.0).at(2.5)
    25.0
    >>> round(Scale(1.0, 100.0, log=True).at(10.0), 9)
    50.0
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def of(
        cls, values: Iterable[float], always: Iterable[float] = (), log: bool = False, margin: float = 0.05
    ) -> Scale:
        """An axis on which ``values`` can be seen, with a margin.

        Values that are not finite, or near the largest float, don't count. A value so far off that all others
        would shrink to a dot is left off, unless it is among ``always``.
        """
        kept = np.array([v for v in values if abs(v) < LARGEST])
        wanted = [v for v in always if abs(v) < LARGEST]
        if len(kept):
            middle = float(np.median(kept))
            spread = float(np.median(np.abs(kept - middle)))
            if spread > 0.0:
                kept = kept[np.abs(kept - middle) <= OUTLIER * spread]
            wanted += [float(kept.min()), float(kept.max())]
        if not wanted:
            return cls(0.0, 1.0)
        low, high = min(wanted), max(wanted)
        if log and low > 0.0 and high / low >= LOG_RATIO:
            room = (high / low) ** margin
            return cls(low / room, high * room, log=True)
        room = margin * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room)

    def at(self, value: float) -> float:
        """The position of ``value``, held to the axis's ends."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100.0 * min(max(share, 0.0), 1.0), 3)

    def side(self, value: float) -> Literal["below", "on", "above"]:
        """Whether ``value`` lies on the axis, or off which of its ends."""
        return "below" if value < self.low else "above" if value > self.high else "on"

    def ticks(self, about: int = 5) -> list[Tick]:
        """Round values to mark, ``about`` so many, with as many digits as tell them apart.

        >>> [tick.label for tick in Scale(0.03, 0.98).ticks()]
        ['0.2', '0.4', '0.6', '0.8']
        >>> [tick.label for tick in Scale(0.5, 2000.0, log=True).ticks()]
        ['1', '10', '100', '1000']
        """
        if self.log:
            return [Tick(value, numerals.short(value)) for value in self._round_logs(about)]
        step = _round_step((self.high - self.low) / about)
        power = math.floor(math.log10(step))
        multiples = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        values = [value for k in multiples if self.side(value := float(f"{step * k:.15g}")) == "on"]
        largest = max(map(abs, values), default=1.0)
        if 1e-4 <= largest < 1e7:
            return [Tick(value, numerals.number(value, max(0, -power)) if value else "0") for value in values]
        digits = max(1, math.floor(math.log10(largest)) - power + 1)
        return [Tick(value, numerals.short(value, digits)) for value in values]

    def _round_logs(self, about: int) -> list[float]:
        """Powers of ten on a logarithmic axis; on a short one, three times them too."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        stride = max(1, round(len(powers) / about))
        tens = [10.0**power for power in powers if power % stride == 0]
        found = [value for value in tens if self.low <= value <= self.high]
        if len(found) >= 3:
            return found
        finer = [float(f"{k * ten:.15g}") for ten in tens for k in (1.0, 3.0)]
        return [value for value in finer if self.low <= value <= self.high]


@dataclass(frozen=True)
class Band:
    """Curves of several seeds as one: at each step the median and the middle 80% of the finite values."""

    steps: tuple[int, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, curves: Curves, what: Literal["loss", "metric"]) -> Band:
        """The band of ``what`` over ``curves``; steps that no seed reached are left out."""
        reached: dict[int, list[float]] = {}
        for point in (point for curve in curves for point in curve):
            value = getattr(point, what)
            if math.isfinite(value):
                reached.setdefault(point.step, []).append(value)
        steps = tuple(sorted(reached))
        quantiles = np.array([np.quantile(reached[step], [0.1, 0.5, 0.9]) for step in steps]).reshape(-1, 3)
        low, middle, high = (tuple(column.tolist()) for column in quantiles.T)
        return cls(steps, middle, low, high)


@dataclass(frozen=True)
class Plot:
    """A plot of ``width`` x ``height`` with its axes; y points up."""

    x: Scale
    y: Scale
    width: float
    height: float

    def point(self, x: float, y: float) -> Point:
        """Where (x, y) is drawn."""
        return round(self.width * self.x.at(x) / 100.0, 2), round(self.height * (1.0 - self.y.at(y) / 100.0), 2)

    def line(self, band: Band) -> str:
        """The SVG path of the band's median."""
        return _path([self.point(*pair) for pair in zip(band.steps, band.middle, strict=True)])

    def area(self, band: Band) -> str:
        """The SVG path around the band."""
        upper = [self.point(*pair) for pair in zip(band.steps, band.high, strict=True)]
        lower = [self.point(*pair) for pair in zip(band.steps, band.low, strict=True)]
        return _path(upper + lower[::-1]) + "Z" if upper else ""


def _path(points: Sequence[Point]) -> str:
    return "".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))


def _round_step(step: float) -> float:
    """The nearest of 1, 2 and 5 times a power of ten, as ratios go.

    >>> _round_step(0.13), _round_step(0.4), _round_step(800.0)
    (0.1, 0.5, 1000.0)
    """
    unit = 10.0 ** math.floor(math.log10(step))
    nearest = min((1.0, 2.0, 5.0, 10.0), key=lambda k: abs(math.log(k * unit / step)))
    return float(f"{nearest * unit:.15g}")
