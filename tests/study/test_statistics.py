"""Oracles: SciPy's tests and intervals, all subsets of hypotheses, and simulations with a planted truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from minimand.study.statistics import (
    Interval,
    PairedDifference,
    holm,
    interquartile_mean,
    interval,
    mean,
    paired_comparison,
    seeds_needed,
    smallest_p,
    verdict,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# intervals


def coverage(seeds: int, repetitions: int = 2000) -> float:
    """How often the interval of normal values holds their true mean."""
    found = [interval(values, resamples=2000).contains(0.0) for values in normal(1, repetitions, seeds)]
    return float(np.mean(found))


def test_interval_of_ten_normal_values_covers_the_mean_95_times_in_100() -> None:
    assert 0.935 <= coverage(10) <= 0.965  # standard error 0.005


def test_interval_of_six_normal_values_covers_the_mean_nearly_as_often() -> None:
    assert 0.92 <= coverage(6) <= 0.965


def test_plain_percentile_interval_would_undercover() -> None:
    """What the expansion is for: SciPy's percentile bootstrap on the same values."""
    held = []
    for values in normal(1, 400, 10):
        plain = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=1000, rng=0).confidence_interval
        held.append(plain.low <= 0.0 <= plain.high)
    assert np.mean(held) < 0.93


def test_interval_is_about_students_for_normal_values() -> None:
    values = normal(2, 30)
    ours = interval(values)
    students = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    width = students[1] - students[0]
    assert abs(ours.low - students[0]) < 0.05 * width
    assert abs(ours.high - students[1]) < 0.05 * width


def test_interval_follows_skew_where_students_cannot() -> None:
    values = np.exp(1.5 * normal(3, 20))
    ours, centre = interval(values), values.mean()
    assert ours.high - centre > 1.2 * (centre - ours.low)


def test_interval_of_the_interquartile_mean_agrees_with_scipys_bootstrap_of_it_in_large_samples() -> None:
    values = normal(4, 200)
    ours = interval(values, statistic=interquartile_mean)
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=1
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_interval_is_a_function_of_its_arguments() -> None:
    assert interval(normal(5, 10)) == interval(normal(5, 10))
    assert interval(normal(5, 10), seed=1) != interval(normal(5, 10))


def test_interval_widens_with_the_level() -> None:
    values = normal(6, 10)
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_of_one_value_is_infinite() -> None:
    assert interval([2.0]) == Interval(-math.inf, math.inf)


def test_interval_of_two_values_is_their_range() -> None:
    assert interval([1.0, 2.0]) == Interval(1.0, 2.0)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12),
    st.floats(-1e3, 1e3),
    st.floats(0.125, 8.0),
)
@settings(max_examples=50, deadline=None)
def test_interval_moves_and_scales_with_the_values(values: list[float], shift: float, scale: float) -> None:
    scores = np.array(values)
    before, after = interval(scores, resamples=200), interval(shift + scale * scores, resamples=200)
    assert after.low == pytest.approx(shift + scale * before.low, abs=1e-6)
    assert after.high == pytest.approx(shift + scale * before.high, abs=1e-6)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_interval_refuses_what_is_not_a_finite_vector(bad: list) -> None:
    with pytest.raises(ValueError, match="values must"):
        interval(bad)


def test_interval_refuses_a_level_outside_0_and_1() -> None:
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\); got 95"):
        interval([1.0, 2.0], level=95)


# means


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 10, 13, 100])
def test_interquartile_mean_is_scipys_trimmed_mean(count: int) -> None:
    values = normal(count, count)
    assert float(interquartile_mean(values)) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_interquartile_mean_takes_any_axis() -> None:
    values = normal(7, 10, 3)
    np.testing.assert_allclose(interquartile_mean(values, axis=0), stats.trim_mean(values, 0.25, axis=0), rtol=1e-12)


def test_mean_is_numpys() -> None:
    values = normal(8, 4, 5)
    np.testing.assert_array_equal(mean(values, axis=0), values.mean(axis=0))


# paired comparison


def scipy_sign_flip_p(difference: np.ndarray) -> float:
    """SciPy's exact permutation test: with one paired sample its permutations are the sign flips."""
    test = stats.permutation_test(
        (difference, np.zeros_like(difference)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**20,  # more than there are patterns: SciPy then enumerates them
    )
    return float(test.pvalue)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 10, 12])
@pytest.mark.parametrize("shift", [0.0, 0.7, -2.0])
def test_p_value_is_scipys_exact_sign_flip_test(count: int, shift: float) -> None:
    method, baseline = shift + normal(count, count), normal(count + 100, count)
    ours = paired_comparison(method, baseline, higher_is_better=True).p_value
    assert ours == pytest.approx(scipy_sign_flip_p(method - baseline), abs=1e-12)


def test_p_value_counts_patterns_that_tie_but_for_rounding() -> None:
    """0.1 + 0.2 and 0.3 differ in the last bit; as tenths the differences 1, 2, 3 give p = 2/8."""
    difference = np.array([0.1, 0.2, -0.3, 0.3])
    exact = scipy_sign_flip_p(np.array([1.0, 2.0, -3.0, 3.0]))
    assert paired_comparison(difference, np.zeros(4), higher_is_better=True).p_value == exact


def test_p_value_with_many_seeds_is_close_to_the_exact_one() -> None:
    """17 seeds: 2^17 patterns, enumerated by SciPy, 2^16 drawn here; standard error at p = 0.1 is 0.0012."""
    method, baseline = 0.5 + normal(1, 17), normal(2, 17)
    ours = paired_comparison(method, baseline, higher_is_better=True).p_value
    assert ours == pytest.approx(scipy_sign_flip_p(method - baseline), abs=0.005)


def test_p_value_with_many_seeds_is_never_zero() -> None:
    p = paired_comparison(np.arange(40) + 1.0, np.zeros(40), higher_is_better=True).p_value
    assert p == smallest_p(40) == 1 / 65537


def test_no_difference_anywhere_gives_p_one_and_an_interval_at_zero() -> None:
    same = normal(3, 10)
    assert paired_comparison(same, same, higher_is_better=True) == PairedDifference(0.0, Interval(0.0, 0.0), 1.0)


def test_seeds_without_a_difference_weigh_neither_way() -> None:
    """Flipping a zero changes nothing: with k others p is that of k seeds."""
    difference = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert paired_comparison(difference, np.zeros(8), higher_is_better=True).p_value == 2 / 2**6


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_positive_means_better(higher_is_better: bool) -> None:
    high, low = 2.0 + normal(4, 10), normal(5, 10)
    good, bad = (high, low) if higher_is_better else (low, high)
    found = paired_comparison(good, bad, higher_is_better)
    assert found.mean > 0
    assert found.interval.low > 0


def test_difference_interval_is_the_interval_of_the_differences() -> None:
    method, baseline = normal(6, 10), normal(7, 10)
    found = paired_comparison(method, baseline, higher_is_better=True)
    assert found.interval == interval(method - baseline)
    assert found.mean == pytest.approx((method - baseline).mean(), rel=1e-15)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10), st.lists(st.floats(-1e6, 1e6), min_size=10, max_size=10)
)
@settings(max_examples=60, deadline=None)
def test_swapping_method_and_baseline_turns_the_difference_round(first: list[float], second: list[float]) -> None:
    a, b = np.array(first), np.array(second[: len(first)])
    forth, back = paired_comparison(a, b, True), paired_comparison(b, a, True)
    assert forth.mean == -back.mean
    assert forth.p_value == back.p_value
    assert smallest_p(len(a)) <= forth.p_value <= 1.0


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_differences_of_any_size_are_compared(size: float) -> None:
    difference = size * np.array([1.0, 2.0, -0.5, 3.0, 1.0, 2.0])
    assert paired_comparison(difference, np.zeros(6), True).p_value == scipy_sign_flip_p(difference / size)


def test_scores_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="method_scores must be finite; got nan at position 1"):
        paired_comparison([1.0, math.nan], [1.0, 2.0], True)
    with pytest.raises(ValueError, match="baseline_scores must be finite; got inf at position 0"):
        paired_comparison([1.0, 2.0], [math.inf, 2.0], True)


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="one score for each of the 3 method_scores; got 2"):
        paired_comparison([1.0, 2.0, 3.0], [1.0, 2.0], True)


# several comparisons


@pytest.mark.parametrize("comparisons", [1, 2, 3, 5, 12])
def test_holm_is_closed_testing_by_bonferroni(comparisons: int) -> None:
    """A hypothesis is rejected where every set of hypotheses that it is in is, at its smallest p times its size."""
    for p_values in np.random.default_rng(comparisons).uniform(0.0, 0.3, size=(3, comparisons)).round(2):  # with ties
        adjusted = np.zeros(comparisons)
        for size in range(1, comparisons + 1):
            for chosen in itertools.combinations(range(comparisons), size):
                joint = min(1.0, size * min(p_values[i] for i in chosen))
                adjusted[list(chosen)] = np.maximum(adjusted[list(chosen)], joint)
        np.testing.assert_allclose(holm(p_values), adjusted, rtol=1e-12, atol=0.0)


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [math.nan]])
def test_holm_refuses_what_is_no_probability(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"p_values must lie in \[0, 1\]"):
        holm(bad)


def test_smallest_p_is_reached_when_every_seed_agrees() -> None:
    for seeds in range(1, 13):
        assert paired_comparison(np.ones(seeds), np.zeros(seeds), True).p_value == smallest_p(seeds)


def test_fewer_than_six_seeds_resolve_nothing() -> None:
    assert smallest_p(5) > 0.05 > smallest_p(6)
    assert seeds_needed(1) == 6


@pytest.mark.parametrize("comparisons", [1, 2, 3, 5, 20, 500])
def test_seeds_needed_is_the_first_count_that_passes_holm(comparisons: int) -> None:
    def clearest(seeds: int) -> float:
        return holm([smallest_p(seeds)] + [1.0] * (comparisons - 1))[0]

    needed = seeds_needed(comparisons)
    assert clearest(needed) < 0.05 <= clearest(needed - 1)


# verdicts


@pytest.mark.parametrize(
    ("low", "high", "p", "word"),
    [
        (0.1, 0.3, 0.049, "better"),
        (-0.3, -0.1, 0.049, "worse"),
        (0.1, 0.3, 0.05, "undecided"),
        (-0.1, 0.5, 0.001, "undecided"),
        (0.0, 0.4, 0.001, "undecided"),
    ],
)
def test_verdict_needs_both_the_test_and_the_interval(low: float, high: float, p: float, word: str) -> None:
    assert verdict(PairedDifference((low + high) / 2, Interval(low, high), p), p) == word


def verdicts(gap: float, repetitions: int, seeds: int = 10) -> list[str]:
    """Verdicts on two methods whose scores differ by ``gap`` and by independent noise of size 1 each."""
    words = []
    for method, baseline in zip(gap + normal(11, repetitions, seeds), normal(12, repetitions, seeds), strict=True):
        found = paired_comparison(method, baseline, higher_is_better=True)
        words.append(verdict(found, float(holm([found.p_value])[0])))
    return words


def test_two_identical_methods_are_undecided_in_95_of_100_simulated_studies() -> None:
    """The error allowed for is two standard errors of a share of 1000."""
    assert verdicts(0.0, repetitions=1000).count("undecided") >= 950 - 14


@pytest.mark.parametrize("spread", ["normal", "one_large", "tied"])
def test_two_identical_methods_are_undecided_in_at_least_95_of_100_studies_whatever_the_noise(spread: str) -> None:
    """Exactly, not by simulation: alike methods make every sign pattern of the differences equally likely."""
    sizes = {
        "normal": np.abs(normal(14, 10)),
        "one_large": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1000.0]),
        "tied": np.array([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0]),
    }[spread]
    undecided = 0
    for signs in itertools.product([-1.0, 1.0], repeat=10):
        found = paired_comparison(np.array(signs) * sizes, np.zeros(10), higher_is_better=True)
        undecided += verdict(found, found.p_value) == "undecided"
    assert undecided >= 0.95 * 2**10


def test_a_known_difference_is_found() -> None:
    """Two standard deviations of noise: the t-test of 10 pairs finds it in 98 of 100."""
    words = verdicts(2.0, repetitions=200)
    assert words.count("better") >= 190
    assert words.count("worse") == 0


def test_five_identical_rivals_raise_a_false_alarm_in_at_most_5_of_100_studies() -> None:
    alarms = 0
    for scores in normal(13, 300, 6, 10):
        found = [paired_comparison(rival, scores[0], True) for rival in scores[1:]]
        corrected = holm([f.p_value for f in found])
        alarms += any(verdict(f, float(p)) != "undecided" for f, p in zip(found, corrected, strict=True))
    assert alarms <= 21  # 15 expected at most, and two standard errors
