"""Adaptive temperatures: the golden numbers, the definition by brute force, the memory."""

import io
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from minimand.losses import AdaptiveLDRLoss, adaptive_ldr_loss, ldr_loss, normalise_logits
from minimand.losses.score_difference import score_differences
from minimand.losses.temperature import adapted_temperature

LOGITS = torch.tensor([[1, 2, -0.5, 0.3], [0, -1, 3, 0.2]], dtype=torch.float64)
TARGET = torch.tensor([1, 0])


def objective(lam: np.ndarray, differences: np.ndarray, lam0: float, alpha: float) -> np.ndarray:
    """psi_lam(d) - A/2 (lam - lam0)^2 by its definition, lam against rows of differences."""
    classes = differences.shape[-1]
    psi = lam * (scipy.special.logsumexp(differences / lam[..., None], axis=-1) - math.log(classes))
    return psi - alpha * math.log(classes) / lam0 / 2 * (lam - lam0) ** 2


def test_the_loss_and_temperatures_have_the_golden_values():
    # By fixed-point iteration in 40-digit arithmetic, lam0 = 1, alpha = 2, margin 1.
    loss = adaptive_ldr_loss(LOGITS, TARGET, lam0=1.0, alpha=2.0, margin=1.0, reduction="none")
    assert loss.tolist() == pytest.approx([-0.38220325, 2.96264656], abs=1e-8)
    one, two = torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    lam = adapted_temperature(score_differences(LOGITS, TARGET, 1.0), one, two)
    assert lam.tolist() == pytest.approx([0.94706814, 0.51240150], abs=1e-8)


@pytest.mark.parametrize(
    ("classes", "alpha", "lam0"), [(2, 1.01, 1.0), (10, 1.2, 0.5), (10, 2.0, 10.0), (400, 1.05, 3.0), (1000, 2.0, 1.0)]
)
def test_the_temperature_is_the_highest_point_of_the_objective(classes, alpha, lam0):
    # With many classes the objective has two maxima; a fine grid finds the higher whatever its shape.
    rng = np.random.default_rng(classes)
    scales = np.geomspace(0.05, 12, 20) * lam0
    differences = rng.normal(size=(20, classes)) * scales[:, None] / 3
    differences[::2] = 0
    differences[::2, 1] = scales[::2]  # one score stands out: the hardest case
    coldest = lam0 * (1 - 1 / alpha)
    best = np.max([objective(np.array([lam]), differences, lam0, alpha) for lam in np.linspace(coldest, lam0, 401)], 0)
    hypers = [torch.tensor(value, dtype=torch.float64) for value in (lam0, alpha)]
    found = objective(adapted_temperature(torch.from_numpy(differences), *hypers).numpy(), differences, lam0, alpha)
    assert (found >= best - 1e-12 * np.abs(best)).all()


def test_the_temperature_is_stationary_to_rounding():
    generator = torch.Generator().manual_seed(0)
    differences = 4 * torch.randn(200, 10, dtype=torch.float64, generator=generator)
    lam = adapted_temperature(differences, torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.5).double()).numpy()
    weights = scipy.special.softmax(differences.numpy() / lam[:, None], axis=1)
    divergence = scipy.special.rel_entr(weights, 0.1).sum(1)
    np.testing.assert_allclose(lam, 2.0 - divergence / (1.5 * math.log(10) / 2.0), atol=1e-10)


def test_a_stiff_temperature_gives_the_fixed_loss():
    torch.testing.assert_close(
        adaptive_ldr_loss(LOGITS, TARGET, lam0=3.0, alpha=1e9, margin=0.1),
        ldr_loss(LOGITS, TARGET, lam=3.0, margin=0.1),
    )


def test_the_loss_lies_above_the_fixed_loss_and_below_the_coldest():
    fixed = ldr_loss(LOGITS, TARGET, lam=2.0, margin=0.1, reduction="none")
    coldest = ldr_loss(LOGITS, TARGET, lam=1.0, margin=0.1, reduction="none")
    adaptive = adaptive_ldr_loss(LOGITS, TARGET, lam0=2.0, alpha=2.0, margin=0.1, reduction="none")
    assert bool((fixed <= adaptive).all() and (adaptive <= coldest).all())


def test_gradients_in_lam0_and_alpha_are_the_difference_quotients():
    point = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 1.8)]
    torch.autograd.gradcheck(lambda lam0, alpha: adaptive_ldr_loss(LOGITS, TARGET, lam0, alpha), point)


def test_second_derivatives_follow_the_temperature():
    logits = LOGITS.clone().requires_grad_()
    torch.autograd.gradgradcheck(lambda z: adaptive_ldr_loss(z, TARGET, lam0=1.0), logits)


def test_normalised_rows_have_mean_size_one():
    rows = normalise_logits(torch.randn(5, 7, dtype=torch.float64))
    np.testing.assert_allclose(np.abs(rows.numpy()).mean(1), 1.0, rtol=1e-14)


def test_a_row_of_zeros_stays_zero_with_a_finite_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    rows = normalise_logits(logits)
    rows.sum().backward()
    assert rows.tolist() == [[0.0] * 3] * 2
    assert bool(logits.grad.isfinite().all())


def test_the_module_normalises_first():
    torch.testing.assert_close(
        AdaptiveLDRLoss(normalise=True)(LOGITS, TARGET), adaptive_ldr_loss(normalise_logits(LOGITS), TARGET)
    )


def test_a_visit_takes_one_fixed_point_step():
    loss = AdaptiveLDRLoss(lam0=2.0, alpha=2.0, margin=0.1, num_samples=5).double()
    loss(LOGITS, TARGET, torch.tensor([3, 0]))
    differences = score_differences(LOGITS, TARGET, 0.1).numpy()
    divergence = scipy.special.rel_entr(scipy.special.softmax(differences / 2.0, axis=1), 0.25).sum(1)
    expected = 2.0 - divergence / (2.0 * math.log(4) / 2.0)
    assert loss.lam[[3, 0]].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert loss.lam[[1, 2, 4]].tolist() == [2.0] * 3


def test_visits_converge_to_the_solved_loss():
    loss = AdaptiveLDRLoss(lam0=1.0, alpha=2.0, margin=1.0, num_samples=2).double()
    for _ in range(200):
        value = loss(LOGITS, TARGET, torch.tensor([0, 1]))
    assert loss.lam.tolist() == pytest.approx([0.94706814, 0.51240150], abs=1e-8)
    torch.testing.assert_close(value, adaptive_ldr_loss(LOGITS, TARGET, 1.0, 2.0, 1.0))


def test_evaluation_does_not_move_the_memory():
    loss = AdaptiveLDRLoss(num_samples=2).eval()
    loss(LOGITS, TARGET, torch.tensor([0, 1]))
    assert loss.lam.tolist() == [10.0, 10.0]


def test_the_memory_is_part_of_the_state():
    loss = AdaptiveLDRLoss(lam0=1.0, num_samples=2)
    loss(LOGITS.float(), TARGET, torch.tensor([0, 1]))
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    fresh = AdaptiveLDRLoss(lam0=1.0, num_samples=2)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh.lam, loss.lam)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (None, TypeError, r"index must be an integer tensor of positions in \[0, 2\); got NoneType"),
        (torch.tensor([0, 2]), ValueError, r"index must lie in \[0, 1\]; got 2 at flat position 1"),
        (torch.tensor([0.0, 1.0]), TypeError, "index must be an integer tensor; got dtype torch.float32"),
        (torch.tensor([0]), ValueError, r"index must have target's shape \(2,\); got \(1,\)"),
    ],
)
def test_a_wrong_index_is_named(index, error, message):
    with pytest.raises(error, match=message):
        AdaptiveLDRLoss(num_samples=2)(LOGITS, TARGET, index)


def test_an_index_without_a_memory_is_refused():
    with pytest.raises(ValueError, match="index must be left out where num_samples is None"):
        AdaptiveLDRLoss()(LOGITS, TARGET, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam0": 0.0}, r"lam0 must lie in \(0, inf\); got 0"),
        ({"alpha": 1.0}, r"alpha must lie in \(1, inf\); got 1"),
        ({"margin": -0.1}, r"margin must lie in \[0, inf\); got -0.1"),
        ({"num_samples": 0}, "num_samples must be at least 1; got 0"),
        ({"reduction": "max"}, "reduction must be one of 'none', 'mean', 'sum'; got 'max'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveLDRLoss(**options)
