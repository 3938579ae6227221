"""Worst cases against constrained optimisation, their closed forms, and at the ends of what can be asked."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize

from minimand.divergences import (
    alpha,
    cvar,
    jensen_shannon,
    kl,
    pearson,
    reverse_kl,
    skew_kl,
    squared_hellinger,
    total_variation,
)

from .rows import DEFINITIONS, SMOOTH

CLOSED = [row[0] for row in SMOOTH[:-2]]  # the last two are searched within a search
KINKED = [total_variation, cvar(0.4)]
smooth = pytest.mark.parametrize("divergence", CLOSED, ids=str)
# a closed normaliser, no weight of 0, weights that truncate, f bounded on both sides, kinks
every_kind = pytest.mark.parametrize("divergence", [kl, reverse_kl, pearson, skew_kl(0.3), *KINKED], ids=str)
everyone = pytest.mark.parametrize("divergence", [*CLOSED, *KINKED], ids=str)
X = np.array([1.0, 2.0, 4.0, 2.5])
Q = np.array([0.15, 0.35, 0.2, 0.3])


def t64(values):
    return torch.as_tensor(values, dtype=torch.float64)


def problem(rows=3, n=5, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    values = scale * torch.randn(rows, n, dtype=torch.float64, generator=generator)
    return values, torch.rand(n, dtype=torch.float64, generator=generator) + 0.1


def searched(divergence, sign, strength=None, radius=None):
    """The supremum of sign * E_p[X] over the simplex by sequential quadratic programming."""
    f = DEFINITIONS[str(divergence)]

    def distance(p):
        with mpmath.workdps(30):
            return sum(q * float(f(mpmath.mpf(t))) for q, t in zip(Q, np.maximum(p, 1e-12) / Q, strict=True))

    rules = [{"type": "eq", "fun": lambda p: p.sum() - 1}]
    if radius is not None:
        rules.append({"type": "ineq", "fun": lambda p: radius - distance(p)})
    found = optimize.minimize(
        lambda p: -sign * (p @ X) + (strength * distance(p) if strength else 0.0),
        Q,
        bounds=[(0, 1)] * len(Q),
        constraints=rules,
        options={"ftol": 1e-14, "maxiter": 300},
    )
    return -found.fun


@smooth
def test_worst_cases_are_what_a_search_finds(divergence):
    most = divergence.regularised_expectation(t64(X), 0.8, t64(Q)).value.item()
    assert most == pytest.approx(searched(divergence, 1, strength=0.8), abs=1e-6)
    least = divergence.robust_expectation(t64(X), 0.15, t64(Q), "inf").value.item()
    assert -least == pytest.approx(searched(divergence, -1, radius=0.15), abs=1e-5)


@smooth
@pytest.mark.parametrize("strength", [1e-3, 1e3])
def test_weights_of_a_priced_worst_case_attain_it(divergence, strength):
    values, q = problem()
    found = divergence.regularised_expectation(values, strength, q)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(3, dtype=torch.float64))
    distance = divergence.from_probs(found.weights, (q / q.sum()).expand_as(values))
    torch.testing.assert_close((found.weights * values).sum(-1) - strength * distance, found.value)


@smooth
def test_weights_of_a_ball_lie_on_its_sphere(divergence):
    values, q = problem(rows=2)
    radius = t64([1e-6, 0.1])
    found = divergence.robust_expectation(values, radius, q)
    distance = divergence.from_probs(found.weights, (q / q.sum()).expand_as(values))
    torch.testing.assert_close(distance, radius, rtol=1e-9, atol=0)
    torch.testing.assert_close((found.weights * values).sum(-1), found.value)


# Closed forms


def test_kl_gives_the_log_mean_exponential():
    values, q = problem()
    exponent = (q / q.sum()).log() + values / 0.7
    found = kl.regularised_expectation(values, 0.7, q)
    torch.testing.assert_close(found.value, 0.7 * exponent.logsumexp(-1))
    torch.testing.assert_close(found.weights, exponent.softmax(-1))


def test_pearson_gives_mean_and_standard_deviation_until_a_weight_truncates():
    values, q = problem()
    q = q / q.sum()
    mean = (q * values).sum(-1)
    variance = (q * (values - mean[:, None]) ** 2).sum(-1)
    for radius in (0.0, 0.01, 0.1):
        high, low = (pearson.robust_expectation(values, radius, q, sense).value for sense in ("sup", "inf"))
        torch.testing.assert_close(high, mean + (radius * variance).sqrt())
        torch.testing.assert_close(low, mean - (radius * variance).sqrt())
    torch.testing.assert_close(pearson.regularised_expectation(values, 20.0, q).value, mean + variance / 80)


def test_total_variation_moves_mass_to_the_maximum():
    x, q = t64([1.0, 2.0, 4.0, 4.0]), t64([0.2, 0.5, 0.1, 0.2])
    robust = total_variation.robust_expectation(x, 0.3, q)
    assert robust.weights.tolist() == pytest.approx([0.0, 0.4, 0.2, 0.4])
    priced = total_variation.regularised_expectation(x, 2.5, q)
    assert priced.weights.tolist() == pytest.approx([0, 0.5, 1 / 6, 1 / 3])
    assert priced.value.item() == pytest.approx(0.2 * 1.5 + 0.5 * 2 + 0.3 * 4)
    assert (2 * total_variation).regularised_expectation(x, 1.25, q).value.item() == pytest.approx(priced.value.item())
    assert (2 * total_variation).robust_expectation(x, 0.6, q).value.item() == pytest.approx(robust.value.item())
    assert total_variation.robust_expectation(x, 1.0, q).value.item() == pytest.approx(4.0)


def test_conditional_value_at_risk_splits_the_marginal_value():
    x, q = t64([3.0, 1.0, 2.0, 2.0]), t64([0.2, 0.4, 0.2, 0.2])
    found = cvar(0.5).robust_expectation(x, 0.0, q)
    assert found.value.item() == pytest.approx((0.2 * 3 + 0.3 * 2) / 0.5)
    assert found.weights.sum().item() == pytest.approx(1)
    assert found.weights[[0, 1]].tolist() == pytest.approx([0.4, 0])
    assert cvar(0.5).regularised_expectation(x, 1.0, q, sense="inf").value.item() == pytest.approx(1.2)
    assert cvar(0.5).from_probs(found.weights, q).item() == 0


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (kl, [0.146516, 0.298703, 0.541306, 0.013475]),
        (reverse_kl, [0.170453, 0.222770, 0.576897, 0.029880]),
        (2 * jensen_shannon, [0.048845, 0.126024, 0.820961, 0.004170]),
        (alpha(0.5), [0.157602, 0.251063, 0.568511, 0.022825]),
    ],
    ids=str,
)
def test_tilting_gives_f_dpos_optimal_policy(divergence, expected):
    # the maximum of E_p[r] - D_f(p || reference) by projected Newton in 30 digits
    reference, rewards = t64([0.4, 0.3, 0.2, 0.1]).log(), t64([0.0, 1.0, 2.0, -1.0])
    assert divergence.tilt(reference + 3, rewards, 1.0).exp().tolist() == pytest.approx(expected, abs=1e-6)


# Derivatives


@everyone
def test_the_slope_of_a_priced_worst_case_is_its_weights_and_minus_the_divergence(divergence):
    values, q = problem()
    values.requires_grad_()
    strength = t64(0.7).requires_grad_()
    for sense, sign in (("sup", -1), ("inf", 1)):
        found = divergence.regularised_expectation(values, strength, q, sense)
        grad_values, grad_strength = torch.autograd.grad(found.value.sum(), (values, strength))
        torch.testing.assert_close(grad_values, found.weights)
        distance = divergence.from_probs(found.weights, (q / q.sum()).expand_as(values))
        torch.testing.assert_close(grad_strength, sign * distance.sum())


@pytest.mark.parametrize("divergence", [reverse_kl, pearson, *KINKED], ids=str)
def test_worst_cases_in_a_ball_are_differentiable_in_everything(divergence):
    values, q = problem(rows=1, n=3)
    inputs = (values.requires_grad_(), t64([0.05]).requires_grad_(), q.requires_grad_())
    assert torch.autograd.gradcheck(divergence.robust_expectation, inputs)


@pytest.mark.parametrize("divergence", [reverse_kl, alpha(1.5), jensen_shannon], ids=str)
def test_priced_worst_cases_are_differentiable_twice(divergence):
    values, q = problem(rows=1, n=3)
    inputs = (values.requires_grad_(), t64(0.7).requires_grad_(), q.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda *given: divergence.regularised_expectation(*given).value, inputs)


# The ends of what can be asked


@smooth
def test_a_price_of_almost_nothing_buys_the_maximum_and_a_high_one_the_mean(divergence):
    values, q = problem(scale=10.0)
    q = q / q.sum()
    low, high = (divergence.regularised_expectation(values, strength, q).value for strength in (1e-30, 1e30))
    torch.testing.assert_close(low, values.amax(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(high, (q * values).sum(-1), rtol=1e-6, atol=1e-6)
    for strength in (1e-12, 1e30):
        x = values.clone().requires_grad_()
        found = divergence.regularised_expectation(x, strength, q)
        torch.testing.assert_close(torch.autograd.grad(found.value.sum(), x)[0], found.weights)


@every_kind
def test_a_ball_over_values_of_ten_thousand_is_finite_in_value_and_gradient(divergence):
    values = torch.tensor([[1e4, -1e4, 0.0, 9e3], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float16, requires_grad=True)
    found = divergence.robust_expectation(values, 0.1)
    assert (found.value.dtype, found.weights.dtype) == (torch.float16, torch.float16)
    assert found.value.isfinite().all()
    assert torch.autograd.grad(found.value.sum(), values)[0].isfinite().all()


@smooth
def test_weights_are_stationary_where_the_maximum_is_rare(divergence):
    x, q = t64([3.0, 0.0, 1.0]), t64([1e-9, 0.6, 0.4 - 1e-9])
    weights = divergence.regularised_expectation(x, 4.0, q).weights
    f = DEFINITIONS[str(divergence)]
    with mpmath.workdps(60):
        ratios = [mpmath.mpf(p) / mpmath.mpf(k) for p, k in zip(weights.tolist(), q.tolist(), strict=True)]
        slopes = [mpmath.diff(f, t, h=t * mpmath.mpf(10) ** -20) for t in ratios]
        marginal = [value - 4 * slope for value, slope in zip(x.tolist(), slopes, strict=True)]
    assert [float(one - marginal[1]) for one in marginal] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("divergence", [kl, reverse_kl, pearson, skew_kl(0.3), alpha(3.0)], ids=str)
def test_a_ball_that_reaches_the_maximum_has_it(divergence):
    x, q = t64([4.0, 2.0, 4.0, 1.0]), t64([0.2, 0.4, 0.1, 0.3])
    at_top = t64([2 / 3, 0, 1 / 3, 0])
    radius = divergence.from_probs(at_top, q).item()
    if math.isinf(radius):  # no ball reaches it: f(0) is infinite
        assert 3 < divergence.robust_expectation(x, 3.0, q).value.item() < 4
        return
    found = divergence.robust_expectation(x, radius * 1.01, q)
    assert found.value.item() == 4
    assert found.weights.tolist() == pytest.approx(at_top.tolist())
    assert divergence.robust_expectation(x, radius * 0.9, q).value.item() < 4


@every_kind
def test_equal_values_are_their_own_worst_case(divergence):
    x, q = torch.full((3,), 2.5, dtype=torch.float64, requires_grad=True), t64([0.5, 0.3, 0.2])
    within = (divergence.robust_expectation(x, radius, q) for radius in (0.0, 0.3))
    for found in (divergence.regularised_expectation(x, 0.3, q), *within):
        assert found.value.item() == pytest.approx(2.5)
        assert torch.autograd.grad(found.value, x)[0].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("divergence", [kl, reverse_kl, pearson, skew_kl(0.3), alpha(3.0)], ids=str)
def test_a_ball_of_no_radius_holds_only_its_middle(divergence):
    values, q = problem()
    found = divergence.robust_expectation(values, 0.0, q)
    torch.testing.assert_close(found.weights, (q / q.sum()).expand_as(values), rtol=1e-7, atol=0)


@every_kind
def test_what_has_no_weight_stays_out(divergence):
    values, q = problem(rows=1, n=3)
    padded = torch.cat([values, torch.full((1, 1), 50.0, dtype=torch.float64)], -1).requires_grad_()
    padded_q = torch.cat([q, t64([0.0])]).requires_grad_()
    for method, number in ((divergence.regularised_expectation, 0.5), (divergence.robust_expectation, 0.1)):
        found, expected = method(padded, number, padded_q), method(values, number, q)
        torch.testing.assert_close(found.value, expected.value)
        torch.testing.assert_close(found.weights[:, :3], expected.weights)
        assert found.weights[:, 3].abs().max() == 0
        for grad in torch.autograd.grad(found.value.sum(), (padded, padded_q)):
            assert grad.isfinite().all()


def test_truncated_weights_share_out_a_leap_between_neighbouring_numbers():
    # (f')^{-1} of alpha(8) leaves 0 so steeply that no float gives the middle weight between two of its values
    x, q = t64([0.0, 1.0, 1.3]), t64([0.19, 0.8, 0.01])
    for radius in (1.0, 10.0, 1e3, 1e5):
        found = alpha(8.0).robust_expectation(x, radius, q)
        assert found.weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert alpha(8.0).from_probs(found.weights, q).item() == pytest.approx(radius, rel=1e-6)


# Shapes, arguments, transforms


@pytest.mark.parametrize("divergence", [squared_hellinger, *KINKED], ids=str)
def test_batches_broadcast_over_prices_and_dimensions(divergence):
    values, q = problem(rows=6, n=5)
    values = values.view(2, 3, 5)
    strength = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    batched = divergence.regularised_expectation(values, strength, q)
    one = divergence.regularised_expectation(values[1, 2], 2.0, q)
    torch.testing.assert_close(batched.value[1, 2], one.value)
    torch.testing.assert_close(batched.weights[1, 2], one.weights)
    moved = divergence.regularised_expectation(values.movedim(-1, 0), strength, q, dim=0)
    torch.testing.assert_close(moved.value, batched.value)
    torch.testing.assert_close(moved.weights, batched.weights.movedim(-1, 0))
    full = divergence.robust_expectation(values, 0.1, q.expand(2, 3, 5))
    torch.testing.assert_close(full.value, divergence.robust_expectation(values, 0.1, 7 * q).value)


def test_values_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="values must not hold NaN"):
        kl.robust_expectation(torch.tensor([0.0, math.nan]), 1.0)


def test_a_sum_with_a_kink_has_no_worst_case():
    with pytest.raises(ValueError, match="total_variation has a kink and therefore no"):
        (kl + total_variation).regularised_expectation(t64(X), 1.0)


@every_kind
@pytest.mark.parametrize("spoilt", ["values", "number", "weights"])
def test_nan_is_not_hidden_where_it_cannot_be_seen(divergence, spoilt):
    values, q = problem(rows=2, n=3)
    given = {"values": values, "number": t64([0.2, 0.2]), "weights": q.expand(2, 3).clone()}
    given[spoilt].view(2, -1)[0, -1] = math.nan
    for method in (divergence.regularised_expectation, divergence.robust_expectation):
        found = torch.func.vmap(method)(*given.values())
        assert found.value.isnan().tolist() == [True, False]
        assert found.weights.isnan().tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize("divergence", [pearson, skew_kl(0.3)], ids=str)
def test_a_search_within_a_search_under_vmap_is_the_batch(divergence):
    values, q = problem()
    mapped = torch.func.vmap(lambda x: divergence.robust_expectation(x, 0.1, q).value)(values)
    torch.testing.assert_close(mapped, divergence.robust_expectation(values, 0.1, q).value)


def test_a_search_within_a_search_compiles_to_one_graph():
    values, q = problem()
    q = q / q.sum()
    torch._dynamo.reset()
    within = torch.compile(lambda x: pearson.robust_expectation(x, 0.01, q).value, backend="eager", fullgraph=True)
    mean = (q * values).sum(-1)
    variance = (q * (values - mean[:, None]) ** 2).sum(-1)
    torch.testing.assert_close(within(values), mean + (0.01 * variance).sqrt())
