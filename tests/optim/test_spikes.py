"""Largest eigenvalues of noisy matrices against sampled ones, and learning rates against what they promise."""

import math

import numpy as np
import pytest
import torch

from minimand.optim import (
    bbp_top_eigenvalue,
    effective_batch,
    heavy_ball_from_spectrum,
    scale_lr,
    spiked_top_eigenvalue,
)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("top", "noise", "wanted"), [(2.0, 1.0, 2.5), (1.2, 1.0, 2.033333333), (0.5, 1.0, 2.0)])
def test_golden_spikes_in_noise(top, noise, wanted):
    assert spiked_top_eigenvalue(number(top), noise).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("top", "ratio", "wanted"), [(4.0, 0.25, 13 / 3), (5.0, 2.0, 7.5), (1.2, 0.25, 2.25)])
def test_golden_spikes_of_covariances(top, ratio, wanted):
    assert bbp_top_eigenvalue(number(top), ratio).item() == pytest.approx(wanted, abs=1e-9)


@pytest.fixture(scope="module")
def symmetric_noise():
    """A symmetric matrix (400, 400) whose entries off the diagonal have variance 1 / 400."""
    drawn = np.random.default_rng(0).normal(size=(400, 400)) / np.sqrt(400)
    return (drawn + drawn.T) / np.sqrt(2)


@pytest.mark.parametrize("top", [2.0, 1.2, 0.5, -3.0])
def test_a_spike_in_symmetric_noise_is_where_sampled_matrices_have_it(symmetric_noise, top):
    spiked = 0.7 * symmetric_noise
    spiked[0, 0] += 0.7 * top
    found = np.linalg.eigvalsh(spiked)[-1]
    assert spiked_top_eigenvalue(number(0.7 * top), 0.7).item() == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("top", [4.0, 1.2, 1.0])
def test_a_spike_of_a_covariance_is_where_sampled_ones_have_it(top):
    drawn = np.random.default_rng(0).normal(size=(1200, 300))
    drawn[:, 0] *= np.sqrt(top)
    found = np.linalg.eigvalsh(0.3 * drawn.T @ drawn / 1200)[-1]
    assert bbp_top_eigenvalue(number(0.3 * top), 0.25, bulk=0.3).item() == pytest.approx(found, rel=0.05)


def test_noise_only_ever_adds_to_the_largest_eigenvalue():
    top, noise = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None], torch.linspace(0, 2, 21, dtype=torch.float64)
    found = spiked_top_eigenvalue(top, noise)
    assert found.shape == (61, 21)
    assert bool((found >= top).all())
    assert bool((found.diff(dim=0) >= 0).all())
    assert bool((found.diff(dim=1) >= -1e-12).all())
    assert torch.equal(spiked_top_eigenvalue(top, 0.0), top.clamp(min=0))


def test_both_formulas_are_continuous_where_the_spike_leaves_the_bulk():
    just_out, edge = number(1 + 1e-9), 1 + math.sqrt(0.3)
    assert spiked_top_eigenvalue(just_out, 1.0).item() == pytest.approx(2.0, abs=1e-8)
    assert bbp_top_eigenvalue(just_out * edge, 0.3).item() == pytest.approx(edge**2, abs=1e-8)


def test_nan_shows():
    assert spiked_top_eigenvalue(number(math.nan), 1.0).isnan()
    assert bbp_top_eigenvalue(number(math.nan), 1.0).isnan()


def test_the_noise_of_rows_drawn_without_repetition_is_that_of_the_effective_batch():
    values = np.random.default_rng(0).normal(size=20)
    means = [np.random.default_rng(i).choice(values, 15, replace=False).mean() for i in range(4000)]
    assert np.var(means) == pytest.approx(values.var(ddof=1) / effective_batch(15, 20), rel=0.1)


def test_a_batch_of_all_samples_has_no_noise():
    assert effective_batch(7, 7) == math.inf
    assert effective_batch(1, 10**9) == pytest.approx(1.0)


def test_the_length_of_a_product_with_the_noise_is_its_scale():
    """The documented way to find ``noise``: the root mean square of |(H_batch - H) v|, v of length 1."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randn(200, 60, 60, generator=generator, dtype=torch.float64)
    each = (each + each.mT) / math.sqrt(2)  # entries of variance 1 off the diagonal, each a sample's Hessian
    rows = torch.stack([torch.randperm(200, generator=generator)[:40] for _ in range(50)])
    v = torch.nn.functional.normalize(torch.randn(50, 60, generator=generator, dtype=torch.float64))
    products = torch.einsum("kij,kj->ki", each[rows].mean(1) - each.mean(0), v)
    measured = products.square().sum(1).mean().sqrt().item()
    assert measured == pytest.approx(math.sqrt(60 / effective_batch(40, 200)), rel=0.05)


@pytest.mark.parametrize(("rule", "wanted"), [("linear", 0.8), ("sqrt", 0.2 * math.sqrt(4))])
def test_rates_scale_with_the_batch_and_back(rule, wanted):
    assert scale_lr(0.2, 8, 32, rule) == pytest.approx(wanted)
    assert scale_lr(scale_lr(0.2, 8, 32, rule), 32, 8, rule) == pytest.approx(0.2)


def test_the_heavy_ball_contracts_by_the_root_of_its_momentum_a_step():
    curvature = torch.linspace(1, 100, 100, dtype=torch.float64)
    lr, momentum = heavy_ball_from_spectrum(100.0, 1.0)
    assert (lr, momentum) == pytest.approx((4 / 121, 81 / 121))
    x, velocity, lengths = torch.ones(100, dtype=torch.float64), 0.0, []
    for _ in range(161):
        velocity = momentum * velocity + curvature * x
        x = x - lr * velocity
        lengths.append(float(x.norm()))
    assert (lengths[160] / lengths[80]) ** (1 / 80) == pytest.approx(9 / 11, abs=0.02)


def test_a_flat_spectrum_needs_no_momentum():
    assert heavy_ball_from_spectrum(torch.tensor(4.0), torch.tensor(4.0)) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: effective_batch(0, 5), ValueError, r"batch must lie in \[1, 5\]; got 0"),
        (lambda: effective_batch(6, 5), ValueError, "got 6"),
        (lambda: effective_batch(1, 0), ValueError, "total must be at least 1; got 0"),
        (lambda: effective_batch(2.0, 5), TypeError, "batch must be an integer of at least 1; got float"),
        (lambda: spiked_top_eigenvalue(number(1.0), -1.0), ValueError, "noise must lie in"),
        (lambda: bbp_top_eigenvalue(number(1.0), 0.0), ValueError, "ratio must lie in"),
        (lambda: bbp_top_eigenvalue(number(1.0), 1.0, bulk=-1.0), ValueError, "bulk must lie in"),
        (lambda: scale_lr(0.1, 0, 8), ValueError, "batch must lie in"),
        (lambda: scale_lr(0.1, math.inf, math.inf), ValueError, "batch must lie in .*; got inf"),
        (lambda: scale_lr(0.1, 8, 16, "cubic"), ValueError, "rule must be one of"),
        (lambda: heavy_ball_from_spectrum(1.0, 2.0), ValueError, r"smallest must lie in \(0, 1\]; got 2"),
        (lambda: heavy_ball_from_spectrum(1.0, 0.0), ValueError, "smallest must lie in"),
        (lambda: heavy_ball_from_spectrum(-1.0, 0.5), ValueError, "largest must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
