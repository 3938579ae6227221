"""The pieces of the experiments on sharp curvature and on groups that pull apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from minimand.claims import batch_size_learning_rate, opposing_signals

# Rates and batch sizes.


def test_inputs_are_uncorrelated_and_of_variance_1():
    inputs, target = batch_size_learning_rate.digits(200, seed=0)
    torch.testing.assert_close(inputs.T @ inputs / 200, torch.eye(10), atol=1e-4, rtol=0)
    assert target.shape == (200,)


def test_the_mean_of_the_samples_hessians_is_the_batchs():
    inputs, target = batch_size_learning_rate.digits(20, seed=0)
    objective, weights = batch_size_learning_rate.trained(inputs, target, seed=0)
    each = batch_size_learning_rate.sample_hessians(objective, weights, inputs, target)
    v = F.normalize(torch.randn(len(weights), generator=torch.Generator().manual_seed(0)), dim=0)
    at = weights.requires_grad_()
    (gradient,) = torch.autograd.grad(objective(at, inputs, target), at, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ v, at)
    torch.testing.assert_close(each.mean(0) @ v, product, atol=1e-4, rtol=1e-3)


def test_the_slope_is_the_power_and_undefined_where_there_is_no_excess():
    assert batch_size_learning_rate.slope([1.0, 2.0, 4.0], [3.0, 1.5, 0.75]) == pytest.approx(-1.0)
    assert math.isnan(batch_size_learning_rate.slope([1.0, 2.0], [1.0, -0.1]))


# Opposing signals.


def test_descent_is_stable_below_the_largest_curvature_and_spikes_above():
    model, starts = opposing_signals.problem(3, seed=0)
    fast = opposing_signals.descend(model, starts, opposing_signals.RATE, steps=130)
    slow = opposing_signals.descend(model, starts, opposing_signals.SLOWER, steps=130)
    assert None not in fast.crossings()
    assert slow.crossings() == [None, None, None]
    assert bool((slow.loss.diff(dim=0) <= 0).all())
    assert bool((fast.loss[60:].amax(0) > 0.1).all())
    for i, at in enumerate(fast.crossings()):
        assert fast.curvature[at - 1, i] <= 2 / fast.rate < fast.curvature[at, i]
