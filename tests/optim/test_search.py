"""Black-box search against closed forms, quadrature, scikit-learn and BoTorch."""

from __future__ import annotations

import importlib.util
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from minimand import optim
from minimand.optim.search.direct import LEAST, poll_directions
from minimand.optim.search.search import Search

X = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
Y = torch.tensor([0.0, 1.0, 0.2], dtype=torch.float64)
AT = torch.tensor([[0.25], [0.75], [1.5]], dtype=torch.float64)


def reals(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def real(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def golden_process(noise: float = 0.01) -> optim.GaussianProcess:
    return optim.GaussianProcess(optim.RBF(0.5), noise).condition(X, Y)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Gaussian processes.


def test_posterior_and_likelihood_are_the_golden_ones():
    # numbers worked out from the formulas with NumPy's inverse and determinant
    mean, deviation = golden_process().marginals(AT)
    assert torch.allclose(mean, reals(0.633207, 0.760763, -0.344363), atol=1e-6)
    assert torch.allclose(deviation**2, reals(0.025020, 0.025020, 0.530783), atol=1e-6)
    assert float(golden_process().log_marginal_likelihood()) == pytest.approx(-3.364796, abs=1e-6)


@pytest.mark.parametrize(
    ("kernel", "peer"),
    [
        (optim.RBF(reals(0.3, 0.9), 1.7), 1.7 * kernels.RBF([0.3, 0.9])),
        (optim.Matern52(reals(0.3, 0.9), 1.7), 1.7 * kernels.Matern([0.3, 0.9], nu=2.5)),
    ],
)
def test_posterior_is_scikit_learns(kernel, peer):
    x, y, at = drawn(9, 2), drawn(9, seed=1), drawn(4, 2, seed=2)
    reference = GaussianProcessRegressor(peer, alpha=0.05, optimizer=None).fit(x.numpy(), y.numpy())
    process = optim.GaussianProcess(kernel, 0.05).condition(x, y)
    mean, covariance = reference.predict(at.numpy(), return_cov=True)
    found = process.posterior(at)
    assert np.allclose(found.mean, mean, atol=1e-8)
    assert np.allclose(found.covariance, covariance, atol=1e-8)
    assert float(process.log_marginal_likelihood()) == pytest.approx(reference.log_marginal_likelihood_value_)


def test_marginals_are_the_posteriors_diagonal():
    posterior, (mean, deviation) = golden_process().posterior(AT), golden_process().marginals(AT)
    assert torch.equal(posterior.mean, mean)
    assert torch.allclose(posterior.deviation, deviation, atol=1e-14)


def test_conditioning_twice_is_conditioning_on_both():
    twice = golden_process().condition(AT, Y).posterior(drawn(3, 1))
    once = optim.GaussianProcess(optim.RBF(0.5), 0.01).condition(torch.cat([X, AT]), torch.cat([Y, Y]))
    assert torch.equal(twice.mean, once.posterior(drawn(3, 1)).mean)


def test_a_process_that_has_seen_nothing_is_the_prior():
    process = optim.GaussianProcess(optim.RBF(0.5, 2.0), 0.01, mean=3.0)
    for seen in (process, process.condition(X[:0], Y[:0])):
        assert torch.equal(seen.posterior(AT).mean, torch.full((3,), 3.0, dtype=torch.float64))
        assert torch.allclose(seen.posterior(AT).deviation, torch.full((3,), 2.0**0.5, dtype=torch.float64))


def test_looking_ahead_says_how_one_observation_moves_the_mean():
    process = golden_process()
    sure = math.sqrt(float(process.posterior(AT[:1]).covariance) + 0.01)
    mean = process.posterior(AT[:1]).mean
    moved = process.condition(AT[:1], mean + sure).posterior(X).mean  # one standard deviation above what is expected
    assert torch.allclose(process.look_ahead(X, AT)[0], moved - process.posterior(X).mean, atol=1e-8)


def test_processes_of_leading_dimensions_are_computed_and_fitted_as_if_alone():
    x, y, at = drawn(3, 8, 2), drawn(3, 8, seed=1), drawn(3, 5, 2, seed=2)
    together = optim.fit_gaussian_process(x, y, steps=12)
    for i in range(3):
        alone = optim.fit_gaussian_process(x[i], y[i], steps=12)
        assert torch.allclose(together.marginals(at)[1][i], alone.marginals(at[i])[1], atol=1e-9)
        assert torch.allclose(together.look_ahead(x, at)[i], alone.look_ahead(x[i], at[i]), atol=1e-9)


def test_a_fit_is_as_likely_as_scikit_learns():
    x = drawn(25, 2)
    y = (4 * x[:, 0]).sin() + 0.1 * torch.randn(25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    peer = kernels.ConstantKernel() * kernels.Matern([0.5, 0.5], (0.05, 10.0), nu=2.5) + kernels.WhiteKernel(0.01)
    unit = (y - y.mean()) / y.std(correction=0)
    reference = GaussianProcessRegressor(peer).fit(x.numpy(), unit.numpy())
    process = optim.fit_gaussian_process(x, unit)
    assert float(process.log_marginal_likelihood()) > reference.log_marginal_likelihood_value_ - 0.05


def test_points_on_top_of_one_another_and_equal_values_are_no_trouble():
    x = torch.zeros(6, 2, dtype=torch.float64)
    for y in (torch.zeros(6, dtype=torch.float64), drawn(6)):
        mean, deviation = optim.fit_gaussian_process(x, y, steps=20, noiseless=True).marginals(drawn(4, 2))
        assert bool(mean.isfinite().all())
        assert bool(deviation.isfinite().all())


def test_a_process_refuses_what_it_cannot_take():
    process = optim.GaussianProcess(optim.RBF())
    for points, values, message in (
        (X, Y[:2], r"values must have shape \(3,\); got \(2,\)"),
        (torch.zeros(1001, 1), torch.zeros(1001), "points must be at most 1000 in all; got 1001"),
        (X * torch.nan, Y, "points must not hold NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            process.condition(points, values)


# Acquisition functions.


@pytest.mark.parametrize(
    ("numbers", "value"), [((0, 1, 0), 0.398942280), ((1, 0.5, 2), 0.004245351), ((-3, 1, 0), 0.000382154)]
)
def test_expected_improvement_is_the_golden_one(numbers, value):
    assert float(optim.expected_improvement(*map(real, map(float, numbers)))) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("mean", [-6.0, -1.3, 0.0, 2.5])
def test_expected_improvement_is_the_integral_that_defines_it(mean):
    expected, _ = quad(lambda f: (f - 0.4) * norm.pdf(f, mean, 0.7), 0.4, 12.0, epsabs=1e-30, epsrel=1e-10)
    assert float(optim.expected_improvement(real(mean), real(0.7), real(0.4))) == pytest.approx(expected, rel=1e-7)


def test_log_expected_improvement_is_the_golden_one():
    found = optim.log_expected_improvement(real(-10.0), real(1.0), real(0.0))
    assert float(found) == pytest.approx(-55.553122036, abs=1e-9)


def test_log_expected_improvement_is_botorchs():
    from botorch.acquisition.analytic import _log_ei_helper

    z = torch.linspace(-60, 8, 500, dtype=torch.float64)
    found = optim.log_expected_improvement(z, real(1.0), real(0.0))
    assert torch.allclose(found, _log_ei_helper(z), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_expected_improvement_has_a_gradient_far_out(dtype):
    z = torch.tensor([-100.0, -1e4, -40.0, -1.0, 30.0], dtype=dtype, requires_grad=True)
    value = optim.log_expected_improvement(z, torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype))
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert float(slope[0]) == pytest.approx(100.02, rel=1e-4)  # -z - 2 / z, nearly
    assert float(slope[1]) == pytest.approx(1e4, rel=1e-4)
    assert bool(value.isfinite().all() and slope.isfinite().all())


def test_without_uncertainty_expected_improvement_is_the_gain_itself():
    mean, none = reals(-1.0, 0.0, 2.0), torch.zeros(3, dtype=torch.float64)
    assert optim.expected_improvement(mean, none, real(0.0)).tolist() == [0.0, 0.0, 2.0]
    assert optim.log_expected_improvement(mean, none, real(0.0)).tolist() == [-math.inf, -math.inf, math.log(2.0)]


def test_knowledge_gradient_is_the_golden_one():
    found = optim.knowledge_gradient(reals(0.1, 0.3, -0.2, 0.25), reals(0.5, -0.2, 0.9, 0.1))
    assert float(found) == pytest.approx(0.244475376, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_knowledge_gradient_is_the_integral_that_defines_it(seed):
    a, c = drawn(7, seed=seed), drawn(7, seed=seed + 10) - 0.5
    c[3] = c[2]  # parallel lines
    z = np.linspace(-10, 10, 200_001)
    best = (a.numpy()[:, None] + c.numpy()[:, None] * z).max(0)
    expected = np.trapezoid(best * norm.pdf(z), z) - float(a.max())
    assert float(optim.knowledge_gradient(a, c)) == pytest.approx(expected, abs=1e-8)


def test_equal_lines_are_one_and_parallel_ones_gain_nothing():
    a = reals(0.0, 0.0, 0.0, -1.0)
    assert float(optim.knowledge_gradient(a, reals(0.0, 1.0, 1.0, 1.0))) == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert float(optim.knowledge_gradient(a, torch.ones(4, dtype=torch.float64))) == 0.0
    assert float(optim.knowledge_gradient(a[:1], reals(3.0))) == 0.0


def noisy(process: optim.GaussianProcess) -> torch.Tensor:
    return optim.noisy_expected_improvement(
        process.posterior(X).mean,
        process.look_ahead(X, AT),
        process.posterior(AT).mean,
        process.look_ahead(AT, AT).diagonal(),
    )


def test_noisy_expected_improvement_is_the_golden_one():
    expected = reals(6.1678e-6, 5.01028e-4, 1.011874e-2)
    assert torch.allclose(noisy(golden_process()), expected, rtol=1e-5, atol=0)


def test_noisy_expected_improvement_without_noise_is_expected_improvement():
    process = golden_process(noise=0.0)
    plain = optim.expected_improvement(*process.marginals(AT), Y.max())
    assert torch.allclose(noisy(process), plain, atol=1e-9)


def test_entropy_search_agrees_with_two_points_worked_out_by_quadrature():
    mean, covariance, noise = reals(0.2, 0.0), torch.diag(reals(1.0, 0.25)), 0.3

    def entropy(p: float) -> float:
        return float(-sum(q * math.log(q) for q in (p, 1 - p) if q > 0))

    expected = []
    for i, (variance, other) in enumerate(((1.0, 0.25), (0.25, 1.0))):
        seen = math.sqrt(variance + noise)
        spread = math.sqrt(variance * noise / (variance + noise) + other)
        shift = variance / seen * (1 if i == 0 else -1)
        later, _ = quad(lambda z: entropy(norm.cdf((0.2 + shift * z) / spread)) * norm.pdf(z), -8, 8)  # noqa: B023
        expected.append(entropy(norm.cdf(0.2 / math.sqrt(1.25))) - later)
    draws = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = optim.entropy_search(mean, covariance, noise, draws, observations=25)
    assert np.allclose(found, expected, atol=0.01)
    assert expected[0] > expected[1] > 0.02


def test_entropy_search_of_a_single_point_is_nothing_to_learn():
    assert optim.entropy_search(reals(1.0), torch.ones(1, 1).double(), 0.1, torch.randn(8, 2)).tolist() == [0.0]


# Searches.


def searches() -> list[Search]:
    return [
        optim.RandomSearch(3, seed=1),
        optim.QuasiRandomSearch(3, seed=1),
        optim.CoveringDirectSearch(3, seed=1),
        optim.AttackSearch(lambda x: 2 * x, lambda y: -y.square().sum(1), 3, seed=1),
        optim.BayesianSearch(3, seed=1, initial=9),
    ]


@pytest.mark.parametrize("search", searches(), ids=lambda s: type(s).__name__)
def test_every_search_keeps_the_protocol(search):
    again = pickle.loads(pickle.dumps(search)) if not isinstance(search, optim.AttackSearch) else searches()[3]
    for count in (1, 3, 2):
        points, same = search.ask(count), again.ask(count)
        assert points.shape == (count, 3)
        assert points.dtype == torch.float64
        assert bool(((points >= 0) & (points <= 1)).all())
        assert torch.equal(points, same)  # the same seed and the same calls
        values = -points.square().sum(1)
        values[0] = torch.nan if count == 3 else values[0]
        search.tell(points, values)
        again.tell(points, values)
    assert search.points.shape == (6, 3)
    assert len(search.feasible[1]) == 5
    assert float(search.best.value) == float(search.feasible[1].max())


def test_a_search_refuses_what_it_cannot_take():
    search = optim.RandomSearch(2)
    for points, values, message in (
        (torch.zeros(1, 3), torch.zeros(1), r"points must have shape \(k, 2\); got \(1, 3\)"),
        (torch.full((1, 2), 1.5), torch.zeros(1), r"points must lie in \[0, 1\]; got 1.5"),
        (torch.zeros(2, 2), torch.zeros(1), r"values must have shape \(2,\)"),
        (torch.zeros(1, 2), torch.tensor([torch.inf]), "values must be finite, or NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            search.tell(points, values)
    with pytest.raises(ValueError, match="best needs a feasible point"):
        search.best
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        search.ask(0)
    with pytest.raises(TypeError, match="dim must be an integer of at least 1; got float"):
        optim.RandomSearch(2.0)


@pytest.mark.parametrize("acquisition", ["log_expected_improvement", "noisy_expected_improvement"])
def test_bayesian_search_finds_a_smooth_maximum(acquisition):
    search = optim.BayesianSearch(1, acquisition, seed=0)
    for count in (2, 1, 2, 2, 1):
        points = search.ask(count)
        search.tell(points, -(points[:, 0] - 0.3).square())
    assert float((search.best.point - 0.3).abs()) < 0.02


def test_what_bayesian_search_asks_for_depends_on_seed_and_history_alone():
    points, values = drawn(6, 2), drawn(6, seed=1)
    values[2] = torch.nan
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        search = optim.BayesianSearch(2, seed=5)
        search.tell(points[:3], values[:3])
        search.tell(points[3:], values[3:])
        found.append(search.ask())
    assert torch.equal(*found)


def test_bayesian_search_names_its_extra_where_botorch_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"the extra 'bo': pip install 'minimand\[bo\]'"):
        optim.BayesianSearch(2)


# Attacks and direct search.

MATRIX = torch.tensor([[1.0, 0.0], [2.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(("norm", "gain"), [("linf", 2.0), ("l2", 1.581138830)])
@pytest.mark.parametrize("steps", [1, 3])
def test_an_attack_on_an_affine_network_is_exact(norm, gain, steps):
    x, u = drawn(1, 2), torch.ones(1, 2, dtype=torch.float64)
    moved = optim.directional_attack(lambda z: z @ MATRIX.mT + 3.0, x, 7 * u, 0.5, norm=norm, steps=steps)
    assert float(((moved - x) @ MATRIX.mT @ u[0]).sum()) == pytest.approx(gain, abs=1e-9)
    assert float(torch.linalg.vector_norm(moved - x, ord=math.inf if norm == "linf" else 2)) <= 0.5 + 1e-12


def test_an_attack_from_a_random_start_crosses_the_cube_and_repeats():
    x, u = drawn(4, 2), torch.ones(4, 2, dtype=torch.float64)
    found = [optim.directional_attack(lambda z: z @ MATRIX.mT, x, u, 0.5, seed=3) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.allclose(found[0], x + reals(0.5, -0.5))


def test_without_a_direction_nothing_moves():
    x, u = drawn(2, 2), reals(0.0, 0.0, 1.0, 0.0).view(2, 2)
    moved = optim.directional_attack(lambda z: z @ MATRIX.mT, x, u, 0.5, seed=0)
    assert torch.equal(moved[0], x[0])
    assert not torch.equal(moved[1], x[1])


def test_an_attack_leaves_the_network_as_it_was():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9))
    optim.directional_attack(network, torch.zeros(1, 2), torch.ones(1, 2), 0.5)
    assert network[1].training
    assert network[0].weight.grad is None


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_every_direction_has_a_poll_direction_on_its_side(dim):
    poll = poll_directions(dim, torch.Generator().manual_seed(dim))
    assert poll.shape == (dim + 1, dim)
    assert torch.linalg.matrix_rank(poll) == dim
    ways = torch.randn(2000, dim, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    cosine = (ways / ways.norm(dim=1, keepdim=True)) @ (poll / poll.norm(dim=1, keepdim=True)).mT
    assert bool((cosine.amax(1) >= 1 / dim - 1e-9).all())


def climbed(search: Search, value, evaluations: int) -> Search:
    for _ in range(evaluations):
        points = search.ask()
        search.tell(points, value(points))
    return search


def test_direct_search_finds_a_maximum_with_a_kink_and_a_barrier():
    def value(points):
        found = -(points - 0.6).abs().sum(1)
        return torch.where(points[:, 0] > 0.6, torch.nan, found)

    assert float(climbed(optim.CoveringDirectSearch(2, seed=0), value, 400).best.value) > -0.01


def test_a_poll_doubles_its_radius_on_success_and_halves_it_on_failure():
    search = optim.CoveringDirectSearch(2, seed=0, radius=0.1)
    for value, radius in ((0.0, 0.1), (-1.0, 0.1), (-1.0, 0.1), (1.0, 0.2)):  # start, covering, poll, poll
        search.tell(search.ask(), reals(value))
        assert search.radius == pytest.approx(radius)
    for _ in range(4):  # covering and three poll directions, none better
        search.tell(search.ask(), reals(-1.0))
    assert search.radius == pytest.approx(0.1)
    assert search.iterations == 2
    for _ in range(100):
        search.tell(search.ask(), reals(-1.0))
    assert search.radius == LEAST


def test_covering_points_are_even_in_the_ball():
    search = optim.CoveringDirectSearch(2, seed=0, radius=0.3)
    distance = (search.ask(4001)[1:] - 0.5).norm(dim=1)
    assert float(distance.max()) <= 0.3
    assert float((distance < 0.15).double().mean()) == pytest.approx(0.25, abs=0.03)


def test_attacks_share_a_gradient_until_the_point_moves():
    target = reals(*[0.3] * 20)
    search = optim.AttackSearch(lambda x: x, lambda y: -(y - target).square().sum(1), 20, seed=0)
    search.tell(search.ask(), reals(-1.0))
    for _ in range(3):
        search.tell(search.ask(), reals(-2.0))
    assert search.gradients == 1
    assert search.attack_radius == pytest.approx(0.25 / 1.3)


def test_where_the_objective_is_flat_direct_search_goes_on_alone():
    search = optim.AttackSearch(lambda x: x, lambda y: 0 * y.sum(1), 2, seed=0)
    alone = optim.CoveringDirectSearch(2, seed=0)
    for _ in range(12):
        points = search.ask()
        assert torch.equal(points, alone.ask())
        for each in (search, alone):
            each.tell(points, -points.sum(1))
