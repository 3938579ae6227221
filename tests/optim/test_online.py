"""Online learning against plays by hand, numerical minimisers and the bounds of its analysis."""

import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from minimand.optim import (
    AdaptiveRate,
    Ball,
    Box,
    OptimisticMirrorDescent,
    Simplex,
    StronglyConvexRate,
    play_online,
    sea_regret_bound,
)

BALL_GRADIENTS = torch.tensor([[1.0, 0.0], [1.0, 0.5], [0.0, -1.0], [1.0, 1.0]], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plays(learner, gradients, start):
    state, found = learner.init(start), []
    for gradient in gradients:
        found.append(learner.play(state))
        state = learner.observe(gradient, state)
    return torch.stack([*found, learner.play(state)])


def test_golden_plays_in_the_unit_ball():
    rate = AdaptiveRate(diameter=2.0, gradient=1.0, smoothness=40**-0.5)  # 10 D^2 L^2 = 1
    found = plays(OptimisticMirrorDescent(Ball(1.0), rate), BALL_GRADIENTS[:3], torch.zeros(2, dtype=torch.float64))
    wanted = [[0, 0], [-1, 0], [-0.941911373, -0.335861528], [-0.599453683, 0.800409447]]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_golden_plays_in_the_simplex():
    gradients = torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.6, 0.8]], dtype=torch.float64)
    found = plays(OptimisticMirrorDescent(Simplex(), 1.0), gradients, torch.ones(3, dtype=torch.float64))
    np.testing.assert_allclose(found[2], [0.716851931, 0.195364942, 0.087783127], atol=1e-9)


@pytest.mark.parametrize("mirror", [Ball(0.7), Box(-0.3, 0.5)])
def test_a_step_is_the_minimiser_that_defines_it(mirror):
    start, direction = 0.2 * drawn(3), 0.5 * drawn(3, seed=1)
    inside = (
        {"bounds": [(-0.3, 0.5)] * 3}
        if isinstance(mirror, Box)
        else {"constraints": {"type": "ineq", "fun": lambda y: 0.49 - y @ y}}
    )

    def objective(y):
        return direction.numpy() @ y + ((y - start.numpy()) ** 2).sum() / 2

    wanted = minimize(objective, np.zeros(3), options={"ftol": 1e-14}, **inside).x
    np.testing.assert_allclose(mirror.step(start, direction), wanted, atol=1e-6)


def test_a_step_in_the_simplex_is_the_minimiser_that_defines_it():
    start, direction = drawn(3).softmax(-1), drawn(3, seed=1)

    def objective(z):
        p = np.exp(z) / np.exp(z).sum()
        return p @ (direction.numpy() + np.log(p / start.numpy()))

    best = minimize(objective, np.zeros(3), tol=1e-12).x
    mirror = Simplex()
    found = mirror.point(mirror.step(mirror.coordinates(start), direction))
    np.testing.assert_allclose(found, np.exp(best) / np.exp(best).sum(), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("mirror", "rate"),
    [
        (Ball(1.0), 0.3),
        (Box(-1.0, 0.5), 0.2),
        (Simplex(), 0.5),
        (Ball(1.0), AdaptiveRate(diameter=2.0, gradient=0.1)),
        (Box(-1.0, 0.5), StronglyConvexRate(0.5)),
    ],
)
def test_no_sequence_of_gradients_brings_the_regret_past_the_bound(mirror, rate, seed):
    gradients = drawn(40, 6, 4, seed=seed) + 2 * torch.sin(torch.arange(40.0) / (1 + seed)).double()[:, None, None]
    losses = [lambda x, g=g: (g * x).sum(-1) for g in gradients]
    start = torch.full((6, 4), 0.25, dtype=torch.float64)
    game = play_online(OptimisticMirrorDescent(mirror, rate), losses, start)
    assert (game.linear[-1] <= game.bound + 1e-9).all()
    corners = mirror.best(gradients.sum(0))
    wanted = game.losses.sum(0) - (gradients.sum(0) * corners).sum(-1)
    torch.testing.assert_close(game.linear[-1], wanted)
    many = mirror.point(mirror.coordinates(drawn(500, 1, 4).abs() if isinstance(mirror, Simplex) else drawn(500, 1, 4)))
    assert ((gradients.sum(0) * many).sum(-1) >= (gradients.sum(0) * corners).sum(-1) - 1e-9).all()


def test_the_regret_of_convex_losses_is_at_most_the_linear_one():
    centers = 0.5 * drawn(30, 2)
    losses = [lambda x, c=c: (x - c).square().sum(-1) / 2 for c in centers]
    game = play_online(OptimisticMirrorDescent(Ball(1.0), 0.2), losses, torch.zeros(2, dtype=torch.float64))
    best = (centers.mean(0) - centers).square().sum() / 2
    assert 0 < game.losses.sum() - best <= game.linear[-1] <= game.bound


def test_learners_side_by_side_play_as_they_would_alone():
    gradients, start = drawn(5, 3, 4), 0.1 * drawn(3, 4, seed=1)
    learner = OptimisticMirrorDescent(Ball(1.0), AdaptiveRate(diameter=2.0, gradient=1.0))
    together = plays(learner, gradients, start)
    for i in range(3):
        torch.testing.assert_close(together[:, i], plays(learner, gradients[:, i], start[i]))
    state = learner.init(start)
    step = torch.func.vmap(
        learner.observe, in_dims=(0, type(state)(0, 0, 0, None)), out_dims=type(state)(0, 0, 0, None)
    )
    for got, wanted in zip(step(gradients[0], state), learner.observe(gradients[0], state), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_bound_is_its_sum_of_terms():
    wanted = 5 * 10**0.5 * 4 * 3 + 2.5 * 5**0.5 * 2 * 7 + 5 * 2**0.5 * 2 * 5**0.5 + 5 * 2 * 6**0.5
    assert sea_regret_bound(2.0, 7.0, 3.0, variance=5.0, drift=6.0) == pytest.approx(wanted)


@pytest.mark.parametrize("mirror", [Ball(1.0), Box(-1.0, 1.0), Simplex()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_plays_keep_the_type_and_are_finite_for_gradients_of_any_size(mirror, dtype):
    learner = OptimisticMirrorDescent(mirror, 0.5)
    for size in (0.0, 1.0, 1e4):
        found = plays(learner, size * BALL_GRADIENTS.to(dtype), torch.full((2,), 0.5, dtype=dtype))
        assert found.dtype == dtype
        assert found.isfinite().all()


@pytest.mark.parametrize("mirror", [Ball(1.0), Box(-1.0, 1.0), Simplex()])
def test_a_nan_gradient_is_seen(mirror):
    assert (
        plays(OptimisticMirrorDescent(mirror, 0.5), torch.tensor([[torch.nan, 1.0]]), torch.ones(2))[-1].isnan().any()
    )


def test_a_learner_and_its_state_are_values():
    learner = OptimisticMirrorDescent(Ball(2.0), AdaptiveRate(diameter=4.0, gradient=1.0))
    state = learner.observe(torch.ones(2), learner.init(torch.zeros(2)))
    twin, kept = pickle.loads(pickle.dumps((learner, state)))
    assert twin == learner
    assert torch.equal(twin.play(kept), learner.play(state))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: Ball(0.0), ValueError, r"radius must lie in \(0, inf\); got 0"),
        (lambda s: Box(1.0, 1.0), ValueError, "high must be above low, 1; got 1"),
        (lambda s: OptimisticMirrorDescent(Ball(), 0.0), ValueError, r"rate must lie in \(0, inf\); got 0"),
        (lambda s: AdaptiveRate(diameter=-1.0, gradient=1.0), ValueError, "diameter must .*; got -1"),
        (lambda s: StronglyConvexRate(0.0), ValueError, "curvature must .*; got 0"),
        (lambda s: s.init(torch.ones(2).long()), TypeError, "start must be a floating-point tensor; got .*int64"),
        (lambda s: s.init(torch.ones(2, 0)), ValueError, r"start must have shape \(..., d\).*; got \(2, 0\)"),
        (
            lambda s: OptimisticMirrorDescent(Simplex(), 1.0).init(torch.zeros(2)),
            ValueError,
            "start must be pos.*got 0",
        ),
        (lambda s: s.observe(torch.ones(3), s.init(torch.ones(2))), ValueError, r"gradient must have .*; got \(3,\)"),
        (lambda s: play_online(s, [], torch.ones(2)), ValueError, "losses must hold at least one loss; got none"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(OptimisticMirrorDescent(Ball(1.0), 0.5))
