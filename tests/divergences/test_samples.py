"""Estimates from samples, score weights and variational bounds: exact, finite, and honest about gradients."""

import pytest
import torch

from minimand.divergences import alpha, cvar, jensen_shannon, kl, neyman, pearson, reverse_kl, total_variation

from .rows import every_smooth

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
outgrowing = pytest.mark.parametrize("divergence", [pearson, neyman, alpha(-2.0), alpha(3.0)], ids=str)


def test_plain_estimates_are_the_papers():
    v = torch.tensor([0.7, -0.2, 0.1], dtype=torch.float64)
    plain = {"control_variate": "none"}
    torch.testing.assert_close(kl.estimate(v, "p", **plain), v.mean())  # k1
    torch.testing.assert_close(reverse_kl.estimate(v, "q", **plain), -v.mean())
    torch.testing.assert_close(kl.estimate(v, "q", **plain), (v.exp() * v).mean())
    squared = ((v.exp() - 1) ** 2 / v.exp()).mean()
    torch.testing.assert_close((2 * kl + pearson).estimate(v, "p", **plain), 2 * v.mean() + squared)
    torch.testing.assert_close(kl.estimate(v, "p"), (torch.expm1(-v) + v).mean())  # k3


def test_plain_estimates_keep_their_digits_where_ratios_are_huge():
    assert reverse_kl.estimate(torch.tensor([40.0]), "q", "none").item() == -40
    assert kl.estimate(torch.tensor([-40.0]), "p", "none").item() == -40


@every_smooth
def test_the_standard_estimate_of_one_sample_is_never_negative(divergence):
    v = 3 * torch.randn(20, generator=torch.Generator().manual_seed(0))
    assert all(divergence.estimate(one, sampled_from) >= 0 for one in v for sampled_from in ("q", "p"))


def test_a_fitted_control_variate_is_ordinary_least_squares():
    v = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3
    ratio = v.exp()
    values = (ratio * v - (ratio + 1) * ((ratio + 1) / 2).log()) / 2
    design = torch.stack([torch.ones_like(ratio), ratio - 1], 1)
    intercept = torch.linalg.lstsq(design, values[:, None]).solution[0, 0]
    torch.testing.assert_close(jensen_shannon.estimate(v, "q", "fitted"), intercept)


def test_nothing_is_fitted_to_samples_that_are_all_alike():
    v = torch.full((3,), 0.2, dtype=torch.float64)
    torch.testing.assert_close(kl.estimate(v, "q", "fitted"), (v.exp() * v - v.expm1())[0])


def test_control_variates_lower_the_variance():
    index = torch.multinomial(Q, 40 * 200, replacement=True, generator=torch.Generator().manual_seed(0)).view(200, 40)
    v = (P / Q).log()[index]
    none, standard, fitted = (
        torch.stack([kl.estimate(one, "q", kind) for one in v]).std() for kind in ("none", "standard", "fitted")
    )
    assert fitted < standard < none


@outgrowing
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_extreme_samples_give_finite_estimates_and_gradients(divergence, dtype):
    for sampled_from in ("q", "p"):
        for control_variate in ("standard", "none", "fitted"):
            v = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], dtype=dtype, requires_grad=True)
            value = divergence.estimate(v, sampled_from, control_variate)
            assert value.isfinite()
            assert torch.autograd.grad(value, v)[0].isfinite().all()


@outgrowing
def test_bounds_are_finite_for_any_critic(divergence):
    v = torch.tensor([1e4, -1e4], requires_grad=True)
    bound = divergence.variational_bound(v, -v)
    assert bound.isfinite()
    assert torch.autograd.grad(bound, v)[0].isfinite().all()


def test_the_gradient_of_k3_is_that_of_the_reverse_divergence():
    # E_p[e^-l - 1 + l] has the score's part left out: what remains is E_p[(1 - 1/r) grad l] = grad KL(q || p)
    logits = P.log().requires_grad_()
    log_p = logits.log_softmax(0)
    (grad,) = torch.autograd.grad(kl.estimate(log_p - Q.log(), "p", weights=P), logits)
    torch.testing.assert_close(grad, P - Q)


def test_total_variation_is_what_a_decided_critic_reaches_and_none_passes():
    counts_p, counts_q = torch.tensor([5, 3, 2]), torch.tensor([2, 5, 3])

    def bound(v):
        return total_variation.variational_bound(v.repeat_interleave(counts_p), v.repeat_interleave(counts_q)).item()

    assert bound(60 * (P - Q).sign()) == pytest.approx(0.3)
    critics = 3 * torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert all(bound(v) < 0.3 for v in critics)


def test_a_critic_of_an_indicator_is_its_conjugates_argument():
    assert cvar(0.5).variational_bound(torch.tensor([1.0]), torch.tensor([-3.0, 3.0])).item() == 1 - 3
