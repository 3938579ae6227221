"""Normalized logistic regression against the paper's table, brute force and the limit that it has."""

import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimand.optim import (
    Composite,
    NormalizedLogistic,
    batch_perceptron,
    logistic_separation_bound,
    margin_objective,
    minimise,
    normalized_logistic_step,
)

THREE = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [-0.5, 1.0]]).double()


def worst_case(count):
    """(0.5, -1) of class 1, and count - 1 times (-0.5, -1) of class -1."""
    z = torch.tensor([0.5, 1.0]).double().repeat(count, 1)
    z[0] = torch.tensor([0.5, -1.0])
    return z


def separated_after(z, gamma, step):
    theta = torch.zeros(z.shape[1], dtype=z.dtype)
    for t in range(1, 1000):
        theta = step(theta, z, gamma)
        if bool((z @ theta > 0).all()):
            return t
    return None


def plain_step(theta, z, gamma):
    return theta + gamma * torch.sigmoid(-z @ theta) @ z / len(z)


def test_three_steps_have_the_golden_weights():
    theta = torch.zeros(2).double()
    for _ in range(3):
        theta = normalized_logistic_step(theta, THREE, 2.0)
    assert theta.tolist() == pytest.approx([-3.216363002, 5.304672228], abs=1e-8)


@pytest.mark.parametrize(("gamma", "steps"), [(100.0, 2), (10.0, 2), (1.0, 16), (0.1, 157)])
def test_the_worst_case_is_separated_after_as_many_steps_as_in_the_papers_table(gamma, steps):
    assert separated_after(worst_case(1000), gamma, normalized_logistic_step) == steps


def test_plain_gradient_descent_takes_the_papers_number_of_steps():
    assert separated_after(worst_case(1000), 100.0, plain_step) == 308


def test_a_step_is_the_gradient_over_the_mean_weight():
    generator = np.random.default_rng(0)
    z, theta = generator.normal(size=(9, 4)), generator.normal(size=4)
    weights = 1 / (1 + np.exp(z @ theta))
    expected = theta + 3.0 * (weights @ z) / weights.sum()
    found = normalized_logistic_step(torch.tensor(theta), torch.tensor(z), 3.0)
    assert found.numpy() == pytest.approx(expected, rel=1e-12)


def test_many_classifiers_step_as_each_alone():
    theta = torch.randn(2, 3, 2, dtype=torch.float64)
    together = normalized_logistic_step(theta, THREE, 2.0)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], normalized_logistic_step(theta[i, j], THREE, 2.0))


def test_far_on_the_right_side_the_nearest_samples_lead():
    z = torch.tensor([[1.0, 0.0], [2.0, 5.0]])
    step = normalized_logistic_step(torch.tensor([1e5, 0.0]), z, 1.0) - torch.tensor([1e5, 0.0])
    assert step.tolist() == [1.0, 0.0]


def test_no_samples_leave_the_classifier():
    assert normalized_logistic_step(torch.ones(2), torch.zeros(0, 2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [0.3, 3.0, 300.0])
def test_separable_data_are_separated_within_the_bound(seed, gamma):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    z[:, 0] = z[:, 0].abs() + 0.3
    margin = 0.3  # along the first axis; the best is no less, and the bound with it no larger
    bound = logistic_separation_bound(z.norm(dim=1).max().item(), margin, len(z), gamma)
    steps = separated_after(z, gamma, normalized_logistic_step)
    assert steps is not None
    assert steps <= bound


def test_the_bound_is_the_formula():
    assert logistic_separation_bound(3.0, 0.5, 100, 2.0) == pytest.approx(36 + 2 * math.log(199) / 0.5)


# The batch perceptron.


def test_the_perceptron_takes_the_golden_number_of_steps():
    assert batch_perceptron(worst_case(1000), normalize=False)[1:] == (301, True)
    assert batch_perceptron(worst_case(1000))[1:] == (2, True)


@pytest.mark.parametrize(("step", "normalize"), [(normalized_logistic_step, True), (plain_step, False)])
def test_logistic_regression_over_a_huge_rate_is_the_perceptron(step, normalize):
    z, gamma = torch.tensor([[1.0, -1.0], [1.0, 4.0]]).double(), 1e4
    theta = torch.zeros(2).double()
    for _ in range(2):
        theta = step(theta, z, gamma)
    expected = batch_perceptron(z, normalize).theta
    torch.testing.assert_close(theta / gamma, expected, rtol=0, atol=1e-3)
    if not normalize:
        assert expected.tolist() == [1.0, 0.25]


def test_data_that_no_plane_separates_are_given_up():
    found = batch_perceptron(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), steps=20)
    assert (found.steps, found.separated) == (20, False)


def test_a_single_sample_is_separated_at_once():
    assert batch_perceptron(torch.tensor([[0.0, 2.0]]))[1:] == (1, True)


# The solver.


def linear(z):
    return Composite(lambda p: z @ p["w"], lambda m: F.softplus(-m))


def test_on_a_linear_model_the_solver_takes_the_pure_step():
    theta = {"w": torch.tensor([-1.0, 0.5]).double()}
    solver = NormalizedLogistic(2.0)
    params, _, info = solver.step(linear(THREE), theta, solver.init(theta))
    torch.testing.assert_close(params["w"], normalized_logistic_step(theta["w"], THREE, 2.0))
    w = theta["w"].clone().requires_grad_()
    loss = F.softplus(-THREE @ w).mean()
    loss.backward()
    assert (info.value, info.grad_norm) == pytest.approx((loss.item(), w.grad.norm().item()))
    assert info.numbers == {"wrong": 1.0, "margin": -0.0} or info.numbers["wrong"] == (THREE @ theta["w"] <= 0).sum()


def test_a_network_is_trained_until_all_margins_are_positive():
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    y = torch.tensor([-1, -1, 1, 1])
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    found = minimise(NormalizedLogistic(0.3), margin_objective(network, x, y), dict(network.named_parameters()))
    assert (found.status, found.message) == ("converged", "all 4 margins are above 0")
    network.load_state_dict(found.params, strict=False)
    assert torch.equal(network(x)[:, 0].sign().long(), y)


def test_margins_are_labels_times_scores_and_their_loss_is_logistic():
    module, x, y = nn.Linear(3, 1), torch.randn(5, 3), torch.tensor([1, -1, 1, 1, -1])
    objective = margin_objective(module, x, y)
    params = {name: param.detach() for name, param in module.named_parameters()}
    torch.testing.assert_close(objective.outputs(params), y * module(x)[:, 0].detach())
    expected = F.binary_cross_entropy_with_logits(module(x)[:, 0].detach(), (y + 1) / 2)
    torch.testing.assert_close(objective(params), expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), "labels must be -1 or 1; got 0 at position 0"),
        (torch.tensor([1.0, 0.5]), "labels must be -1 or 1; got 0.5 at position 1"),
        (torch.ones(2, 1), r"labels must have shape \(N,\); got \(2, 1\)"),
    ],
)
def test_labels_other_than_signs_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        margin_objective(nn.Linear(1, 1), torch.ones(2, 1), labels)


def test_scores_that_do_not_match_the_labels_are_refused():
    objective = margin_objective(nn.Linear(1, 3), torch.ones(2, 1), torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"scores must have labels's shape \(2,\); got \(2, 3\)"):
        objective.outputs({"bias": torch.zeros(3)})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: NormalizedLogistic(0.0), ValueError, r"gamma must lie in \(0, inf\); got 0"),
        (lambda: batch_perceptron(torch.ones(0, 2)), ValueError, "z must hold at least one sample; got none"),
        (lambda: batch_perceptron(torch.ones(2, 2), steps=0), ValueError, "steps must be at least 1; got 0"),
        (lambda: logistic_separation_bound(0.5, 1.0, 3, 1.0), ValueError, "radius must be at least the margin"),
        (lambda: logistic_separation_bound(2.0, 0.0, 3, 1.0), ValueError, "margin must lie in"),
        (lambda: logistic_separation_bound(2.0, 1.0, 0, 1.0), ValueError, "count must be at least 1; got 0"),
        (lambda: minimise(NormalizedLogistic(), lambda p: p["w"], {"w": torch.zeros(2)}), TypeError, "a Composite"),
        (
            lambda: minimise(NormalizedLogistic(), linear(torch.zeros(0, 2)), {"w": torch.zeros(2)}),
            ValueError,
            r"outputs must be margins of shape \(N,\), N at least 1; got \(0,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_solvers_can_be_pickled():
    assert pickle.loads(pickle.dumps(NormalizedLogistic(3.0))) == NormalizedLogistic(3.0)
