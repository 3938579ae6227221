"""The loop that runs solvers, and the two plain ones."""

import pickle

import pytest
import torch
from torch import nn

from minimand.optim import (
    Armijo,
    Descent,
    GradientRegularizedNewton,
    NormalizedLogistic,
    StepInfo,
    TargetSurrogate,
    margin_objective,
    minimise,
    module_objective,
    rules,
)


def half_square(params):
    return sum((k + 1) * (p - k).square().sum() / 2 for k, p in enumerate(params.values()))


def start(dtype=torch.float64):
    return {"a": torch.full((2, 3), 2.0, dtype=dtype), "b": torch.full((4,), -1.0, dtype=dtype)}


# minimise


def test_a_quadratic_is_minimised_where_its_gradient_is_zero():
    found = minimise(Descent(rules.SGD(), {"lr": 0.5}), half_square, start(), tolerance=1e-10)
    assert found.converged
    assert found.message.startswith("the gradient's length is")
    assert found.grad_norm <= 1e-10
    torch.testing.assert_close(found.params["a"], torch.zeros(2, 3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.params["b"], torch.ones(4).double(), rtol=0, atol=1e-9)


def test_what_is_reported_belongs_to_the_parameters_returned():
    for steps in (0, 3, 200):
        found = minimise(Descent(rules.SGD(), {"lr": 0.5}), half_square, start(), steps=steps)
        assert found.value == half_square(found.params).item()
        assert found.status == ("converged" if steps == 200 else "out of steps")
    assert minimise(Descent(rules.SGD()), half_square, start(), steps=3).message.startswith("after 3 steps")


def test_the_history_has_the_value_and_gradient_at_every_step():
    found = minimise(Descent(rules.SGD(), {"lr": 0.5}), lambda p: p["x"] ** 2 / 2, {"x": torch.tensor(8.0)}, steps=3)
    assert [info.value for info in found.history] == [32.0, 8.0, 2.0]
    assert [info.grad_norm for info in found.history] == [8.0, 4.0, 2.0]
    assert (found.value, found.params["x"].item(), found.oracle_calls) == (0.5, 1.0, 3)


def test_nothing_that_is_given_is_written_to():
    module = nn.Linear(2, 1)
    before = {name: param.clone() for name, param in module.named_parameters()}
    objective = module_objective(module, nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 1))
    found = minimise(Armijo(), objective, dict(module.named_parameters()), steps=20)
    assert all(torch.equal(param, before[name]) for name, param in module.named_parameters())
    assert not any(param.requires_grad for param in found.params.values())
    module.load_state_dict(found.params, strict=False)
    assert nn.functional.mse_loss(module(torch.ones(3, 2)), torch.ones(3, 1)).item() == pytest.approx(found.value)


def test_going_on_from_a_state_is_going_on():
    solver = Descent(rules.AdamW(), {"lr": 0.1})
    whole = minimise(solver, half_square, start(), steps=7)
    first = minimise(solver, half_square, start(), steps=4)
    rest = minimise(solver, half_square, first.params, steps=3, state=first.state)
    assert all(torch.equal(whole.params[name], rest.params[name]) for name in whole.params)


@pytest.mark.parametrize(
    "solver",
    [Armijo(), Descent(rules.SGD()), GradientRegularizedNewton(), TargetSurrogate(eta=1.0), NormalizedLogistic()],
)
def test_a_step_from_a_modules_own_parameters_carries_no_graph(solver):
    module = nn.Linear(2, 1).double()
    objective = margin_objective(module, torch.ones(3, 2), torch.tensor([1, -1, 1]))
    params = dict(module.named_parameters())
    found, state, _ = solver.step(objective, params, solver.init(params))
    assert not any(tensor.requires_grad for tensor in (*found.values(), *state.values()))


def test_a_solver_that_stalls_ends_the_run_with_its_message():
    class Refuses:
        def init(self, params):
            return {}

        def step(self, objective, params, state):
            return params, state, StepInfo(1.0, 2.0, 1, "stalled", "no step was good")

    found = minimise(Refuses(), half_square, start())
    assert (found.status, found.message, found.value, len(found.history)) == ("stalled", "no step was good", 1.0, 1)


@pytest.mark.parametrize("solver", [Descent(rules.SGD()), Armijo()])
@pytest.mark.parametrize(("function", "what"), [(torch.log, "objective is nan"), (torch.sqrt, "length is inf")])
def test_an_objective_without_a_finite_value_or_gradient_stalls(solver, function, what):
    x = torch.tensor(-1.0 if function is torch.log else 0.0)
    found = minimise(solver, lambda p: function(p["x"]), {"x": x})
    assert found.status == "stalled"
    assert what in found.message
    assert torch.equal(found.params["x"], x)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0; got -1"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be at least 0; got nan"),
        ({"params": {}}, ValueError, "params must hold at least one tensor; got none"),
        ({"params": {"x": torch.tensor(1)}}, TypeError, r"params\['x'\] must be a floating-point tensor"),
    ],
)
def test_minimise_refuses_what_it_cannot_use(wrong, error, message):
    with pytest.raises(error, match=message):
        minimise(Armijo(), half_square, **{"params": start(), **wrong})


# Descent


@pytest.mark.parametrize(
    ("rule", "hypers", "theirs"),
    [
        (rules.SGD(), {"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
        (rules.AdamW(), {"lr": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0)),
    ],
)
def test_a_rule_descends_as_torchs_optimizer(rule, hypers, theirs):
    params = {name: nn.Parameter(param) for name, param in start().items()}
    optimizer = theirs(list(params.values()))
    for _ in range(5):
        optimizer.zero_grad()
        half_square(params).backward()
        optimizer.step()
    hypers = {**hypers, **({"weight_decay": 0.0} if "weight_decay" in rule.hypers else {})}
    found = minimise(Descent(rule, hypers), half_square, start(), steps=5)
    for name, param in params.items():
        torch.testing.assert_close(found.params[name], param.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [rules.Muon(), rules.AdaGradNorm()])
def test_rules_of_matrices_and_of_whole_groups_descend_too(rule):
    found = minimise(Descent(rule, {"lr": 0.02}), half_square, start(), steps=20)
    assert found.value < half_square(start()).item()


def test_a_number_that_the_rule_does_not_have_is_refused():
    with pytest.raises(ValueError, match="SGD takes lr, weight_decay; got 'momentum'"):
        Descent(rules.SGD(), {"momentum": 0.9})


# Armijo


def test_the_first_rate_that_satisfies_the_condition_is_taken():
    solver, params = Armijo(c=0.3, shrink=0.7, growth=2.0, rate=5.0), {"x": torch.tensor([1.0, -2.0]).double()}

    def objective(p):
        return p["x"][0] ** 4 + p["x"][1] ** 2

    gradient = torch.tensor([4.0, -4.0]).double()
    rates = [5.0 * 0.7**k for k in range(20)]
    enough = [
        objective({"x": params["x"] - r * gradient}) <= objective(params) - 0.3 * r * gradient.square().sum()
        for r in rates
    ]
    expected = rates[enough.index(True)]
    found, state, info = solver.step(objective, params, solver.init(params))
    torch.testing.assert_close(found["x"], params["x"] - expected * gradient)
    assert info.numbers["rate"] == pytest.approx(expected)
    assert state["rate"].item() == pytest.approx(2 * expected)


def test_a_slope_that_promises_what_is_not_there_stalls_with_its_numbers():
    def kinked(p):  # its gradient at 0 is taken for 1, where every step goes up
        return torch.where(p["x"] < 0, -p["x"], p["x"])

    found = minimise(Armijo(attempts=5), kinked, {"x": torch.tensor(0.0)})
    assert found.status == "stalled"
    assert "no rate down to 0.656 lowers the objective enough: from 0 to 0 at best" in found.message


def test_at_a_minimum_the_line_search_has_converged():
    assert minimise(Armijo(), half_square, {"a": torch.zeros(2)}, tolerance=0.0).converged


@pytest.mark.parametrize(
    "wrong", [{"c": 0.0}, {"c": 1.0}, {"shrink": 1.0}, {"growth": 0.5}, {"rate": 0.0}, {"attempts": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must .*; got "):
        Armijo(**wrong)


def test_solvers_can_be_pickled():
    for solver in (Armijo(c=0.3), Descent(rules.AdamW(), {"lr": 0.1})):
        assert pickle.loads(pickle.dumps(solver)) == solver
