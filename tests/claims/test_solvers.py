"""The experiments behind the claims about solvers: that their problems are what they say."""

import math

import pytest
import torch
from sklearn.svm import LinearSVC

from minimand.claims import gradient_normalized_smoothness as smoothness
from minimand.claims import normalized_logistic as normalized
from minimand.claims import target_surrogates as surrogates
from minimand.optim import NormalizedLogistic

# target-surrogates


def test_the_surrogates_rate_is_four_over_the_largest_eigenvalue():
    data = surrogates.breast_cancer()
    assert data.inputs.shape == (569, 30)
    torch.testing.assert_close(data.inputs.square().mean(0), torch.ones(30).double())
    assert set(data.labels.tolist()) == {-1.0, 1.0}
    largest = torch.linalg.eigvalsh(data.inputs.mT @ data.inputs / 569)[-1].item()
    assert data.rate == pytest.approx(4 / largest)


def test_a_path_starts_at_the_loss_of_zero_weights():
    data = surrogates.breast_cancer()
    path = surrogates.full_batch(data.surrogate(2), data, 3)
    assert len(path) == 4
    assert path[0] == pytest.approx(math.log(2))


# gradient-normalized-smoothness


def test_log_sum_exp_is_least_at_zero_and_gauss_newton_is_its_hessian_without_the_gradients_square():
    problem = smoothness.LogSumExp.drawn(30, 4, seed=0)
    objective = problem.objective
    zero, x = torch.zeros(4).double(), torch.full((4,), 0.3).double()
    slope = torch.func.grad(lambda v: objective({"x": v}))
    assert slope(zero).norm() < 1e-14
    bent = torch.autograd.functional.hessian(lambda v: objective({"x": v}), x)
    expected = bent + torch.outer(slope(x), slope(x)) / smoothness.TEMPERATURE
    torch.testing.assert_close(problem.gauss_newton({"x": x}), expected)


def test_a_way_ends_at_the_first_gap_that_is_small_enough():
    problem = smoothness.LogSumExp.drawn(30, 4, seed=0)
    way = smoothness.way(smoothness.methods(problem)[smoothness.GAUSS_NEWTON], problem, 1e-3)
    assert way.gaps[-1] <= 1e-3 < min(way.gaps[:-1])
    assert way.steps == len(way.gaps) - 1
    assert way.gradients >= 2 * way.steps


# normalized-logistic


def test_the_hard_data_are_the_papers():
    z = normalized.rare_class(4)
    assert z.tolist() == [[0.5, -1.0], *[[0.5, 1.0]] * 3]


def test_the_margin_of_two_kinds_of_sample_is_a_support_vector_machines():
    a, b = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.9, 1.5]).double()
    z = torch.stack([a, b, -a, -b])
    machine = LinearSVC(C=1e6, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(z, [1, 1, -1, -1])
    assert normalized.margin_of_two(a, b) == pytest.approx(1 / (machine.coef_**2).sum() ** 0.5, rel=1e-4)


def test_even_classes_lie_apart_and_are_separable():
    z = normalized.even_classes(50, seed=3)
    assert z.shape == (50, normalized.UNKNOWNS)
    assert z[:, 0].min() >= normalized.APART
    assert normalized.steps_to_separate(NormalizedLogistic(10.0), z) < 1000
