"""f-divergences against values and derivations that share no code with them.

Golden numbers: direct sums, one-dimensional optimisation (duals) and SLSQP (balls) in float64, computed apart.
"""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from minimand import divergences as d
from minimand.divergences import FDivergence, alpha, cvar, f_divergence, skew_js, skew_kl

P, Q = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]
X = [1.0, 2.0, 4.0]


def t64(values):
    return torch.tensor(values, dtype=torch.float64)


# f(t), written out as in the literature, in plain numbers.
TABLE = {
    "kl": (d.kl, lambda t: t * math.log(t) - t + 1),
    "reverse_kl": (d.reverse_kl, lambda t: -math.log(t) + t - 1),
    "jeffreys": (d.jeffreys, lambda t: (t - 1) * math.log(t)),
    "pearson": (d.pearson, lambda t: (t - 1) ** 2),
    "neyman": (d.neyman, lambda t: (t - 1) ** 2 / t),
    "squared_hellinger": (d.squared_hellinger, lambda t: 0.5 * (math.sqrt(t) - 1) ** 2),
    "jensen_shannon": (
        d.jensen_shannon,
        lambda t: 0.5 * t * math.log(t) - 0.5 * (t + 1) * math.log((t + 1) / 2),
    ),
    "skew_js": (skew_js(0.3), lambda t: 0.3 * t * math.log(t) - (0.3 * t + 0.7) * math.log(0.3 * t + 0.7)),
    "skew_kl": (skew_kl(0.3), lambda t: t * math.log(t / (0.3 * t + 0.7)) - 0.7 * (t - 1)),
    "softened_reverse_kl": (d.softened_reverse_kl, lambda t: (t + 1) * math.log((t + 1) / (2 * t)) + t - 1),
    "softened_kl": (d.softened_kl, lambda t: (t + 1) * math.log((t + 1) / 2) - (t - 1)),
    "alpha(-2)": (alpha(-2.0), lambda t: (t**-2 + 2 * t - 3) / 6),
    "alpha(0.25)": (alpha(0.25), lambda t: (t**0.25 - 0.25 * t - 0.75) / (0.25 * -0.75)),
    "alpha(1.5)": (alpha(1.5), lambda t: (t**1.5 - 1.5 * t + 0.5) / 0.75),
    "alpha(3)": (alpha(3.0), lambda t: (t**3 - 3 * t + 2) / 6),
}
RATIOS = (0.05, 0.3, 0.9, 1.7, 6.0)
by_name = pytest.mark.parametrize("name", TABLE)


@by_name
def test_f_is_the_literatures(name):
    divergence, f = TABLE[name]
    for t in RATIOS:
        assert divergence.f(t64(t)).item() == pytest.approx(f(t), rel=1e-10, abs=1e-14)


@by_name
def test_first_and_second_derivatives_are_finite_differences(name):
    divergence, f = TABLE[name]
    for t in RATIOS:
        step = 1e-4 * t
        first = (f(t + step) - f(t - step)) / (2 * step)
        second = (f(t + step) - 2 * f(t) + f(t - step)) / step**2
        assert divergence.df(t64(t)).item() == pytest.approx(first, rel=1e-6, abs=1e-6)
        assert divergence.d2f(t64(t)).item() == pytest.approx(second, rel=1e-4)
        assert divergence.weight(t64(math.log(t))).item() == pytest.approx(second * t * t, rel=1e-4)


@by_name
def test_conjugate_is_the_supremum(name):
    divergence, f = TABLE[name]
    for slope in (-3.0, -0.8, -0.2, 0.05, 0.2):
        if slope >= divergence.df_at_infinity:
            continue
        found = optimize.minimize_scalar(
            lambda v, u=slope: f(math.exp(v)) - u * math.exp(v), bounds=(-30, 30), options={"xatol": 1e-12}
        )
        supremum = max(-found.fun, -divergence.f_at_zero)
        assert divergence.conjugate(t64(slope)).item() == pytest.approx(supremum, rel=1e-8, abs=1e-9)


@by_name
def test_inverse_link_undoes_the_link(name):
    divergence, _ = TABLE[name]
    log_ratio = t64([-2.5, -0.3, 0.0, 0.4, 2.0])
    torch.testing.assert_close(divergence.inverse_link(divergence.link(log_ratio)), log_ratio, rtol=1e-9, atol=1e-9)


@by_name
def test_conjugate_of_link_is_the_conjugate_at_the_link(name):
    divergence, f = TABLE[name]
    for v in (-2.0, 0.0, 1.5):
        t, step = math.exp(v), 1e-6 * math.exp(v)
        slope = (f(t + step) - f(t - step)) / (2 * step)
        assert divergence.conjugate_of_link(t64(v)).item() == pytest.approx(t * slope - f(t), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("divergence", "value"),
    [
        (d.kl, 0.22380466),
        (d.reverse_kl, 0.19379420),
        (d.jeffreys, 0.41759886),
        (d.jensen_shannon, 0.05087461),
        (skew_js(0.1), 0.01966123),
        (skew_js(0.9), 0.01756260),
        (d.pearson, 0.56333333),
        (d.neyman, 0.36333333),
        (d.squared_hellinger, 0.05152493),
        (d.softened_reverse_kl, 0.09204497),
        (d.softened_kl, 0.12205543),
        (skew_kl(0.3), 0.09744499),
        (alpha(-2.0), 0.18264815),
        (alpha(0.25), 0.19934317),
        (alpha(1.5), 0.24833031),
        (alpha(3.0), 0.38698148),
        (d.total_variation, 0.3),
    ],
    ids=str,
)
def test_value_between_two_distributions(divergence, value):
    assert divergence.from_probs(t64(P), t64(Q)).item() == pytest.approx(value, abs=1e-8)
    logits = t64(P).log() + 3.0, t64(Q).log() - 2.0
    assert divergence(*logits).item() == pytest.approx(value, abs=1e-8)


def test_kl_and_jensen_shannon_agree_with_scipy():
    generator = np.random.default_rng(0)
    for _ in range(20):
        p, q = generator.dirichlet(np.ones(6), 2)
        assert d.kl.from_probs(t64(p), t64(q)).item() == pytest.approx(rel_entr(p, q).sum(), rel=1e-12)
        assert d.jensen_shannon.from_probs(t64(p), t64(q)).item() == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (d.kl, alpha(1.0)),
        (d.reverse_kl, alpha(0.0)),
        (d.pearson, 2 * alpha(2.0)),
        (d.neyman, 2 * alpha(-1.0)),
        (d.squared_hellinger, 0.25 * alpha(0.5)),
        (alpha(0.3).reversed(), alpha(0.7)),
        (d.jeffreys, d.kl + d.reverse_kl),
        (d.jensen_shannon, skew_js(0.5)),
        (skew_kl(0.3).reversed().reversed(), skew_kl(0.3)),
    ],
    ids=str,
)
def test_relations_between_divergences(one, other):
    p, q, v = t64(P), t64(Q), t64([-1.0, 0.2, 2.0])
    torch.testing.assert_close(one.from_probs(p, q), other.from_probs(p, q), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(one.link(v), other.link(v), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        one.conjugate(t64([-0.5, 0.1])), other.conjugate(t64([-0.5, 0.1])), rtol=1e-8, atol=1e-12
    )


def test_skewed_jensen_shannon_tends_to_both_kls():
    p, q = t64(P), t64(Q)
    assert (skew_js(1e-6).from_probs(p, q) / 1e-6).item() == pytest.approx(d.kl.from_probs(p, q).item(), rel=1e-4)
    assert (skew_js(1 - 1e-6).from_probs(p, q) / 1e-6).item() == pytest.approx(
        d.reverse_kl.from_probs(p, q).item(), rel=1e-4
    )


@pytest.mark.parametrize(
    ("divergence", "strength", "sup", "inf"),
    [
        (d.kl, 2.0, 2.72482386, 2.12352085),
        (d.reverse_kl, 2.0, 2.73238915, 2.14051880),
        (d.pearson, 2.0, 2.555, 2.245),
        (d.neyman, 2.0, 2.56950965, 2.26278454),
        (d.squared_hellinger, 2.0, 3.34685756, 1.68127120),
        (d.jensen_shannon, 2.0, 3.37823182, 1.65483653),
        (d.jeffreys, 2.0, 2.56263667, 2.25629785),
        (d.softened_kl, 2.0, 3.04369500, 1.86611569),
        (d.total_variation, 2.0, 2.6, 2.1),
        (d.total_variation, 0.5, 3.65, 1.4),
    ],
    ids=str,
)
def test_regularised_expectation(divergence, strength, sup, inf):
    x, q = t64(X), t64(Q)
    up = divergence.regularised_expectation(x, strength, weights=q)
    down = divergence.regularised_expectation(x, strength, weights=q, sense="inf")
    assert up.value.item() == pytest.approx(sup, abs=1e-7)
    assert down.value.item() == pytest.approx(inf, abs=1e-7)
    price = divergence.from_probs(up.weights, q)
    assert ((up.weights * x).sum() - strength * price).item() == pytest.approx(sup, abs=1e-6)


def test_pearsons_worst_case_truncates():
    found = d.pearson.regularised_expectation(t64(X), 0.5, weights=t64(Q))
    assert found.value.item() == pytest.approx(3.0, abs=1e-8)
    assert found.weights.tolist() == pytest.approx([0.0, 0.25, 0.75], abs=1e-8)


@pytest.mark.parametrize(
    ("divergence", "radius", "sup", "inf"),
    [
        (d.kl, 0.1, 2.9090464, 1.9256258),
        (d.reverse_kl, 0.1, 2.9172966, 1.9409564),
        (d.jensen_shannon, 0.1, 3.4178902, 1.5298800),
        (d.pearson, 0.1, 2.7521363, 2.0478637),
        (d.total_variation, 0.25, 3.1, 1.65),
    ],
    ids=str,
)
def test_robust_expectation(divergence, radius, sup, inf):
    x, q = t64(X), t64(Q)
    assert divergence.robust_expectation(x, radius, weights=q).value.item() == pytest.approx(sup, abs=1e-6)
    down = divergence.robust_expectation(x, radius, weights=q, sense="inf")
    assert down.value.item() == pytest.approx(inf, abs=1e-6)
    if divergence is not d.total_variation:
        assert divergence.from_probs(down.weights, q).item() == pytest.approx(radius, rel=1e-5)


def test_conditional_value_at_risk_is_the_mean_of_the_top_mass():
    assert cvar(0.4).regularised_expectation(t64(X), 1.0, weights=t64(Q)).value.item() == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("divergence", "sampled_from", "value"),
    [(d.kl, "q", 0.263240), (d.reverse_kl, "q", 0.314382), (d.kl, "p", 0.602284)],
    ids=str,
)
def test_estimate_from_samples(divergence, sampled_from, value):
    log_ratio = t64([0.0, math.log(2), -math.log(4)])
    assert divergence.estimate(log_ratio, sampled_from).item() == pytest.approx(value, abs=1e-6)


@by_name
def test_estimates_weighted_by_the_distribution_are_exact(name):
    divergence, _ = TABLE[name]
    log_ratio = t64(P).log() - t64(Q).log()
    exact = divergence.from_probs(t64(P), t64(Q)).item()
    for variate in ("standard", "none", "fitted"):
        for source, weights in (("q", Q), ("p", P)):
            estimate = divergence.estimate(log_ratio, source, variate, weights=t64(weights))
            assert estimate.item() == pytest.approx(exact, abs=1e-9)


@by_name
def test_score_weights_give_the_gradient_of_the_exact_divergence(name):
    divergence, _ = TABLE[name]
    logits = t64([0.3, -0.2, 0.5]).requires_grad_()
    fixed = t64(Q)
    for wrt in ("p", "q"):
        probs = logits.softmax(0)
        pair = (probs, fixed) if wrt == "p" else (fixed, probs)
        (exact,) = torch.autograd.grad(divergence.from_probs(*pair), logits)
        log_ratio = (pair[0] / pair[1]).log().detach()
        weight = divergence.score_weight(log_ratio, wrt=wrt)
        probs = logits.softmax(0)
        (sampled,) = torch.autograd.grad((probs.detach() * weight * probs.log()).sum(), logits)
        torch.testing.assert_close(sampled, exact, rtol=1e-8, atol=1e-10)


@by_name
def test_variational_bound_is_tight_at_the_log_ratio_and_below_elsewhere(name):
    divergence, _ = TABLE[name]
    generator = torch.Generator().manual_seed(0)
    # 10 equally likely points of each distribution stand for the two expectations.
    p, q = t64([5, 3, 2]), t64([2, 5, 3])
    log_ratio = (p / q).log()
    critic = log_ratio + 0.3 * torch.randn(3, generator=generator, dtype=torch.float64)

    def bound(v):
        return divergence.variational_bound(
            torch.repeat_interleave(v, p.long()), torch.repeat_interleave(v, q.long())
        ).item()

    exact = divergence.from_probs(p / 10, q / 10).item()
    assert bound(log_ratio) == pytest.approx(exact, abs=1e-10)
    assert bound(critic) < exact


def test_tilt_is_the_worst_case_distribution():
    reference = t64(Q).log()
    tilted = d.kl.tilt(reference, t64(X), 2.0)
    torch.testing.assert_close(tilted, (reference + t64(X) / 2.0).log_softmax(0))


def test_a_made_up_generator_gets_every_method():
    triangular = FDivergence.from_terms("triangular", lambda p, q: (p - q) ** 2 / (p + q))
    p, q = t64(P), t64(Q)
    log_ratio = p.log() - q.log()
    exact = ((p - q) ** 2 / (p + q)).sum().item()
    assert triangular.from_probs(p, q).item() == pytest.approx(exact, rel=1e-12)
    assert triangular(p.log(), q.log()).item() == pytest.approx(exact, rel=1e-12)
    assert triangular.estimate(log_ratio, "p", weights=p).item() == pytest.approx(exact, rel=1e-9)
    t = t64(1.7)
    assert triangular.df(t).item() == pytest.approx(1 - 4 / (1.7 + 1) ** 2, rel=1e-9)
    assert triangular.d2f(t).item() == pytest.approx(8 / (1.7 + 1) ** 3, rel=1e-8)
    torch.testing.assert_close(triangular.inverse_link(triangular.link(log_ratio)), log_ratio, rtol=1e-8, atol=1e-8)
    slope = 0.3  # f*(u) = 4 - u - 4 sqrt(1 - u) by hand, from f'(t) = 1 - 4 / (t + 1)^2
    assert triangular.conjugate(t64(slope)).item() == pytest.approx(4 - slope - 4 * math.sqrt(1 - slope), rel=1e-8)
    bound = triangular.variational_bound(
        torch.repeat_interleave(log_ratio, t64([5, 3, 2]).long()),
        torch.repeat_interleave(log_ratio, t64([2, 5, 3]).long()),
    )
    assert bound.item() == pytest.approx(exact, abs=1e-10)
    for found, penalty in (
        (triangular.regularised_expectation(t64(X), 2.0, weights=q), 2.0),
        (triangular.robust_expectation(t64(X), 0.05, weights=q), None),
    ):
        weights = found.weights.numpy()
        assert weights.sum() == pytest.approx(1)
        best = brute_force(lambda w: ((w - Q) ** 2 / (w + Q)).sum(), penalty, 0.05)
        assert found.value.item() == pytest.approx(best, abs=1e-5)
    assert triangular.reversed().from_probs(p, q).item() == pytest.approx(exact, rel=1e-12)
    assert (3 * triangular + d.kl).from_probs(p, q).item() == pytest.approx(3 * exact + 0.22380466, abs=1e-8)


def brute_force(divergence, penalty, radius):
    """The supremum by SLSQP over the simplex."""

    def negative(w):
        return -(w @ np.array(X)) + (penalty * divergence(w) if penalty else 0.0)

    rules = [{"type": "eq", "fun": lambda w: w.sum() - 1}]
    if not penalty:
        rules.append({"type": "ineq", "fun": lambda w: radius - divergence(w)})
    found = optimize.minimize(
        negative, np.array(Q), bounds=[(1e-9, 1)] * 3, constraints=rules, options={"ftol": 1e-14, "maxiter": 500}
    )
    return -found.fun


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@by_name
def test_identical_distributions_have_no_divergence(name, dtype):
    logits = torch.tensor([3.0, -1.0, 0.5, 1e4], dtype=dtype)
    assert abs(TABLE[name][0](logits, logits).item()) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@by_name
def test_extreme_logits_give_finite_values_and_gradients(name, dtype):
    p = torch.tensor([1e4, 0.0, -1e4], dtype=dtype, requires_grad=True)
    q = torch.tensor([-1e4, 1e4, 0.0], dtype=dtype, requires_grad=True)
    value = TABLE[name][0](p, q)
    assert value.isfinite()
    assert value >= 0
    for grad in torch.autograd.grad(value, (p, q)):
        assert grad.isfinite().all()


def test_mass_outside_the_support_costs_its_limit():
    p, q = t64([0.5, 0.5, 0.0]), t64([0.5, 0.0, 0.5])
    assert d.total_variation.from_probs(p, q).item() == pytest.approx(0.5)
    assert d.squared_hellinger.from_probs(p, q).item() == pytest.approx(0.5)
    assert d.kl.from_probs(p, q).item() == math.inf
    assert d.jensen_shannon.from_probs(p, q).item() == pytest.approx(0.5 * math.log(2))


def test_names_find_divergences():
    assert f_divergence("kl") is d.kl
    assert str(f_divergence("alpha", a=0.5)) == str(alpha(0.5))
    with pytest.raises(ValueError, match="name must be one of"):
        f_divergence("kullback")
