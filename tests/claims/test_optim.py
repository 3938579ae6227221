"""The experiments behind the claims about update rules: that their problems and references are what they say."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from torch import nn

from minimand.claims import adabelief, adamp, diffgrad, lion_k
from minimand.claims._splits import over_splits, table_row
from minimand.claims.claim import Effect, find, judge
from minimand.optim import rules
from minimand.study import Budget

FLOAT64 = {"dtype": torch.float64}


# AdaBelief and the studies that the claims share.


@pytest.mark.parametrize("methods", [adabelief.METHODS, diffgrad.METHODS, adamp.METHODS])
def test_both_methods_of_a_study_try_the_same_learning_rates(methods):
    found = over_splits("iris", methods, splits=1, seed=0, budget=Budget(steps=2, candidates=4, curve_points=1))
    tried = [[candidate.hypers["rule.lr"] for candidate in rows[0].candidates] for rows in found.values()]
    assert len(tried) == 2
    assert len(set(tried[0])) == 4
    assert tried[0] == tried[1]


def test_every_split_has_rows_and_rates_of_its_own_and_the_next_seed_none_of_them():
    budget = Budget(steps=2, candidates=3, curve_points=1)
    found = [over_splits("iris", {"rule": "adam"}, splits=2, seed=s, budget=budget)["adam"] for s in (0, 2)]
    rates = {row.candidates[1].hypers["rule.lr"] for rows in found for row in rows}
    assert len(rates) == 4


def test_scores_of_splits_are_summed_up_as_mean_lowest_and_highest():
    budget = Budget(steps=5, candidates=1, curve_points=1)
    rows = over_splits("iris", {"rule": "adam"}, splits=3, seed=0, budget=budget)["adam"]
    scores = [row.mean for row in rows]
    assert table_row(rows) == pytest.approx((3, np.mean(scores), min(scores), max(scores), 1e-3))


# diffGrad.


@pytest.mark.parametrize(
    ("curve", "x", "value"),
    [
        ("F1", -1.0, 0.49),
        ("F1", -0.3, 0.0),
        ("F1", 0.2, 0.05),
        ("F1", 1.0, 0.69),
        ("F2", -1.0, 4.85),
        ("F2", -0.9, 0.85),
        ("F2", 0.0, 0.85),
        ("F2", 0.5, 0.125 + 0.5 * np.sin(4.0) + 0.85),
    ],
)
def test_curves_have_the_papers_values(curve, x, value):
    assert diffgrad.CURVES[curve].value(torch.tensor(x, **FLOAT64)).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", ["F1", "F2"])
def test_curves_have_their_minima_where_the_claim_looks_for_them(name):
    curve = diffgrad.CURVES[name]
    for minimum in (curve.lower, curve.higher):
        near = minimum + torch.tensor([-0.05, -1e-4, 0.0, 1e-4, 0.05], **FLOAT64)
        assert curve.value(near).argmin() == 2, minimum
    grid = torch.linspace(-1, 1, 20_001, **FLOAT64)
    assert grid[curve.value(grid).argmin()].item() == pytest.approx(curve.lower, abs=1e-4)


def test_descending_is_what_torchs_adam_does():
    x = nn.Parameter(torch.tensor(diffgrad.START, **FLOAT64))
    optimizer = torch.optim.Adam([x], lr=diffgrad.RATE, betas=(diffgrad.BETA1, 0.999))
    path = [x.item()]
    for _ in range(diffgrad.STEPS):
        optimizer.zero_grad()
        diffgrad.wave(x).backward()
        optimizer.step()
        path.append(x.item())
    assert diffgrad.descend(rules.AdamW(), diffgrad.wave) == pytest.approx(path, abs=1e-9)


@pytest.mark.parametrize("name", ["F1", "F2"])
def test_without_its_friction_diffgrad_would_fail(name):
    curve = diffgrad.CURVES[name]
    verdicts = []
    for rule in (rules.DiffGrad(), rules.AdamW()):
        end = diffgrad.descend(rule, curve.value)[-1]
        threshold = {"end": find("diffgrad").thresholds[f"diffGrad on {name}"]}
        verdicts.append(judge(threshold, {"end": Effect.exact(abs(end - curve.lower))})["end"])
    assert verdicts == ["holds", "fails"]


# AdamP.


def test_the_rayleigh_quotients_gradient_is_autograds_and_orthogonal_to_the_weight():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 5, 5, generator=generator, **FLOAT64)
    matrix = matrix + matrix.mT
    weight = torch.randn(3, 5, generator=generator, **FLOAT64, requires_grad=True)
    (expected,) = torch.autograd.grad(adamp.rayleigh(weight, matrix).sum(), weight)
    found = adamp.rayleigh_gradient(weight, matrix)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert (found * weight).sum(1).abs().max() < 1e-14


def test_rayleigh_quotients_have_the_matrixs_eigenvalues():
    matrix = torch.diag(torch.tensor([2.0, 6.0], **FLOAT64))[None]
    weights = torch.tensor([[3.0, 0.0], [0.0, 0.1], [1.0, 1.0]], **FLOAT64)
    assert adamp.rayleigh(weights, matrix.expand(3, 2, 2)).tolist() == pytest.approx([1.0, 3.0, 2.0])


def test_without_momentum_the_projection_changes_nothing(monkeypatch):
    # A gradient of a scale-invariant weight has no radial part: it is momentum that brings one in.
    monkeypatch.setattr(adamp, "STEPS", 50)
    monkeypatch.setattr(adamp, "MOMENTUM", 0.0)
    plain, projected = (adamp.descend(rule, 4, seed=0)[0] for rule in (rules.Momentum(), rules.SGDP()))
    torch.testing.assert_close(plain, projected, rtol=1e-12, atol=0)


def test_projected_steps_grow_the_norm_by_their_own_length_alone(monkeypatch):
    monkeypatch.setattr(adamp, "STEPS", 50)
    squares, _, _ = adamp.descend(rules.SGDP(), 4, seed=0)
    slower, _, _ = adamp.descend(rules.Momentum(), 4, seed=0)
    assert (squares.diff(dim=0) > 0).all()
    assert (squares[-1] < slower[-1]).all()


def test_batch_normalisation_makes_the_networks_hidden_weights_scale_invariant():
    torch.manual_seed(0)
    model = adamp.batch_norm_mlp(6, 3).double()
    inputs = torch.randn(40, 6, **FLOAT64)
    before = model(inputs)
    with torch.no_grad():
        model[0].weight.mul_(torch.linspace(0.5, 2.0, 64, **FLOAT64)[:, None])
    torch.testing.assert_close(model(inputs), before, rtol=0, atol=1e-3)
    nn.functional.cross_entropy(model(inputs), torch.arange(40) % 3).backward()
    for layer in (model[0], model[3]):
        _, projected = rules.radial_projection(layer.weight.grad, layer.weight, layer.weight.grad, delta=0.1)
        assert projected
    _, projected = rules.radial_projection(model[6].weight.grad, model[6].weight, model[6].weight.grad, delta=0.1)
    assert not projected


# Lion-K.


def test_the_minimiser_in_the_box_is_that_of_bounded_least_squares():
    problem = lion_k.LeastSquares.drawn(3, seed=0)
    ours = problem.best_in_box(1.0)
    for i, x in enumerate(ours):
        theirs = lsq_linear(problem.matrix[i].numpy(), problem.target[i].numpy(), (-1, 1), tol=1e-14)
        assert problem.value(ours)[i].item() == pytest.approx(theirs.cost, rel=1e-10)
        np.testing.assert_allclose(x.numpy(), theirs.x, atol=1e-6)


def test_the_minimiser_in_the_box_meets_the_optimality_conditions():
    problem = lion_k.LeastSquares.drawn(3, seed=0)
    x = problem.best_in_box(1.0)
    grad = problem.gradient(x)
    inside = x.abs() < 1 - 1e-9
    assert grad[inside].abs().max() < 1e-4
    assert (grad[~inside] * x[~inside] <= 0).all()  # downhill is outward, where there is no going on


def test_least_squares_has_the_gradient_of_its_value():
    problem = lion_k.LeastSquares.drawn(2, seed=0)
    x = torch.ones(2, lion_k.UNKNOWNS, **FLOAT64, requires_grad=True)
    (expected,) = torch.autograd.grad(problem.value(x).sum(), x)
    torch.testing.assert_close(problem.gradient(x), expected)


def test_excess_counts_from_the_boxs_bounds():
    assert lion_k.excess(torch.tensor([-3.0, -1.0, 0.5, 1.25])).tolist() == [2.0, 0.0, 0.0, 0.25]


def test_a_decay_that_is_too_weak_is_seen(monkeypatch):
    # Lion with half the decay comes into a box of twice the size, and at half the rate.
    class Weak(rules.LionK):
        def update(self, grad, state, param, hyper):
            return super().update(grad, state, param, {**hyper, "weight_decay": hyper["weight_decay"] / 2})

    monkeypatch.setattr(lion_k.rules, "LionK", Weak)
    found = lion_k.run("smoke", 0)
    assert judge(find("lion-k").thresholds, found.effects)["entry"] == "fails"
