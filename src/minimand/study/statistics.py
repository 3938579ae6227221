"""What a handful of seeds can tell: intervals, paired comparisons, and one word for the outcome.

Everything here is a pure function of scores, one per training seed. Scores of different methods are paired by
seed: they share the split, the batch order and, where shapes agree, the initial weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from minimand._checks import check_count

Verdict = Literal["better", "worse", "undecided"]
Floats = NDArray[np.float64]

EXACT_SEEDS = 16  # all 2^16 sign patterns are enumerated up to here; beyond, as many are drawn
PATTERNS = 2**EXACT_SEEDS


class Statistic(Protocol):
    """A number that summarises values along an axis, as ``numpy.mean`` does."""

    def __call__(self, values: Floats, /, *, axis: int) -> Floats:
        """The summary of ``values`` along ``axis``."""
        ...


@dataclass(frozen=True)
class Interval:
    """A confidence interval, ends included.

    >>> Interval(-1.0, 2.0).contains(0.0)
    True
    """

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies between the ends."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedDifference:
    """Mean over seeds of method minus baseline, oriented so that positive means the method is better."""

    mean: float
    interval: Interval
    p_value: float


def mean(values: ArrayLike, /, *, axis: int = -1) -> Floats:
    """The arithmetic mean along ``axis``.

    >>> float(mean([1.0, 2.0, 6.0]))
    3.0
    """
    return np.mean(np.asarray(values, dtype=np.float64), axis=axis)


def interquartile_mean(values: ArrayLike, /, *, axis: int = -1) -> Floats:
    """The mean of the middle half: the lowest and highest floor(n / 4) values are dropped.

    One runaway seed moves it little, and it wastes fewer seeds than the median.
    Source: Agarwal et al. (2021), arXiv:2108.13264, section 4.3.

    >>> float(interquartile_mean([0.0, 2.0, 4.0, 1000.0]))
    3.0
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    return np.take(ordered, np.arange(cut, count - cut), axis=axis).mean(axis=axis)


def interval(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    statistic: Statistic = mean,
) -> Interval:
    """Bootstrap interval over seeds for ``statistic`` of ``values`` (n,).

    The values are resampled with replacement and the statistic's quantiles at a' and 1 - a' are the ends, with

        a' = Phi(-sqrt(n / (n - 1)) t_{alpha / 2, n - 1}),   alpha = 1 - level,

    which makes up for what the plain percentile interval (a' = alpha / 2) lacks with few values: it is too short
    by sqrt((n - 1) / n), and by a normal where a t quantile is due. Of normal values it covers the mean in 95% of
    cases at n = 10 and 93% at n = 5, where the plain one covers 92% and 85%. No resample leaves the range of the
    values, so below five the level is out of reach, and one value says nothing: its interval is infinite.

    The same ``seed`` draws the same resamples, so the result is a function of the arguments.
    ValueError for values that are not finite or not of shape (n,) with n >= 1.

    Source: Hesterberg (2015), arXiv:1411.5279, the expanded percentile interval; the bootstrap over
    seeds as in Agarwal et al. (2021), arXiv:2108.13264.

    >>> interval([3.0, 3.0, 3.0])
    Interval(low=3.0, high=3.0)
    >>> interval([3.0])
    Interval(low=-inf, high=inf)
    """
    scores = _scores("values", values)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1); got {level:g}")
    check_count("resamples", resamples)
    count = len(scores)
    if count == 1:
        return Interval(-math.inf, math.inf)
    quantile = stdtrit(count - 1, 1.0 - (1.0 - level) / 2.0)
    tail = float(ndtr(-math.sqrt(count / (count - 1)) * quantile))
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    low, high = np.quantile(statistic(scores[drawn], axis=-1), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def paired_comparison(method_scores: ArrayLike, baseline_scores: ArrayLike, higher_is_better: bool) -> PairedDifference:
    """How much better a method is than the baseline, from scores (n,) paired by seed.

    The p-value is that of the two-sided sign-flip permutation test: if the two were alike, each seed's difference
    d_i would as well have come with the other sign, so

        p = share of sign patterns s in {-1, 1}^n with |sum_i s_i d_i| >= |sum_i d_i|.

    Up to n = 16 all 2^n patterns count; beyond, 2^16 drawn ones, with one added to both sides of the share so
    that p is never 0 (Phipson and Smyth, 2010). No difference at all gives p = 1. The interval is
    :func:`interval` of the differences.

    ValueError for scores that are not finite or not of one shape (n,) with n >= 1.
    Source: Fisher (1935), The Design of Experiments, section 21.

    >>> paired_comparison([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], higher_is_better=True)
    PairedDifference(mean=1.0, interval=Interval(low=1.0, high=1.0), p_value=0.25)
    """
    method = _scores("method_scores", method_scores)
    baseline = _scores("baseline_scores", baseline_scores)
    if method.shape != baseline.shape:
        raise ValueError(
            f"baseline_scores must have one score for each of the {len(method)} method_scores; got {len(baseline)}"
        )
    sign = 1.0 if higher_is_better else -1.0
    difference = _scores("method_scores - baseline_scores", sign * (method - baseline))
    return PairedDifference(float(difference.mean()), interval(difference), _sign_flip_p(difference))


def smallest_p(seeds: int) -> float:
    """The smallest p-value that :func:`paired_comparison` can give: 2 / 2^n for n seeds, up to 16.

    >>> smallest_p(5), smallest_p(6)
    (0.0625, 0.03125)
    """
    check_count("seeds", seeds)
    if seeds > EXACT_SEEDS:
        return 1.0 / (PATTERNS + 1)
    return 2.0 / 2**seeds


def seeds_needed(comparisons: int, alpha: float = 0.05) -> int:
    """The fewest seeds with which the clearest of ``comparisons`` could pass :func:`holm` at ``alpha``.

    >>> seeds_needed(1), seeds_needed(5)
    (6, 8)
    """
    check_count("comparisons", comparisons)
    return next(
        (seeds for seeds in range(1, EXACT_SEEDS + 1) if comparisons * smallest_p(seeds) < alpha), EXACT_SEEDS + 1
    )


def holm(p_values: Sequence[float] | ArrayLike) -> Floats:
    """P-values (m,) corrected for there being m of them, in the given order.

    In ascending order p_(1) <= ... <= p_(m) the corrected value is max_{j <= i} min(1, (m - j + 1) p_(j)). Calling
    those under alpha significant keeps the chance of even one false call under alpha.
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have shape (m,); got {p.shape}")
    if not np.all((p >= 0.0) & (p <= 1.0)):
        raise ValueError(f"p_values must lie in [0, 1]; got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    ascending = np.minimum(1.0, np.arange(len(p), 0, -1) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(ascending)
    return corrected


def verdict(difference: PairedDifference, corrected_p: float, alpha: float = 0.05) -> Verdict:
    """One word: "better" or "worse" where the test and the interval both say so, else "undecided".

    >>> verdict(PairedDifference(0.2, Interval(0.1, 0.3), 0.002), corrected_p=0.004)
    'better'
    >>> verdict(PairedDifference(0.2, Interval(-0.1, 0.5), 0.002), corrected_p=0.004)
    'undecided'
    """
    if corrected_p >= alpha or difference.interval.contains(0.0):
        return "undecided"
    return "better" if difference.mean > 0.0 else "worse"


def _scores(name: str, values: ArrayLike) -> Floats:
    """Scores (n,), n >= 1, all finite, or ValueError."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1; got {scores.shape}")
    finite = np.isfinite(scores)
    if not finite.all():
        where = int(np.argmin(finite))
        raise ValueError(f"{name} must be finite; got {scores[where]} at position {where}")
    return scores


def _sign_flip_p(difference: Floats) -> float:
    """The two-sided p-value of the sign-flip test on differences (n,)."""
    count = len(difference)
    size = float(np.abs(difference).max())
    if size == 0.0:
        return 1.0
    difference = difference / size
    # Patterns that tie with the observed one in exact arithmetic may differ by rounding: they must count.
    least = abs(float(difference.sum())) - 1e-12 * float(np.abs(difference).sum())
    if count <= EXACT_SEEDS:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float(np.mean(np.abs((1.0 - 2.0 * bits) @ difference) >= least))
    bits = np.random.default_rng(0).integers(2, size=(PATTERNS, count))
    reached = int(np.sum(np.abs((1.0 - 2.0 * bits) @ difference) >= least))
    return (reached + 1) / (PATTERNS + 1)
