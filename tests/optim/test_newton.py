"""Gradient-regularized Newton against golden steps, brute-force curvature and scipy."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from minimand.optim import Composite, GradientRegularizedNewton, minimise, module_objective

SOLVERS = ("cholesky", "cg")


def number(x):
    return {"x": torch.tensor(x, dtype=torch.float64)}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_step(solver, objective, params):
    return solver.step(objective, params, solver.init(params))


def path(solver, objective, params, steps=3):
    state, found = solver.init(params), []
    for _ in range(steps):
        params, state, _ = solver.step(objective, params, state)
        found.append((params["x"].item(), state["gamma"].item()))
    return found


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_a_fourth_power_has_the_golden_steps(linear_solver):
    found = path(GradientRegularizedNewton(linear_solver=linear_solver), lambda p: p["x"] ** 4 / 4, number(1.0))
    expected = [(0.75, 2), (0.527777778, 4), (0.359263365, 8)]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-9)


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_where_newton_diverges_the_radius_gives_the_golden_steps(linear_solver):
    solver = GradientRegularizedNewton(gamma=100.0, linear_solver=linear_solver)
    found = path(solver, lambda p: (1 + p["x"] ** 2).sqrt(), number(3.0))
    expected = [(-2.172413793, 12.5), (0.324566231, 6.25), (-0.014715691, 12.5)]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-9)


def logistic(count=40, unknowns=4):
    x, y = drawn(count, unknowns), drawn(count, seed=1).sign()
    regularised = torch.cat([x, torch.eye(unknowns).double()])

    def loss(z):
        return (F.softplus(-y * z[:count]).sum() + 0.05 * z[count:].square().sum()) / count

    return Composite(lambda p: regularised @ p["x"], loss)


@pytest.mark.parametrize("linear_solver", SOLVERS)
@pytest.mark.parametrize("hessian", ["exact", "gauss_newton", None])
def test_logistic_regression_ends_where_scipy_ends(hessian, linear_solver):
    objective = logistic()

    def value_and_slope(x):
        x = torch.tensor(x, requires_grad=True)
        value = objective({"x": x})
        return value.item(), torch.autograd.grad(value, x)[0].numpy()

    expected = minimize(value_and_slope, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    solver = GradientRegularizedNewton(hessian=hessian, linear_solver=linear_solver)
    found = minimise(solver, objective, {"x": torch.zeros(4).double()}, tolerance=1e-7)
    assert found.converged
    assert found.params["x"].numpy() == pytest.approx(expected, abs=1e-5)
    if hessian is not None:
        assert len(found.history) < 15


def network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, y = drawn(7, 2), torch.arange(7) % 2
    objective = module_objective(module, nn.CrossEntropyLoss(reduction="none"), x, y)
    return module, x, y, objective, {name: param.double().detach() for name, param in module.named_parameters()}


def by_hand(name):
    """The Gauss-Newton matrix or the empirical Fisher, a sample at a time, with plain backpropagation."""
    module, x, y, _, params = network()
    module.double().load_state_dict(params)
    size = sum(param.numel() for param in module.parameters())
    total = torch.zeros(size, size).double()

    def slope(value):
        grads = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
        return torch.cat([grad.reshape(-1) for grad in grads])

    for row, label in zip(x, y, strict=True):
        z = module(row)
        if name == "fisher":
            g = slope(F.cross_entropy(z, label))
            total += torch.outer(g, g) / len(x)
        else:
            jacobian, probs = torch.stack([slope(z[0]), slope(z[1])]), z.softmax(0).detach()
            total += jacobian.mT @ (probs.diag() - torch.outer(probs, probs)) @ jacobian / len(x)
    return total


@pytest.mark.parametrize("linear_solver", SOLVERS)
@pytest.mark.parametrize("name", ["gauss_newton", "fisher"])
def test_curvature_of_a_network_is_what_samples_give_one_at_a_time(name, linear_solver):
    _, _, _, objective, params = network()
    matrix = by_hand(name)
    ours, _, _ = one_step(GradientRegularizedNewton(hessian=name, linear_solver=linear_solver), objective, params)
    expected, _, _ = one_step(GradientRegularizedNewton(hessian=lambda p: matrix), objective, params)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-9)


def test_the_step_solves_the_shifted_system():
    objective, x = logistic(), torch.ones(4).double()
    slope = torch.func.grad(lambda v: objective({"x": v}))(x)
    bent = torch.autograd.functional.hessian(lambda v: objective({"x": v}), x)
    params, _, info = one_step(GradientRegularizedNewton(gamma=0.5), objective, {"x": x})
    shift = slope.norm() / info.numbers["gamma"]
    torch.testing.assert_close((bent + shift * torch.eye(4)) @ (params["x"] - x), -slope)


@pytest.mark.parametrize("hessian", ["exact", None])
@pytest.mark.parametrize("gamma", [1e-3, 0.1, 10.0])
def test_no_step_is_longer_than_the_radius(gamma, hessian):
    x = 3 * torch.ones(4).double()
    params, _, info = one_step(GradientRegularizedNewton(gamma=gamma, hessian=hessian), logistic(), {"x": x})
    assert (params["x"] - x).norm().item() <= info.numbers["gamma"] * (1 + 1e-12)


@pytest.mark.parametrize("linear_solver", SOLVERS)
@pytest.mark.parametrize("hessian", ["exact", None])
def test_a_metric_is_a_change_of_variables(hessian, linear_solver):
    root = drawn(4, 4) + 3 * torch.eye(4)  # x = root^{-1} u has |u|^2 = x . root^T root x
    objective = logistic()
    changed = Composite(lambda p: objective.outputs({"x": torch.linalg.solve(root, p["x"])}), objective.loss)
    x = torch.ones(4).double()
    solver = GradientRegularizedNewton(hessian=hessian, linear_solver=linear_solver, metric=root.mT @ root)
    ours = minimise(solver, objective, {"x": x}, steps=4, tolerance=0.0)
    plain = GradientRegularizedNewton(hessian=hessian)
    theirs = minimise(plain, changed, {"x": root @ x}, steps=4, tolerance=0.0)
    torch.testing.assert_close(root @ ours.params["x"], theirs.params["x"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_an_indefinite_hessian_is_an_error(linear_solver):
    solver = GradientRegularizedNewton(linear_solver=linear_solver)
    with pytest.raises(ValueError, match=r"hessian must be positive semidefinite; got .* -"):
        one_step(solver, lambda p: p["x"].square().sum() - 2 * p["x"][0] ** 2, {"x": torch.tensor([1.0, 0.1]).double()})


def test_a_hessian_of_zero_is_none():
    x = {"x": torch.ones(3).double()}
    ours, _, _ = one_step(GradientRegularizedNewton(), lambda p: p["x"].sum(), x)
    none, _, _ = one_step(GradientRegularizedNewton(hessian=None), lambda p: p["x"].sum(), x)
    torch.testing.assert_close(ours["x"], none["x"])


def test_at_the_rounding_of_the_objective_the_radius_collapses_and_says_so():
    found = minimise(GradientRegularizedNewton(), lambda p: 1e6 + p["x"] ** 2 / 2, number(1e-6), tolerance=0.0)
    assert found.status == "stalled"
    assert "the radius collapsed from 1 to 1.82e-12" in found.message
    assert "the gradient's length is 1e-06" in found.message
    assert minimise(GradientRegularizedNewton(), lambda p: 1e6 + p["x"] ** 2 / 2, number(1e-6)).converged


def test_a_trial_outside_the_objectives_domain_is_a_step_too_long():
    found = minimise(GradientRegularizedNewton(gamma=64.0), lambda p: p["x"] - p["x"].log(), number(20.0))
    assert found.converged
    assert found.params["x"].item() == pytest.approx(1.0, abs=1e-6)


def test_a_single_sample_and_all_samples_alike_are_solved():
    for x, y in ((torch.ones(1, 2), torch.ones(1, 1)), (torch.ones(5, 2), torch.ones(5, 1))):
        module = nn.Linear(2, 1)
        objective = module_objective(module, nn.MSELoss(), x, y)
        found = minimise(
            GradientRegularizedNewton(), objective, {name: param.double() for name, param in module.named_parameters()}
        )
        assert found.converged
        assert found.value < 1e-10


def test_the_least_squares_that_samples_give_have_their_solution():
    x, y = drawn(20, 3), drawn(20, 1, seed=2)
    module = nn.Linear(3, 1, bias=False)
    objective = module_objective(module, nn.MSELoss(), x, y)
    found = minimise(GradientRegularizedNewton(), objective, {"weight": module.weight.double()})
    torch.testing.assert_close(found.params["weight"].mT, torch.linalg.lstsq(x, y).solution, rtol=0, atol=1e-5)
    module.load_state_dict(found.params, strict=False)
    assert module.weight.dtype == torch.float32
    torch.testing.assert_close(module.weight.double(), found.params["weight"], rtol=1e-6, atol=0)


def test_float32_parameters_are_refused():
    with pytest.raises(TypeError, match=r"params must be float64, as the search needs; got torch.float32 for 'x'"):
        one_step(GradientRegularizedNewton(), lambda p: p["x"] ** 2, {"x": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hessian": "diagonal"}, "hessian must be one of 'exact', 'gauss_newton', 'fisher'; got 'diagonal'"),
        ({"linear_solver": "lu"}, "linear_solver must be one of 'cholesky', 'cg'; got 'lu'"),
        ({"gamma": 0.0}, r"gamma must lie in \(0, inf\); got 0"),
        ({"attempts": 0}, "attempts must be at least 1; got 0"),
        ({"metric": -torch.eye(2)}, "metric must be a square positive definite matrix"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        GradientRegularizedNewton(**wrong)


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (GradientRegularizedNewton(hessian="fisher"), TypeError, 'objective must be a Composite for hessian="fisher"'),
        (GradientRegularizedNewton(metric=torch.eye(3)), ValueError, r"metric must have shape \(1, 1\); got \(3, 3\)"),
        (
            GradientRegularizedNewton(hessian=lambda p: torch.eye(2)),
            ValueError,
            r"hessian\(params\) must have shape \(1, 1\); got \(2, 2\)",
        ),
    ],
)
def test_what_does_not_fit_the_objective_is_refused(solver, error, message):
    with pytest.raises(error, match=message):
        one_step(solver, lambda p: p["x"] ** 2, number(1.0))


def test_solvers_can_be_pickled():
    solver = pickle.loads(pickle.dumps(GradientRegularizedNewton(hessian="fisher", metric=torch.eye(2))))
    assert solver.hessian == "fisher"
