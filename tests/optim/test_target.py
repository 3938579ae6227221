"""Target surrogates against closed forms, and the bound that they are."""

import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimand.optim import (
    Armijo,
    Composite,
    Descent,
    GradientRegularizedNewton,
    TargetSurrogate,
    minimise,
    module_objective,
    rules,
)
from minimand.optim.solvers.target import quadratic_model

X = torch.tensor([[1.0, 2.0], [0.0, 1.0], [2.0, -1.0]]).double()
Y = torch.tensor([1.0, -1.0, 1.0]).double()
LOGISTIC = Composite(lambda p: X @ p["w"], lambda z: F.softplus(-Y * z))
ZERO = {"w": torch.zeros(2).double()}


def one_step(solver, objective=LOGISTIC, params=ZERO):
    return solver.step(objective, params, solver.init(params))


def descent(lr):
    return Descent(rules.SGD(), {"lr": lr})


@pytest.mark.parametrize(("steps", "w"), [(1, 1.0), (3, 1.194444444), (200, 1.2)])
def test_logistic_regression_has_the_golden_weights(steps, w):
    params, _, info = one_step(TargetSurrogate(eta=4.0, inner=descent(2.0), steps=steps))
    assert params["w"].tolist() == pytest.approx([w, 0.0], abs=1e-8)
    assert info.oracle_calls == 1


@pytest.mark.parametrize(
    "inner", [Armijo(), GradientRegularizedNewton(hessian="gauss_newton"), Descent(rules.AdamW(), {"lr": 0.03})]
)
def test_whatever_the_inner_solver_the_surrogate_has_one_minimum(inner):
    params, _, _ = one_step(TargetSurrogate(eta=4.0, inner=inner, steps=150))
    # w - eta (X^T X)^{-1} X^T l', with the samples' own derivatives l'
    slope = -Y / 2
    expected = -4.0 * torch.linalg.solve(X.mT @ X, X.mT @ slope)
    torch.testing.assert_close(params["w"], expected, rtol=0, atol=0.02 if isinstance(inner, Descent) else 1e-5)


def test_one_step_at_one_over_the_smoothness_is_gradient_descent():
    lr = 4.0 / torch.linalg.eigvalsh(X.mT @ X / 3)[-1].item()
    ours = minimise(TargetSurrogate(eta=4.0, inner=descent(lr), steps=1), LOGISTIC, ZERO, steps=5)
    theirs = minimise(descent(lr), LOGISTIC, ZERO, steps=5)
    torch.testing.assert_close(ours.params["w"], theirs.params["w"], rtol=0, atol=1e-14)
    assert ours.grad_norm == pytest.approx(theirs.grad_norm)
    assert [info.value for info in ours.history] == pytest.approx([info.value for info in theirs.history])


@pytest.mark.parametrize(
    ("loss", "smoothness"),
    [
        (lambda z: F.cross_entropy(z, torch.tensor([0, 2, 1, 1]), reduction="none"), 0.5),
        (lambda z: F.cross_entropy(z, torch.tensor([0, 2, 1, 1])), 0.5),
        (lambda z: F.softplus(z).sum(1), 0.25),
        (lambda z: z.square().sum(1) / 2, 1.0),
        (lambda z: z.square().sum() / 2, 4.0),  # a sum over four samples: their number times as smooth
    ],
)
def test_the_model_lies_over_the_loss_where_eta_is_one_over_the_smoothness(loss, smoothness):
    objective = Composite(lambda p: p["z"], loss)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        around, outputs = 3 * torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
        slope, value = torch.func.grad_and_value(objective.value)(around)
        assert quadratic_model(outputs, value, slope, around, 1 / smoothness) >= objective.value(outputs) - 1e-12
        torch.testing.assert_close(quadratic_model(around, value, slope, around, 1.0), value)


@pytest.mark.parametrize("inner", [Armijo(), Descent(rules.AdamW(), {"lr": 0.3}), descent(100.0)])
def test_the_loss_of_a_network_never_rises(inner):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    objective = module_objective(network, nn.CrossEntropyLoss(), torch.randn(12, 2), torch.arange(12) % 3)
    solver = TargetSurrogate(eta=2.0, inner=inner, steps=5)
    values = [info.value for info in minimise(solver, objective, dict(network.named_parameters()), steps=15).history]
    assert all(after <= before + 1e-12 for before, after in pairwise(values))


def test_a_first_step_that_raises_the_surrogate_is_taken_back_and_said():
    found = minimise(TargetSurrogate(eta=4.0, inner=descent(1e3)), LOGISTIC, ZERO)
    assert found.status == "stalled"
    assert "the first step raises the surrogate from 0.693147 to" in found.message
    assert torch.equal(found.params["w"], ZERO["w"])


def test_a_step_to_infinity_is_taken_back():
    found = minimise(TargetSurrogate(eta=4.0, inner=descent(1e308)), LOGISTIC, ZERO)
    assert (found.status, found.params["w"].tolist()) == ("stalled", [0.0, 0.0])


def test_a_stationary_point_is_converged():
    objective = Composite(lambda p: p["z"], lambda z: z.square())
    assert minimise(TargetSurrogate(eta=1.0), objective, {"z": torch.zeros(3)}, tolerance=0.0).converged


def test_eta_may_decay_with_the_step():
    solver = TargetSurrogate(eta=lambda t: 4.0 / (t + 1), inner=descent(0.1))
    params, state, first = one_step(solver)
    _, state, second = solver.step(LOGISTIC, params, state)
    assert (first.numbers["eta"], second.numbers["eta"], state["step"].item()) == (4.0, 2.0, 2)


def test_the_loss_is_evaluated_once_a_step():
    calls = []

    def loss(z):
        calls.append(1)
        return F.softplus(-Y * z)

    one_step(TargetSurrogate(eta=4.0, steps=20), Composite(LOGISTIC.outputs, loss))
    assert len(calls) == 1


def test_parameters_keep_their_type():
    objective = Composite(lambda p: X.float() @ p["w"], lambda z: F.softplus(-Y.float() * z))
    params, _, _ = one_step(TargetSurrogate(eta=4.0), objective, {"w": torch.zeros(2)})
    assert params["w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"eta": 0.0}, ValueError, r"eta must lie in \(0, inf\); got 0"),
        ({"steps": 0}, ValueError, "steps must be at least 1; got 0"),
        ({"inner": rules.AdamW()}, TypeError, r"inner must be a solver, such as Descent\(AdamW\(\)\); got AdamW"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        TargetSurrogate(**{"eta": 1.0, **wrong})


def test_a_plain_function_is_refused():
    with pytest.raises(TypeError, match=r"objective must be a Composite.*got function"):
        one_step(TargetSurrogate(eta=1.0), lambda p: p["w"].sum())


def test_solvers_can_be_pickled():
    solver = TargetSurrogate(eta=4.0, inner=descent(2.0))
    assert pickle.loads(pickle.dumps(solver)) == solver
