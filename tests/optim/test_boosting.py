"""Boosted networks: golden steps, the merged network is the additive model, and what is asked of the data."""

import pickle

import pytest
import torch
from torch import Tensor

from minimand.optim import BoostedNetwork, newton_step


def waves(rows: int = 60, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 2, 2 * rows, dtype=dtype).reshape(rows, 2).sin() * torch.tensor([1.0, 50.0], dtype=dtype)
    return x, x[:, 0] * 3 + (x[:, 1] / 25).cos()


def targets(loss: str) -> tuple[Tensor, Tensor]:
    x, y = waves()
    if loss == "logistic":
        return x, torch.where(y > y.median(), 1, -1)
    return (x, (y > y.median()).long() + (y > y.quantile(0.8)).long()) if loss == "softmax" else (x, y)


def test_golden_newton_steps():
    signs = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    found = torch.tensor([0.5, 0.2, -0.4, 0.1], dtype=torch.float64)
    start = torch.full((4,), 0.549306144334, dtype=torch.float64)
    assert newton_step("logistic", signs, start, found).item() == pytest.approx(2.898550725, abs=1e-9)
    rows = torch.tensor([[0.5, -0.1, 0], [-0.2, 0.4, 0.1], [0, 0, 0.3], [0.1, 0.2, -0.3]], dtype=torch.float64)
    step = newton_step("softmax", torch.tensor([0, 1, 2, 1]), torch.zeros(4, 3, dtype=torch.float64), rows)
    assert step.item() == pytest.approx(6.857142857, abs=1e-9)
    assert newton_step("squared", found, start, found).item() == 1


def test_a_newton_step_minimises_its_quadratic_model():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (20,), generator=generator)
    scores, found = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)

    def loss(rho: Tensor) -> Tensor:  # of the classes one by one, as the step's diagonal curvature has it
        share = scores.softmax(1)
        slope = torch.nn.functional.one_hot(y, 3) - share
        return -(rho * found * slope).sum() + (rho * found).square().mul(share * (1 - share)).sum() / 2

    rho = newton_step("softmax", y, scores, found).requires_grad_()
    assert torch.autograd.grad(loss(rho), rho)[0].abs() < 1e-9


def test_where_all_is_right_the_step_is_capped_and_finite():
    ones = torch.ones(3)
    assert newton_step("logistic", ones, 40 * ones, ones).abs() <= 1000
    assert newton_step("logistic", ones, 1e4 * ones, ones) == 0  # no slope is left
    assert newton_step("logistic", ones, ones, 0 * ones) == 0


def test_starts_are_the_best_constants():
    x, _ = waves(4)
    y = torch.tensor([1, 1, -1, 1])
    assert BoostedNetwork(1, loss="logistic").fit(x, y).start.item() == pytest.approx(0.549306144)
    assert BoostedNetwork(1).fit(x, y.double()).start.item() == 0.5
    assert BoostedNetwork(1, loss="softmax").fit(x, torch.tensor([0, 2, 1, 0])).start.tolist() == [0, 0, 0]


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
def test_the_merged_network_is_the_additive_model_after_every_round(loss):
    x, y = targets(loss)
    model = BoostedNetwork(12, block=3, shrinkage=0.7, loss=loss, iterations=50).fit(x, y)
    factor = 2 if loss == "logistic" else 1
    for rounds, staged in enumerate(model.staged_predict(x), start=1):
        merged = model.to_module(rounds)(x)
        scores = model.scores(x, rounds)
        torch.testing.assert_close(merged if loss == "softmax" else merged[:, 0], factor * scores, rtol=0, atol=1e-6)
        assert torch.equal(staged, model.predict(x, rounds))
    assert rounds == 4
    assert model.to_module()[0].out_features == 12


@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
def test_it_learns(loss):
    x, y = targets(loss)
    model = BoostedNetwork(12, block=2, loss=loss, subsample=1.0, iterations=50).fit(x, y)
    if loss == "squared":
        assert (model.predict(x) - y).square().mean() < 0.01 * y.var()
    else:
        assert (model.predict(x) == y).double().mean() > 0.95


def test_a_seed_gives_the_same_again_and_pickles():
    x, y = waves()
    first, second, other = (BoostedNetwork(4, iterations=20, seed=seed).fit(x, y) for seed in (0, 0, 1))
    assert torch.equal(first.predict(x), second.predict(x))
    assert not torch.equal(first.predict(x), other.predict(x))
    assert torch.equal(pickle.loads(pickle.dumps(first)).predict(x), first.predict(x))


def test_predictions_keep_the_inputs_type():
    x, y = waves(dtype=torch.float32)
    model = BoostedNetwork(2, iterations=10).fit(x, y)
    assert model.predict(x).dtype == model.to_module()(x).dtype == torch.float32
    torch.testing.assert_close(model.to_module()(x)[:, 0], model.predict(x), rtol=1e-4, atol=1e-4)


X, Y = waves(6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoostedNetwork(5, block=2), "units must be a multiple of block = 2; got 5"),
        (lambda: BoostedNetwork(block=0), "block must be at least 1; got 0"),
        (lambda: BoostedNetwork(shrinkage=0.0), "shrinkage must lie in"),
        (lambda: BoostedNetwork(subsample=1.5), "subsample must lie in"),
        (lambda: BoostedNetwork(loss="hinge"), "loss must be one of 'squared', 'logistic', 'softmax'; got 'hinge'"),
        (lambda: BoostedNetwork(1).fit(X[:1], Y[:1]), "x must hold at least two samples; got 1"),
        (lambda: BoostedNetwork(1).fit(X, Y[:, None]), r"y must have shape \(6,\)"),
        (lambda: BoostedNetwork(1).fit(X * torch.nan, Y), "x must"),
        (lambda: BoostedNetwork(1, loss="logistic").fit(X, torch.ones(6)), "y must hold both -1 and 1; got 1 alone"),
        (lambda: BoostedNetwork(1, loss="logistic").fit(X, torch.arange(6)), "y must be -1 or 1; got 0"),
        (lambda: BoostedNetwork(1, loss="softmax").fit(X, -torch.ones(6, dtype=torch.long)), "y must"),
        (
            lambda: BoostedNetwork(1, iterations=2).fit(X, Y).predict(X[:, :1]),
            "x must have 2 columns, as in fit; got 1",
        ),
        (lambda: BoostedNetwork(1, iterations=2).fit(X, Y).to_module(2), r"blocks must lie in \[1, 1\]; got 2"),
        (lambda: newton_step("softmax", torch.tensor([3]), torch.zeros(1, 3), torch.zeros(1, 3)), "y must"),
        (lambda: newton_step("logistic", torch.ones(2), torch.zeros(3), torch.zeros(3)), r"y must have shape \(3,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_not_fitted_predicts_nothing():
    with pytest.raises(RuntimeError, match="must be fitted first"):
        BoostedNetwork().predict(X)
