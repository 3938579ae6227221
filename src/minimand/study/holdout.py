"""Holdouts that can be asked again and again: mechanisms between an analyst and the rows that keep him honest.

A query is a function of rows with one value a row; its answer is an estimate of its mean over the distribution that
the rows came from. An analyst who chooses a query by the answers to earlier ones overfits a plain holdout just as he
would a training set. Noise on the answers (:class:`GaussianHoldout`), or no answer at all as long as the training
rows say the same (:class:`Thresholdout`), keeps them valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

import torch

from minimand._checks import check_choice, check_count
from minimand.source import Source

Rows = TypeVar("Rows")
Noise = Literal["laplace", "gaussian"]

ADAPTIVE = Source("Preserving Statistical Validity in Adaptive Data Analysis", "Dwork et al.", 2014, "1411.2664")


class BudgetExhausted(Exception):
    """The holdout has given all the answers that it may give; only fresh rows can say more."""


class EmpiricalHoldout(Generic[Rows]):
    """The plain holdout: the mean of the query over the rows, as often as it is asked.

    answer = mean_S phi

    Args:
        holdout: the rows, in whatever form the queries take them.
        bounds: what every value of a query must lie in.

    >>> EmpiricalHoldout(torch.tensor([0.0, 1.0, 1.0, 1.0])).answer(lambda rows: rows)
    0.75
    """

    def __init__(self, holdout: Rows, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        self.holdout = holdout
        self.bounds = _checked_bounds(bounds)

    @property
    def remaining(self) -> None:
        """None: nothing is counted."""
        return None

    def answer(self, query: Callable[[Rows], Any]) -> float:
        """The mean of ``query(holdout)``, whose values (N,) must lie in the bounds."""
        return _mean(query(self.holdout), self.bounds)


class GaussianHoldout(Generic[Rows]):
    """A holdout whose every answer carries Gaussian noise, for a fixed number of answers.

    answer = mean_S phi + N(0, sigma^2)

    The noise makes the answers differentially private, and private answers generalise: of ``n`` rows about ``n^2``
    adaptively chosen queries can be answered to a fixed accuracy, against ``n`` without noise, up to logarithms.

    Args:
        holdout: the rows, in whatever form the queries take them.
        sigma: the noise's standard deviation, in the query's units. 0 gives the plain holdout.
        max_queries: how many answers there are.
        bounds: what every value of a query must lie in. The privacy of an answer, and with it the guarantee, falls
            with (high - low) / (sigma n).
        generator: where the noise comes from; torch's default unless given.

    Source: Dwork et al. (2014), arXiv:1411.2664, which answers through any private mechanism; this is the Gaussian
    one.

    >>> holdout = GaussianHoldout(torch.tensor([0.0, 1.0, 1.0, 1.0]), sigma=0.0, max_queries=3)
    >>> holdout.answer(lambda rows: rows), holdout.remaining
    (0.75, 2)
    """

    source = ADAPTIVE

    def __init__(
        self,
        holdout: Rows,
        sigma: float,
        max_queries: int,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        self.holdout = holdout
        self.sigma = _scale("sigma", sigma)
        self.bounds = _checked_bounds(bounds)
        self.generator = generator
        self._remaining = check_count("max_queries", max_queries, least=0)

    @property
    def remaining(self) -> int:
        """How many answers are left."""
        return self._remaining

    def answer(self, query: Callable[[Rows], Any]) -> float:
        """The mean of ``query(holdout)`` with noise; BudgetExhausted after ``max_queries`` of them.

        ``query`` returns values (N,) within the bounds; ValueError for others, which costs no answer.
        """
        if self._remaining < 1:
            raise BudgetExhausted("max_queries answers have been given")
        mean = _mean(query(self.holdout), self.bounds)
        self._remaining -= 1
        return mean + float(normal(self.sigma, (), self.generator))


class Thresholdout(Generic[Rows]):
    """The reusable holdout: it speaks only where the training rows are wrong, and then with noise.

    With means E_t over the training rows and E_h over the holdout, a query phi is answered by

        E_h phi + xi, xi ~ Lap(sigma)    if |E_h phi - E_t phi| > T + gamma + eta, eta ~ Lap(4 sigma)
        E_t phi                          otherwise

    where gamma ~ Lap(2 sigma) is drawn at the start and again after every answer of the first kind, the only kind
    that spends budget. ``Lap(b)`` has density exp(-|x| / b) / 2b and standard deviation sqrt(2) b. Once the budget
    is spent nothing is answered any more.

    Args:
        train: the rows that the analyst has anyway.
        holdout: the rows to be kept valid, in the same form.
        threshold: T, in the query's units.
        sigma: the noise's scale, in the query's units. 0 compares and answers exactly.
        budget: how many answers may draw on the holdout; None for any number, which guarantees nothing in the end.
        noise: "laplace", or "gaussian": eta and xi ~ N(0, sigma^2) and gamma = 0, as in the program of the published
            experiment, whose text has Laplace noise.
        bounds: what every value of a query must lie in. The theory is for [0, 1]; over a wider range the same
            ``sigma`` protects less, by the factor high - low.
        generator: where the noise comes from; torch's default unless given.

    Source: Dwork et al. (2015), arXiv:1506.02629, section 4, the practical form of arXiv:1411.2664. For accuracy tau
    it sets T = 3 tau / 4; the values here are those of its experiments with 10,000 rows.

    >>> train, holdout = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    >>> asked = Thresholdout(train, holdout, threshold=0.04, sigma=0.0, budget=2)
    >>> asked.answer(lambda rows: rows), asked.remaining  # they differ: the holdout's mean, and one answer less
    (0.25, 1)
    >>> asked.answer(lambda rows: 0 * rows + 0.5), asked.remaining
    (0.5, 1)
    """

    source = ADAPTIVE

    def __init__(
        self,
        train: Rows,
        holdout: Rows,
        threshold: float = 0.04,
        sigma: float = 0.01,
        budget: int | None = None,
        noise: Noise = "laplace",
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("noise", noise, ("laplace", "gaussian"))
        self.train, self.holdout = train, holdout
        self.threshold = _scale("threshold", threshold)
        self.sigma = _scale("sigma", sigma)
        self.noise: Noise = noise
        self.bounds = _checked_bounds(bounds)
        self.generator = generator
        self._remaining = None if budget is None else check_count("budget", budget, least=0)
        self._gamma = self._draw_gamma()

    @property
    def remaining(self) -> int | None:
        """How many more answers may draw on the holdout; None where that is not limited."""
        return self._remaining

    def answer(self, query: Callable[[Rows], Any]) -> float:
        """An estimate of the query's mean; BudgetExhausted once the budget is spent.

        ``query`` is called with the training rows and with the holdout, and returns values (N,) within the bounds,
        or one value; ValueError for others, which costs nothing.
        """
        if self._remaining is not None and self._remaining < 1:
            raise BudgetExhausted("budget is spent: the holdout gives no more answers")
        trained, held = _mean(query(self.train), self.bounds), _mean(query(self.holdout), self.bounds)
        if abs(held - trained) <= self.threshold + self._gamma + self._draw(4.0):
            return trained
        if self._remaining is not None:
            self._remaining -= 1
        answer = held + self._draw(1.0)
        self._gamma = self._draw_gamma()
        return answer

    def state_dict(self) -> dict[str, Any]:
        """All that answers to come depend on: the remaining budget, gamma, and a generator of its own if it has one."""
        generator = None if self.generator is None else self.generator.get_state()
        return {"remaining": self._remaining, "gamma": self._gamma, "generator": generator}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the mechanism that gave ``state`` stood."""
        if (state["generator"] is None) != (self.generator is None):
            raise ValueError("state must come from a mechanism that has a generator of its own if this one has")
        self._remaining, self._gamma = state["remaining"], float(state["gamma"])
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _draw(self, multiple: float) -> float:
        if self.noise == "gaussian":
            return float(normal(self.sigma, (), self.generator))
        return float(laplace(multiple * self.sigma, (), self.generator))

    def _draw_gamma(self) -> float:
        return 0.0 if self.noise == "gaussian" else self._draw(2.0)


def laplace(scale: float, shape: tuple[int, ...], generator: torch.Generator | None = None) -> torch.Tensor:
    """Draws from Lap(scale): the difference of two exponential variables of that mean."""
    drawn = torch.empty(2, *shape, dtype=torch.float64).exponential_(generator=generator)
    return scale * (drawn[0] - drawn[1])


def normal(sigma: float, shape: tuple[int, ...], generator: torch.Generator | None = None) -> torch.Tensor:
    """Draws from N(0, sigma^2)."""
    return sigma * torch.randn(shape, dtype=torch.float64, generator=generator)


def _mean(values: Any, bounds: tuple[float, float]) -> float:
    """The mean of a query's values; ValueError where one of them is none or out of bounds."""
    found = torch.as_tensor(values, dtype=torch.float64).detach()
    if found.numel() == 0:
        raise ValueError("query must return a value a row; got none")
    low, high = bounds
    inside = (found >= low) & (found <= high)
    if not bool(inside.all()):
        strange = float(found[~inside].flatten()[0])
        raise ValueError(
            f"query must return values in [{low:g}, {high:g}]; got {strange:g}. Give bounds if it has others"
        )
    return float(found.mean())


def _scale(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} must be a finite number of at least 0; got {value}")
    return float(value)


def _checked_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(bound) for bound in bounds)
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high; got ({low:g}, {high:g})")
    return low, high
