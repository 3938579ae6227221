"""The rows of the table as their definitions print them, in mpmath: f, f(0), f'(inf)."""

import mpmath
import pytest
from mpmath import inf, log, mpf, sqrt

from minimand.divergences import (
    FDivergence,
    alpha,
    jeffreys,
    jensen_shannon,
    kl,
    neyman,
    pearson,
    reverse_kl,
    skew_js,
    skew_kl,
    softened_kl,
    softened_reverse_kl,
    squared_hellinger,
)


def power(a):
    a = mpf(a)
    return lambda t: (t**a - a * t + a - 1) / (a * (a - 1))


def skewed_jensen_shannon(b):
    b = mpf(b)
    return lambda t: b * t * log(t) - (b * t + 1 - b) * log(b * t + 1 - b)


def skewed_kl(b):
    b = mpf(b)
    return lambda t: t * log(t / (b * t + 1 - b)) - (1 - b) * (t - 1)


def triangular(p, q):
    return (p - q) ** 2 / (p + q)


SMOOTH = [
    (kl, lambda t: t * log(t) - t + 1, 1, inf),
    (reverse_kl, lambda t: -log(t) + t - 1, inf, 1),
    (jeffreys, lambda t: (t - 1) * log(t), inf, inf),
    (pearson, lambda t: (t - 1) ** 2, 1, inf),
    (neyman, lambda t: (t - 1) ** 2 / t, inf, 1),
    (squared_hellinger, lambda t: (sqrt(t) - 1) ** 2 / 2, 0.5, 0.5),
    (jensen_shannon, skewed_jensen_shannon(0.5), 0.5 * log(2), 0.5 * log(2)),
    (skew_js(0.1), skewed_jensen_shannon(0.1), -0.9 * log(0.9), -0.1 * log(0.1)),
    (skew_kl(0.3), skewed_kl(0.3), 0.7, -log(0.3) - 0.7),
    (softened_reverse_kl, lambda t: (t + 1) * log((t + 1) / (2 * t)) + t - 1, inf, 1 - log(2)),
    (softened_kl, lambda t: (t + 1) * log((t + 1) / 2) - t + 1, 1 - log(2), inf),
    (alpha(-2.0), power(-2), inf, mpf(1) / 3),
    (alpha(0.25), power(0.25), 4, mpf(4) / 3),
    (alpha(1 + 1e-9), power(1 + 1e-9), 1, inf),
    (alpha(1.5), power(1.5), mpf(2) / 3, inf),
    (alpha(3.0), power(3), mpf(1) / 3, inf),
    (2 * kl + pearson, lambda t: 2 * (t * log(t) - t + 1) + (t - 1) ** 2, 3, inf),
    (skew_kl(0.3).reversed(), lambda t: t * skewed_kl(0.3)(1 / t), -log(0.3) - 0.7, 0.7),
]
MADE_UP = FDivergence.from_terms("triangular", triangular)
DEFINITIONS = {str(divergence): f for divergence, f, *_ in SMOOTH}

every_row = pytest.mark.parametrize(("divergence", "f"), [row[:2] for row in SMOOTH], ids=list(DEFINITIONS))
every_smooth = pytest.mark.parametrize("divergence", [*(row[0] for row in SMOOTH), MADE_UP], ids=str)


def exact_forms(f, log_ratio):
    """f, f', f* at f', f'' r^2 and f'' at e^log_ratio, by mpmath's own differentiation."""
    with mpmath.workdps(80):
        t = mpmath.exp(mpf(log_ratio))
        value, slope, bend = (mpmath.diff(f, t, n, h=t * mpf(10) ** -25) for n in range(3))
        return {
            "f_log": value,
            "link": slope,
            "conjugate_of_link": t * slope - value,
            "weight": bend * t * t,
            "d2f_log": bend,
        }
