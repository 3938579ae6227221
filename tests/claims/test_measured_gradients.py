"""The experiments behind the claims on what measured gradients are good for: pruning, batch sizes, schedules."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimand.claims import adadagrad, m_fac, refined_schedules
from minimand.optim import linear_decay, stack_modules

# M-FAC.


@pytest.fixture
def small_network():
    torch.manual_seed(0)
    module = m_fac.network(6, 3)
    params, call = stack_modules([module])
    return module, {name: value[0] for name, value in params.items()}, call


def test_per_sample_gradients_are_autograds_row_by_row(small_network):
    module, params, call = small_network
    inputs, target = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    found = m_fac.per_sample_gradients(call, params, inputs, target)
    for i in range(5):
        module.zero_grad()
        F.cross_entropy(module(inputs[i : i + 1]), target[i : i + 1]).backward()
        wanted = torch.cat([layer.weight.grad.flatten() for layer in module if isinstance(layer, nn.Linear)])
        torch.testing.assert_close(found[i], wanted, rtol=1e-4, atol=1e-6)


def test_weights_put_back_are_the_networks(small_network):
    _, params, _ = small_network
    weights, put_back = m_fac.flattened(params)
    assert len(weights) == 6 * 24 + 24 * 24 + 24 * 3  # no biases
    assert all(torch.equal(put_back(weights)[name], value) for name, value in params.items())


def test_pruning_by_magnitude_takes_the_smallest():
    pruned = m_fac.by_magnitude(torch.tensor([0.3, -0.1, 0.2, -4.0]), 0.5)
    assert torch.equal(pruned, torch.tensor([0.3, 0.0, 0.0, -4.0]))


# AdAdaGrad.


def test_logistic_gradients_are_autograds():
    problem = adadagrad.Logistic.breast_cancer()
    assert problem.inputs.shape == (569, 31)
    weights = torch.linspace(-1, 1, 31, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([3, 500, 77])
    F.binary_cross_entropy_with_logits(problem.inputs[rows] @ weights, problem.target[rows]).backward()
    torch.testing.assert_close(problem.gradients(weights.detach(), rows).mean(0), weights.grad)


def test_descent_on_all_rows_is_torchs_adagrad():
    problem = adadagrad.Logistic.breast_cancer()
    found = adadagrad.descend(problem, adadagrad.ALL, 5 * 569, seed=0)
    assert found.sizes == [569] * 5
    weights = nn.Parameter(torch.zeros(31, dtype=torch.float64))
    optimizer = torch.optim.Adagrad([weights], lr=adadagrad.RATE)
    for _ in range(6):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(problem.inputs @ weights, problem.target).backward()
        last = weights.grad.norm().item()
        optimizer.step()
    assert found.gradient == pytest.approx(last, rel=1e-8)


def test_batches_grow_within_the_budget_and_never_shrink():
    sizes = adadagrad.descend(adadagrad.Logistic.breast_cancer(), "norm", 3000, seed=0).sizes
    assert sizes[0] == adadagrad.FIRST
    assert sizes == sorted(sizes)
    assert sum(sizes[:-1]) < 3000 <= sum(sizes)


# Refined schedules.


@pytest.fixture(scope="module")
def wine():
    return refined_schedules.Regression.of(refined_schedules.load_wine, range(2))


def test_a_tenth_of_the_labels_is_drawn_anew_by_seed(wine):
    clean = torch.from_numpy(refined_schedules.load_wine(return_X_y=True)[1])
    wrong = (wine.target.argmax(-1) != clean).double().mean(1)
    assert ((wrong > 0.02) & (wrong < 0.12)).all()  # two thirds of a tenth in the mean
    assert not torch.equal(wine.target[0], wine.target[1])


def test_descent_is_torchs_sgd_with_the_schedule(wine):
    order = refined_schedules.batches(178, 1, range(2))
    assert all(len(set(each.flatten().tolist())) == 176 for each in order)
    steps = torch.arange(11, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.5], dtype=torch.float64)
    losses, norms = refined_schedules.descend(wine, order, rates, linear_decay(steps, 11).expand(2, -1))
    weights = nn.Parameter(torch.zeros(14, 3, dtype=torch.float64))
    optimizer = torch.optim.SGD([weights], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: linear_decay(step, 11))
    for rows in order[1]:
        optimizer.zero_grad()
        F.cross_entropy(wine.inputs[rows] @ weights, wine.target[1, rows]).backward()
        optimizer.step()
        scheduler.step()
    assert norms[1, 1, -1].item() == pytest.approx(weights.grad.norm().item())
    wanted = F.cross_entropy(wine.inputs @ weights, wine.target[1])
    assert losses[1, 1].item() == pytest.approx(wanted.item())


def test_a_rate_that_diverges_is_not_chosen():
    final = torch.tensor([[0.3, 0.2, torch.nan], [0.3, 0.3, 0.1]])
    assert refined_schedules.chosen(final) == 1
