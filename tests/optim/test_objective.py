"""Objectives: what a module's loss is as a function of its parameters, and how a composite takes its loss."""

import pytest
import torch
from torch import nn

from minimand.optim import Composite, module_objective
from minimand.optim.objective import flatten, norm, unflatten, value_and_gradient


@pytest.fixture
def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X, Y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_modules_objective_is_its_loss(network, reduction):
    objective = module_objective(network, nn.CrossEntropyLoss(reduction=reduction), X, Y)
    expected = nn.CrossEntropyLoss()(network(X), Y)
    torch.testing.assert_close(objective(dict(network.named_parameters())), expected)


def test_the_gradient_is_what_backward_gives(network):
    nn.CrossEntropyLoss()(network(X), Y).backward()
    objective = module_objective(network, nn.CrossEntropyLoss(), X, Y)
    value, gradient = value_and_gradient(objective, dict(network.named_parameters()))
    assert not value.requires_grad
    for name, param in network.named_parameters():
        torch.testing.assert_close(gradient[name], param.grad)


def test_a_float32_module_is_evaluated_in_its_parameters_type(network):
    objective = module_objective(network, nn.CrossEntropyLoss(), X, Y)
    value = objective({name: param.double() for name, param in network.named_parameters()})
    wide = nn.Sequential(*[part.double() for part in network])
    torch.testing.assert_close(value, nn.CrossEntropyLoss()(wide(X.double()), Y), rtol=1e-14, atol=0)


def test_parameters_that_are_not_handed_over_keep_their_values(network):
    objective = module_objective(network, nn.CrossEntropyLoss(), X, Y)
    last = {"2.bias": torch.ones(2, dtype=torch.float64)}
    with torch.no_grad():
        network[2].bias.fill_(1.0)
    torch.testing.assert_close(objective(last).float(), nn.CrossEntropyLoss()(network(X), Y))


def test_several_inputs_and_real_targets_follow_the_parameters_type():
    module, a, b = nn.Bilinear(2, 3, 1), torch.randn(5, 2), torch.randn(5, 3)
    objective = module_objective(module, nn.MSELoss(), (a, b), torch.zeros(5, 1))
    value = objective({name: param.double() for name, param in module.named_parameters()})
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.float(), module(a, b).square().mean())


@pytest.mark.parametrize("part", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_a_module_that_draws_or_updates_must_be_put_in_evaluation_mode(part):
    module = nn.Sequential(part, nn.Linear(3, 1))
    with pytest.raises(ValueError, match=rf"module must draw and update nothing.*got {type(part).__name__} at '0'"):
        module_objective(module, nn.MSELoss(), X, X[:, :1])
    module_objective(module.eval(), nn.MSELoss(), X, X[:, :1])(dict(module.named_parameters()))


def test_losses_a_sample_are_averaged_and_single_losses_taken_as_they_are():
    z = torch.tensor([1.0, 3.0])
    assert Composite(lambda p: z, torch.square).value(z) == 5
    assert Composite(lambda p: z, lambda z: z.square().sum()).value(z) == 10


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z: z[:1], r"loss\(outputs\) must be a scalar or have shape \(2,\).*got \(1,\)"),
        (lambda z: torch.ones(2, 2), r"got \(2, 2\)"),
    ],
)
def test_a_loss_of_another_shape_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        Composite(lambda p: p["x"], loss)({"x": torch.zeros(2)})


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="outputs must hold at least one sample; got none"):
        Composite(lambda p: p["x"], torch.square)({"x": torch.zeros(0)})


def test_a_mean_has_no_losses_a_sample():
    with pytest.raises(ValueError, match=r"loss must give one number a sample.*got a single number"):
        Composite(lambda p: p["x"], torch.mean).per_sample(torch.zeros(2))


def test_parameters_laid_end_to_end_come_back_as_they_were():
    params = {"a": torch.randn(2, 3), "b": torch.randn(()), "c": torch.randn(4)}
    back = unflatten(flatten(params), params)
    assert all(torch.equal(back[name], param) for name, param in params.items())
    assert flatten(params).shape == (11,)


def test_lengths_of_huge_parts_do_not_overflow():
    assert norm({"a": torch.tensor([3e30]), "b": torch.tensor([4e30])}).item() == pytest.approx(5e30)


def test_parameters_without_influence_have_gradient_zero():
    params = {"a": torch.ones(2), "b": torch.ones(1)}
    assert value_and_gradient(lambda p: p["a"].sum(), params)[1]["b"].tolist() == [0.0]
    assert value_and_gradient(lambda p: torch.tensor(3.0), params)[1]["a"].tolist() == [0.0, 0.0]
