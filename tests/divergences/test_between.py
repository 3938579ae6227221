"""Divergences of whole distributions: zeros, extremes, gradients, types; affinity and Renyi's divergences."""

import math

import mpmath
import pytest
import torch

from minimand.divergences import (
    alpha,
    cvar,
    jensen_shannon,
    kl,
    log_affinity,
    neyman,
    pearson,
    renyi,
    reverse_kl,
    squared_hellinger,
    total_variation,
)

from .rows import DEFINITIONS, MADE_UP, SMOOTH, every_row, every_smooth

every = pytest.mark.parametrize("divergence", [*(row[0] for row in SMOOTH), total_variation, MADE_UP], ids=str)


def logits_pair(*shape, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    p, q = (scale * torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return p.to(dtype), q.to(dtype)


def definition(f, p, q):
    """sum q f(p/q) in 50 digits, of logits."""
    with mpmath.workdps(50):
        p, q = ([mpmath.exp(mpmath.mpf(x)) for x in logits] for logits in (p.tolist(), q.tolist()))
        p, q = ([x / sum(weights) for x in weights] for weights in (p, q))
        return float(sum(b * f(a / b) for a, b in zip(p, q, strict=True)))


@every_row
def test_divergence_is_its_definition(divergence, f):
    for scale in (1e-5, 1.0, 20.0):
        p, q = logits_pair(2, 6, scale=scale)
        for a, b, found in zip(p, q, divergence(p, q).tolist(), strict=True):
            assert found == pytest.approx(definition(f, a, b), rel=1e-9), scale


@pytest.mark.parametrize("divergence", [kl, reverse_kl, jensen_shannon, squared_hellinger], ids=str)
def test_what_its_logits_bound_is_exact_in_float32_however_far_apart(divergence):
    p, q = torch.tensor([1e4, 0.0, -300.0]), torch.tensor([0.0, 1e4, 300.0])
    expected = definition(DEFINITIONS[str(divergence)], p, q)
    assert divergence(p, q).item() == pytest.approx(expected, rel=1e-5)


@every
def test_log_probabilities_and_any_dimension_will_do(divergence):
    p, q = logits_pair(3, 5)
    expected = divergence(p, q)
    torch.testing.assert_close(divergence.from_log_probs(p.log_softmax(-1), q.log_softmax(-1)), expected)
    torch.testing.assert_close(divergence(p.T, q.T, dim=0), expected)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_no_gradient_leads_away_from_an_equal_distribution(divergence, dtype):
    p, _ = logits_pair(2, 1000, scale=30.0, dtype=dtype)
    p.requires_grad_()
    value = divergence(p, p.detach())
    assert value.abs().max() <= 1e-7
    assert torch.autograd.grad(value.sum(), p)[0].abs().max() <= 1e-6


@pytest.mark.parametrize("divergence", [pearson, neyman, alpha(-2.0), alpha(3.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_many_overflowing_classes_have_a_finite_sum(divergence, dtype):
    p, q = (x.requires_grad_() for x in logits_pair(1, 20000, scale=2500.0, dtype=dtype))
    value = divergence(p, q)
    assert value.isfinite().all()
    for grad in torch.autograd.grad(value.sum(), (p, q)):
        assert grad.isfinite().all()


def test_an_exponent_past_the_cap_is_held_without_gradient():
    p, q = torch.tensor([300.0, 0.0]).requires_grad_(), torch.tensor([0.0, 300.0])
    value = pearson(p, q)
    assert value.item() == pytest.approx(math.exp(80) / 2, rel=1e-4)  # less ln 2: the sum of two is held
    assert torch.autograd.grad(value, p)[0].abs().max() <= 1


@every
def test_masked_classes_are_as_if_they_were_not_there(divergence):
    p, q = logits_pair(3, 5)
    padded_p, padded_q = (torch.cat([x, torch.full((3, 2), -math.inf, dtype=x.dtype)], -1) for x in (p, q))
    padded_p.requires_grad_()
    value = divergence(padded_p, padded_q)
    torch.testing.assert_close(value, divergence(p, q))
    grad = torch.autograd.grad(value.sum(), padded_p)[0]
    assert grad[:, 5:].abs().max() == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize(("divergence", "f", "f_at_zero", "df_at_infinity"), SMOOTH, ids=list(DEFINITIONS))
def test_mass_that_only_one_has_costs_its_limit(divergence, f, f_at_zero, df_at_infinity):
    p, q = torch.tensor([0.0, 0.5, 0.5]).double(), torch.tensor([0.25, 0.75, 0.0]).double()
    expected = 0.25 * f_at_zero + 0.75 * f(mpmath.mpf(2) / 3) + 0.5 * df_at_infinity
    for value in (divergence.from_probs(p, q), divergence.from_log_probs(p.log(), q.log())):
        assert value.item() == pytest.approx(float(expected), rel=1e-12)


@every
def test_zeros_spoil_no_gradient(divergence):
    p = torch.tensor([0.0, 0.5, 0.5, 0.0]).double().requires_grad_()
    q = torch.tensor([0.25, 0.75, 0.0, 0.0]).double().requires_grad_()
    for grad in torch.autograd.grad(divergence.from_probs(p, q), (p, q)):
        assert grad.isfinite().all()


@every_smooth
def test_divergences_are_differentiable_twice(divergence):
    p, q = logits_pair(3)
    pair = torch.stack([p, p]).requires_grad_(), torch.stack([q, p]).requires_grad_()  # the second row where they agree
    assert torch.autograd.gradgradcheck(divergence, pair)


def test_no_classes_have_no_divergence():
    assert kl(torch.zeros(3, 0), torch.zeros(3, 0)).tolist() == [0, 0, 0]


def test_two_types_give_the_wider():
    p, q = logits_pair(5)
    assert kl(p.bfloat16(), q).dtype == torch.float64
    assert kl(p.float(), q.half()).dtype == torch.float32
    assert kl(p.half(), q.bfloat16()).dtype == torch.float32


def test_an_indicator_is_zero_or_infinite():
    q = torch.full((4,), 0.25)
    assert cvar(0.5).from_probs(torch.tensor([0.5, 0.5, 0.0, 0.0]), q).item() == 0
    assert cvar(0.5).from_probs(torch.tensor([0.6, 0.4, 0.0, 0.0]), q).item() == math.inf


def test_a_scalar_is_no_distribution():
    with pytest.raises(ValueError, match=r"p_logits must have at least one dimension; got shape \(\)"):
        kl(torch.zeros(()), torch.zeros(()))


# Affinity and Renyi


@pytest.mark.parametrize("a", [-2.0, -1e-9, 0.3, 1 - 1e-9, 1.0, 2.0])
def test_log_affinity_is_its_definition(a):
    p, q = logits_pair(6, scale=3.0)
    with mpmath.workdps(50):
        x, y = ([mpmath.exp(mpmath.mpf(v)) for v in logits.tolist()] for logits in (p, q))
        x, y = ([v / sum(weights) for v in weights] for weights in (x, y))
        expected = mpmath.log(sum(u ** mpmath.mpf(a) * v ** (1 - mpmath.mpf(a)) for u, v in zip(x, y, strict=True)))
    assert log_affinity(p, q, a).item() == pytest.approx(float(expected), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize(
    ("a", "only_p", "only_q"),
    [(0.3, 0.5**0.3, 0.5**0.7), (2.0, math.inf, 0.5**-1), (-1.0, 0.5**-1, math.inf), (0.0, 1.0, 0.5)],
)
def test_a_lone_zero_adds_nothing_or_everything(a, only_p, only_q):
    both, one = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([1.0, 0.0, 0.0]).log()
    assert log_affinity(both, one, a).exp().item() == pytest.approx(only_p)
    assert log_affinity(one, both, a).exp().item() == pytest.approx(only_q)


@pytest.mark.parametrize("a", [1 - 1e-7, 1.0, 1 + 1e-7])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_renyi_is_kl_around_one(a, dtype, digits):
    p, q = logits_pair(6)
    expected = definition(DEFINITIONS["kl"], p, q)
    assert renyi(p.to(dtype), q.to(dtype), a).item() == pytest.approx(expected, rel=digits)


def test_renyi_of_two_gaussians_in_the_limit_of_a_fine_grid():
    # D_a(N(0, 1) || N(m, 1)) = a m^2 / 2, van Erven & Harremoes (2014), equation 10
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for a in (0.5, 1.0, 2.0):
        assert renyi(-(x**2) / 2, -((x - 0.7) ** 2) / 2, a).item() == pytest.approx(a * 0.49 / 2, rel=1e-9)


def test_renyi_keeps_its_digits_between_near_distributions():
    p, q = logits_pair(5)
    weights = p.softmax(0)
    variance = ((weights * q**2).sum() - (weights * q).sum() ** 2).item()
    for a in (0.5, 2.0):  # a times half the variance of the difference, to leading order
        assert renyi(p, p + 1e-5 * q, a).item() == pytest.approx(a * 1e-10 * variance / 2, rel=1e-4)
