"""Opposing signals: groups by sorting, derivatives by autograd, and data in which the groups are known."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minimand.optim import OpposingSignalModel, gradient_cosine, opposing_groups, opposing_signals

GOLDEN = OpposingSignalModel(alpha=20.0, beta=torch.tensor([1.0, 0.0], dtype=torch.float64), kappa=0.1)


def params(b, b_o, c):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in (("b", b), ("b_o", b_o), ("c", c))}


POINT = params([0.5, -0.2], 0.3, 1.3)

# Groups.


def test_groups_are_the_ends_of_the_sorted_changes():
    before, after = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = np.argsort((after - before).numpy())
    rise, fall = opposing_groups(before, after, 5)
    assert rise.tolist() == order[::-1][:5].tolist()
    assert fall.tolist() == order[:5].tolist()


def test_a_group_is_a_hundredth_of_the_samples_unless_told():
    assert [len(opposing_groups(torch.zeros(n), torch.zeros(n))[0]) for n in (2, 100, 101, 1000)] == [1, 1, 2, 10]


def test_no_sample_is_in_both_groups_even_where_all_changes_are_equal():
    rise, fall = opposing_groups(torch.zeros(6), torch.ones(6), 3)
    assert (rise.tolist(), fall.tolist()) == ([5, 4, 3], [0, 1, 2])


def test_groups_of_16_bit_losses_are_those_of_their_values():
    before, after = torch.tensor([2000.0, 0.0, 1.0, 1.0]), torch.tensor([2000.0, 1.0, 0.5, 1.0])
    assert [g.tolist() for g in opposing_groups(before.half(), after.half(), 1)] == [[1], [2]]


def test_groups_are_found_under_vmap():
    before, after = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    wanted = [opposing_groups(a, b, 4) for a, b in zip(before, after, strict=True)]
    for i, found in enumerate(torch.vmap(lambda a, b: opposing_groups(a, b, 4))(before, after)):
        assert torch.equal(found, torch.stack([each[i] for each in wanted]))


# Gradients.


def test_the_cosine_is_that_of_the_gradients_of_backward():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    a, b = torch.randn(2, 5, 3)
    gradients = []
    for x in (a, b):
        module.zero_grad()
        module(x).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    found = gradient_cosine(
        lambda own, x: torch.func.functional_call(module, own, x).square().mean(),
        dict(module.named_parameters()),
        a,
        b,
    )
    assert float(found) == pytest.approx(float(torch.cosine_similarity(*gradients, dim=0)), abs=1e-5)


def test_the_cosine_of_huge_and_of_zero_gradients_is_a_number():
    def loss(own, samples):
        return (own["w"] * samples).sum()

    at = {"w": torch.ones(3)}
    assert gradient_cosine(loss, at, torch.full((3,), 1e30), torch.full((3,), -1e-30)).item() == pytest.approx(-1.0)
    assert gradient_cosine(loss, at, torch.zeros(3), torch.ones(3)).item() == 0.0


# The model.


def test_golden_hessian():
    eigenvalues = torch.linalg.eigvalsh(GOLDEN.hessian(params([0.5, -0.2], 0.0, 1.3)))
    assert eigenvalues.tolist() == pytest.approx([0.067828649, 1.69, 1.912171351, 33.8], abs=1e-9)


def test_the_hessian_is_autograds():
    def loss(vector):
        return GOLDEN({"b": vector[:2], "b_o": vector[2], "c": vector[3]})

    vector = torch.cat([POINT["b"], POINT["b_o"][None], POINT["c"][None]])
    torch.testing.assert_close(GOLDEN.hessian(POINT), torch.autograd.functional.hessian(loss, vector))


def test_the_loss_is_the_mean_of_the_groups_above_its_least_value():
    least = GOLDEN.alpha * GOLDEN.kappa**2 / 2
    torch.testing.assert_close(GOLDEN(POINT), GOLDEN.group_losses(POINT).mean() - least)


def test_the_losses_are_those_of_drawn_samples():
    inputs, target = GOLDEN.draw(200_000, seed=0)
    weights = POINT["c"] * torch.cat([POINT["b"], POINT["b_o"][None]])
    each = (inputs @ weights - target).square() / 2
    positive = inputs[:, -1] > 0
    torch.testing.assert_close(inputs[:, -1].square(), torch.full_like(target, 20.0))
    assert 0.49 < float(positive.double().mean()) < 0.51
    found = [float(each[mask].mean()) for mask in (positive, ~positive)]
    assert found == pytest.approx(GOLDEN.group_losses(POINT).tolist(), rel=0.01)


def test_many_parameters_at_once_are_each_alone():
    several = {name: torch.stack([value, 2 * value, -value]) for name, value in POINT.items()}
    for method in (GOLDEN, GOLDEN.group_losses, GOLDEN.hessian):
        alone = [method({name: value[i] for name, value in several.items()}) for i in range(3)]
        torch.testing.assert_close(method(several), torch.stack(alone))


def test_a_model_is_its_own_after_pickling():
    torch.testing.assert_close(pickle.loads(pickle.dumps(GOLDEN))(POINT), GOLDEN(POINT))


# Groups in a data set.


class Linear(nn.Module):
    """c (b.x + b_o x_o), in training mode a little off, so that a loss taken in that mode would show."""

    def __init__(self, b_o=0.0, c=1.3):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([0.5, -0.2, b_o]))
        self.c = nn.Parameter(torch.tensor(c))
        self.unused = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.inner = nn.Dropout(0.5)

    def forward(self, x):
        return self.c * (x @ self.b) + (1.0 if self.training else 0.0)


def squared(outputs, target):
    return (outputs - target).square() / 2


@pytest.fixture
def problem():
    """Drawn samples, of which one in ten has the large feature, a network and one step of gradient descent."""
    signals = OpposingSignalModel(alpha=200.0, beta=torch.tensor([1.0, 0.0]), kappa=0.2)
    inputs, target = signals.draw(200, seed=0)
    common = torch.arange(200) % 10 > 0
    inputs[common, -1] = 0
    target[common] = inputs[common, 0]
    return Linear(b_o=0.004), inputs, target


def stepper(model, inputs, target, lr=0.065):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)

    def step():
        assert model.training
        optimizer.zero_grad()
        squared(model(inputs) - 1, target).mean().backward()
        optimizer.step()

    return step


def loader(inputs, target, **options):
    return DataLoader(TensorDataset(inputs, target), batch_size=64, **options)


def test_the_groups_found_are_the_two_signs_of_the_large_feature(problem):
    model, inputs, target = problem
    found = opposing_signals(model, squared, loader(inputs, target), stepper(*problem), k=5, follow=8)
    signs = [inputs[group, -1].sign().unique().tolist() for group in (found.rise, found.fall)]
    assert sorted(signs) == [[-1.0], [1.0]]
    assert found.cosine < -0.9
    assert found.correlation < -0.9
    assert model.training
    assert not model.c.grad.isnan()


def test_the_losses_are_those_of_the_groups_before_and_after(problem):
    model, inputs, target = problem
    start = squared(model.eval()(inputs), target).detach()
    model.train()
    found = opposing_signals(model, squared, [(inputs, target)], stepper(*problem), k=5, follow=0)
    end = squared(model.eval()(inputs), target).detach()
    groups = opposing_groups(start, end, 5)
    assert (found.rise.tolist(), found.fall.tolist()) == tuple(g.tolist() for g in groups)
    torch.testing.assert_close(found.before, torch.stack([start[g].mean() for g in groups]))
    torch.testing.assert_close(found.after, torch.stack([end[g].mean() for g in groups]))
    assert found.losses.shape == (1, 2)
    assert math.isnan(found.correlation)


def test_the_correlation_is_that_of_the_groups_changes_over_the_steps_that_follow(problem):
    model, inputs, target = problem
    losses = []
    step = stepper(*problem)

    def recorded():
        step()
        with torch.no_grad():
            losses.append(squared(model.eval()(inputs), target))
        model.train()

    found = opposing_signals(model, squared, loader(inputs, target), recorded, k=5, follow=6)
    wanted = torch.stack([torch.stack([each[g].mean() for g in (found.rise, found.fall)]) for each in losses])
    torch.testing.assert_close(found.losses, wanted)
    assert found.correlation == pytest.approx(np.corrcoef(np.diff(wanted.double().numpy().T))[0, 1], abs=1e-4)


def test_the_cosine_is_of_gradients_before_the_step(problem):
    model, inputs, target = problem
    start = {name: value.clone() for name, value in model.state_dict().items()}
    found = opposing_signals(model, squared, loader(inputs, target), stepper(*problem), k=5, follow=3)
    model.load_state_dict(start)
    model.eval()
    gradients = []
    for group in (found.rise, found.fall):
        model.zero_grad()
        squared(model(inputs[group]), target[group]).mean().backward()
        gradients.append(torch.cat([model.b.grad, model.c.grad[None]]))
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(*gradients, dim=0)), abs=1e-5)


def test_inputs_may_be_several_and_of_another_length_in_every_batch():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.1))

        def forward(self, x, scale):
            return self.weight * (x.sum(1) * scale)

    model = Sum()
    batches = [((torch.ones(3, n), torch.tensor([1.0, -1.0, 0.1])), torch.ones(3)) for n in (2, 5)]

    def step():
        with torch.no_grad():
            model.weight += 0.1

    found = opposing_signals(model, squared, batches, step, k=1, follow=1)
    assert (found.rise.item(), found.fall.item()) == (4, 0)
    assert found.cosine == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": squared}, TypeError, "model must be an nn.Module; got function"),
        ({"follow": -1}, ValueError, "follow must be at least 0; got -1"),
        ({"follow": 1.0}, TypeError, "follow must be an integer of at least 0; got float"),
        ({"k": 101}, ValueError, r"k must lie in \[1, 100\]; got 101"),
        ({"k": 0}, ValueError, "got 0"),
        ({"k": 1.0}, TypeError, "k must be an integer of at least 1; got float"),
        ({"loss": nn.MSELoss()}, ValueError, r"one number a sample; got \(\)"),
        ({"batches": []}, ValueError, "at least 2 samples, for two groups; got 0"),
    ],
)
def test_what_does_not_fit_is_refused(problem, change, error, message):
    model, inputs, target = problem
    given = {"model": model, "loss": squared, "batches": [(inputs, target)], "step": stepper(*problem), **change}
    with pytest.raises(error, match=message):
        opposing_signals(**given)


def test_batches_that_come_once_or_in_another_order_are_refused(problem):
    model, inputs, target = problem
    with pytest.raises(ValueError, match="batches must come as often as they are read; got 200 samples, then 0"):
        opposing_signals(model, squared, iter([(inputs, target)]), stepper(*problem))
    with pytest.raises(ValueError, match="batches must come in the same order each time"):
        opposing_signals(model, squared, loader(inputs, target, shuffle=True), stepper(*problem), k=5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: opposing_groups(torch.zeros(4), torch.zeros(3)), ValueError, "loss_after must have loss_before's"),
        (lambda: opposing_groups(torch.zeros(4, 1), torch.zeros(4, 1)), ValueError, "1 dimensions"),
        (lambda: opposing_groups([0.0, 1.0], torch.zeros(2)), TypeError, "loss_before must be"),
        (lambda: opposing_groups(torch.zeros(2).long(), torch.zeros(2)), TypeError, "torch.int64"),
        (lambda: opposing_groups(torch.zeros(2), torch.tensor([0.0, torch.nan])), ValueError, "loss_after.*NaN"),
        (lambda: opposing_groups(torch.zeros(1), torch.zeros(1)), ValueError, "at least 2 samples"),
        (lambda: OpposingSignalModel(0.0, torch.ones(2)), ValueError, "alpha must lie in"),
        (lambda: OpposingSignalModel(1.0, torch.ones(2), kappa=-1.0), ValueError, "kappa must lie in"),
        (lambda: OpposingSignalModel(1.0, torch.ones(2, 2)), ValueError, "beta must have 1 dimensions"),
        (lambda: GOLDEN({"b": torch.ones(2)}), ValueError, r"params must hold b, b_o and c; got \['b'\]"),
        (lambda: GOLDEN({**POINT, "b": torch.ones(3)}), ValueError, r"got \(3,\)"),
        (lambda: GOLDEN({**POINT, "c": torch.ones(3)}), ValueError, r"params\['c'\] must have shape \(\); got \(3,\)"),
    ],
)
def test_wrong_groups_and_models_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
