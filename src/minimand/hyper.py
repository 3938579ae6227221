"""The numbers a part takes: default, the range they may lie in, the range worth searching."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minimand._checks import is_concrete


@dataclass(frozen=True)
class Uniform:
    """Search evenly between ``low`` and ``high``."""

    low: float
    high: float

    def at(self, fraction: float) -> float:
        """The value at ``fraction`` in [0, 1] of the range."""
        return self.low + fraction * (self.high - self.low)

    def fraction(self, value: float) -> float:
        """Where in the range a value lies, in [0, 1]; one outside lies at the nearer end.

        >>> Uniform(2.0, 4.0).fraction(3.0)
        0.5
        """
        return _within((value - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class LogUniform:
    """Search evenly in the logarithm between ``low`` > 0 and ``high``.

    >>> round(LogUniform(1e-4, 1e-2).at(0.5), 12)
    0.001
    """

    low: float
    high: float

    def at(self, fraction: float) -> float:
        """The value at ``fraction`` in [0, 1] of the range."""
        return math.exp(math.log(self.low) + fraction * (math.log(self.high) - math.log(self.low)))

    def fraction(self, value: float) -> float:
        """Where in the range a value lies, in [0, 1]; one outside lies at the nearer end.

        >>> round(LogUniform(1e-4, 1e-2).fraction(1e-3), 12), LogUniform(1e-4, 1e-2).fraction(0.0)
        (0.5, 0.0)
        """
        if value <= self.low:
            return 0.0
        return _within(math.log(value / self.low) / math.log(self.high / self.low))


@dataclass(frozen=True)
class HyperSpec:
    """One number that a part takes.

    ``closed`` says which ends of [low, high] belong to the range. ``search`` is what a study tunes over;
    None keeps the default.

    >>> HyperSpec(0.9, low=0.0, high=1.0, closed="left").range
    '[0, 1)'
    """

    default: float
    low: float = -math.inf
    high: float = math.inf
    closed: Literal["both", "left", "right", "neither"] = "both"
    search: Uniform | LogUniform | None = None

    @property
    def range(self) -> str:
        """The range in interval notation."""
        left = "[" if self.closed in ("both", "left") and math.isfinite(self.low) else "("
        right = "]" if self.closed in ("both", "right") and math.isfinite(self.high) else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies in the range; NaN never does."""
        above = value >= self.low if self.closed in ("both", "left") else value > self.low
        below = value <= self.high if self.closed in ("both", "right") else value < self.high
        return above and below

    def check(self, name: str, value: float | Tensor) -> None:
        """Raise ValueError naming the hyper, what came and its range.

        Tensors are checked where their values can be seen: not while compiling, nor under ``vmap``.
        """
        if isinstance(value, Tensor):
            if not is_concrete(value):
                return
            bad = [v for v in value.detach().reshape(-1).tolist() if not self.contains(v)]
            if bad:
                raise ValueError(f"{name} must lie in {self.range}; got {bad[0]:g}")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number in {self.range}; got {type(value).__name__}")
        elif not self.contains(value):
            raise ValueError(f"{name} must lie in {self.range}; got {value:g}")


def _within(fraction: float) -> float:
    return min(1.0, max(0.0, fraction))


def as_hyper(value: float | Tensor) -> Tensor:
    """A hyper as rules take it: a float64 tensor, 0-d unless it carries leading trial dimensions."""
    return torch.as_tensor(value, dtype=torch.float64)
