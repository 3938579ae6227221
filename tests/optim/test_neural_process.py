"""Neural acquisition processes: histograms against numerical integration, policies against brute force."""

import copy
import pickle
from math import log

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from minimand.optim import (
    BarDistribution,
    NeuralAcquisitionProcess,
    NeuralProcessSearch,
    expected_records,
    generalized_advantages,
    ppo_objective,
)

FLOAT64 = {"dtype": torch.float64}
BORDERS = torch.tensor([-1.5, -0.2, 0.1, 1.0, 2.5], **FLOAT64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **FLOAT64)


# Bars.


def test_golden_expected_improvement():
    bars = BarDistribution(torch.tensor([0.0, 1.0, 2.0, 3.0], **FLOAT64))
    logits = torch.tensor([0.2, 0.5, 0.3], **FLOAT64).log()
    assert bars.expected_improvement(logits, torch.tensor(1.4, **FLOAT64)).item() == pytest.approx(0.42, abs=1e-12)


@pytest.mark.parametrize("best", [-3.0, -1.5, -0.5, 0.1, 0.7, 2.4, 2.5, 4.0])
def test_mean_deviation_and_improvement_are_the_densitys_integrals(best):
    bars, logits = BarDistribution(BORDERS), normal(4)

    def integral(of):
        ends = zip(BORDERS.tolist(), BORDERS.tolist()[1:], strict=False)
        return sum(
            quad(lambda y: of(y) * density(y), a + 1e-12, b, points=[best] if a < best < b else None)[0]
            for a, b in ends
        )

    def density(y):
        return bars.log_prob(logits, torch.tensor(y, **FLOAT64)).exp().item()

    mean = integral(lambda y: y)
    assert integral(lambda y: 1.0) == pytest.approx(1, abs=1e-8)
    assert bars.mean(logits).item() == pytest.approx(mean, abs=1e-8)
    deviation = integral(lambda y: (y - mean) ** 2) ** 0.5
    assert bars.ucb(logits, 1.7).item() == pytest.approx(mean + 1.7 * deviation, abs=1e-7)
    found = bars.expected_improvement(logits, torch.tensor(best, **FLOAT64)).item()
    assert found == pytest.approx(integral(lambda y: max(y - best, 0.0)), abs=1e-8)


def test_what_lies_outside_counts_to_the_end_bars_and_a_border_to_the_bar_below():
    bars, logits = BarDistribution(BORDERS), normal(4)
    y = torch.tensor([-100.0, -1.5, -0.2, 0.1, 2.5, 1e6], **FLOAT64)
    density = logits.softmax(0) / BORDERS.diff()
    torch.testing.assert_close(bars.log_prob(logits, y).exp(), density[[0, 0, 0, 1, 3, 3]])


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        (torch.tensor([0.0]), "borders must be at least 2; got 1"),
        (torch.tensor([0.0, 1.0, 1.0]), r"borders must be finite and increase; got \[0.0, 1.0, 1.0\]"),
        (torch.tensor([0.0, torch.inf]), r"borders must be finite and increase; got \[0.0, inf\]"),
        (torch.zeros(2, 2), r"borders must have 1 dimensions; got shape \(2, 2\)"),
    ],
)
def test_borders_that_do_not_fit_are_named(borders, message):
    with pytest.raises(ValueError, match=message):
        BarDistribution(borders)


# Training a policy.


def test_the_objectives_gradient_is_the_advantage_inside_the_clip_and_nothing_past_it():
    old = torch.zeros(4, **FLOAT64)
    new = torch.tensor([1.1, 1.2, 0.8, 1.2], **FLOAT64).log().requires_grad_()
    advantage = torch.tensor([2.0, 2.0, -2.0, -2.0], **FLOAT64)
    ppo_objective(new, old, advantage, clip=0.15).backward()
    assert new.grad.tolist() == pytest.approx([-2.0 * 1.1 / 4, 0.0, 0.0, 2.0 * 1.2 / 4])


def test_at_the_old_policy_the_gradient_is_the_policy_gradient():
    logits, action, advantage = normal(6, 5).requires_grad_(), torch.arange(6) % 5, normal(6, seed=1)
    taken = logits.log_softmax(1).gather(1, action[:, None])[:, 0]
    ppo_objective(taken, taken.detach(), advantage).backward()
    wanted = logits.detach().softmax(1)
    wanted[torch.arange(6), action] -= 1
    torch.testing.assert_close(logits.grad, advantage[:, None] * wanted / 6)


def test_ratios_past_all_numbers_stay_finite():
    new, old = torch.tensor([0.0, -1e4]).requires_grad_(), torch.tensor([-1e4, 0.0])
    loss = ppo_objective(new, old, torch.tensor([-1e4, 1e4]))
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(new.grad.isfinite().all())


@pytest.mark.parametrize(("discount", "trace"), [(0.98, 0.98), (0.9, 1.0), (1.0, 0.5), (0.7, 0.0), (0.0, 1.0)])
def test_advantages_follow_their_recursion(discount, trace):
    rewards, values = normal(3, 7), normal(3, 7, seed=1)
    wanted, later, ahead = torch.zeros(3, 7, **FLOAT64), torch.zeros(3, **FLOAT64), torch.zeros(3, **FLOAT64)
    for t in range(6, -1, -1):
        later = rewards[:, t] + discount * ahead - values[:, t] + discount * trace * later
        wanted[:, t], ahead = later, values[:, t]
    torch.testing.assert_close(generalized_advantages(rewards, values, discount, trace), wanted)


def test_golden_records():
    for steps, wanted in ((1, 1.0), (24, 3.775958), (100, 5.187378)):
        assert expected_records(steps) == pytest.approx(wanted, abs=1e-6)


def test_records_of_all_permutations_of_four():
    orders = np.array([p for p in np.ndindex(4, 4, 4, 4) if len(set(p)) == 4])
    records = (orders == np.maximum.accumulate(orders, axis=1)).sum(1)
    assert records.mean() == pytest.approx(expected_records(4))


def test_the_asymptotic_form_takes_over_where_it_is_exact():
    assert expected_records(10_001) - expected_records(10_000) == pytest.approx(1 / 10_001, rel=1e-9)
    assert expected_records(10**9) == pytest.approx(log(10**9) + 0.5772156649, abs=1e-8)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_records_of_no_number_of_steps_are_refused(steps, error):
    with pytest.raises(error, match="steps must be"):
        expected_records(steps)


# The process.


def small(dim=2, seed=0, **sizes):
    torch.manual_seed(seed)
    return NeuralAcquisitionProcess(dim, **{"width": 8, "layers": 2, "heads": 2, "buckets": 6, "hidden": 8, **sizes})


def state(n=5, m=4, *lead, dim=2):
    points, candidates = torch.rand(*lead, n, dim), torch.rand(*lead, m, dim)
    return points, torch.randn(*lead, n), candidates, torch.full(lead, 0.5)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_order_of_the_history_does_not_matter():
    process, (points, values, candidates, progress) = small(), state()
    order = torch.tensor([3, 0, 4, 1, 2])
    close(process(points, values, candidates, progress), process(points[order], values[order], candidates, progress))


def test_a_candidate_does_not_see_the_others():
    process, (points, values, candidates, progress) = small(), state()
    whole = process(points, values, candidates, progress)
    for i in range(4):
        alone = process(points, values, candidates[i : i + 1], progress)
        close(
            (alone.logits[0], alone.acquisition[0], alone.value), (whole.logits[i], whole.acquisition[i], whole.value)
        )


def test_points_that_are_not_known_are_as_if_they_were_not_there():
    process, (points, values, candidates, progress) = small(), state()
    known = torch.tensor([True, False, True, False, False])
    close(
        process(points, values, candidates, progress, known),
        process(points[known], values[known], candidates, progress),
    )
    nothing = process(points[:0], values[:0], candidates, progress)
    close(process(points, values, candidates, progress, torch.zeros(5, dtype=torch.bool)), nothing)
    assert all(bool(part.isfinite().all()) for part in nothing)


def test_history_matters_and_so_does_each_candidate():
    process, (points, values, candidates, progress) = small(), state()
    before = process(points, values, candidates, progress)
    after = process(points, values + 1, candidates, progress)
    assert not torch.allclose(before.logits, after.logits, atol=1e-4)
    assert before.acquisition.unique().numel() == 4


def test_used_candidates_have_no_probability():
    process, given = small(), state()
    used = torch.tensor([False, True, False, True])
    policy = process(*given, used=used).acquisition.softmax(-1)
    assert policy[used].tolist() == [0.0, 0.0]
    assert policy.sum().item() == pytest.approx(1)
    close(process(*given, used=used).logits, process(*given).logits)


def test_all_steps_of_searches_at_once_are_each_step_alone():
    process, (points, values, candidates, _) = small(), state(3, 4, 2)
    known, progress = torch.ones(4, 3, dtype=torch.bool).tril(-1), torch.arange(4) / 4
    together = process(points[:, None], values[:, None], candidates[:, None], progress, known)
    for i in range(2):
        for t in range(4):
            alone = process(points[i, :t], values[i, :t], candidates[i], progress[t])
            close(tuple(part[i, t] for part in together), tuple(alone))


def test_vmap_over_processes_is_a_loop_and_gradients_reach_every_parameter():
    processes, given = [small(seed=seed) for seed in range(3)], state()
    params, buffers = torch.func.stack_module_state(processes)

    def call(params, buffers):
        return torch.func.functional_call(processes[0], (params, buffers), given)

    together = torch.func.vmap(call)(params, buffers)
    for i, process in enumerate(processes):
        close(tuple(part[i] for part in together), tuple(process(*given)))
    sum(part.square().sum() for part in together).backward()
    assert all(bool((p.grad.flatten(1).abs().sum(1) > 0).all()) for p in params.values())


def test_a_process_goes_through_pickle_state_dict_and_float64():
    process, given = small(), state()
    twin = small(seed=1)
    twin.load_state_dict(process.state_dict())
    for each in (twin, pickle.loads(pickle.dumps(process)), copy.deepcopy(process)):
        assert torch.equal(each(*given).acquisition, process(*given).acquisition)
    wide = process.double()(*(x.double() for x in given))
    assert all(part.dtype == torch.float64 for part in wide)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 9}, "width must be a multiple of heads, 2; got 9"),
        ({"layers": 0}, "layers must be at least 1; got 0"),
        ({"temperature": 0.0}, r"temperature must lie in \(0, inf\); got 0"),
        ({"bound": -1.0}, r"bound must lie in \(0, inf\); got -1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)


def test_inputs_that_do_not_fit_are_named():
    process, (points, values, candidates, progress) = small(), state()
    with pytest.raises(ValueError, match=r"points must have shape \(..., k, 2\); got \(5, 1\)"):
        process(points[:, :1], values, candidates, progress)
    with pytest.raises(ValueError, match=r"candidates must have shape \(..., k, 2\); got \(2,\)"):
        process(points, values, candidates[0], progress)
    with pytest.raises(ValueError, match=r"values must have shape \(5,\); got \(4,\)"):
        process(points, values[1:], candidates, progress)
    with pytest.raises(TypeError, match="points must be a floating-point tensor; got list"):
        process(points.tolist(), values, candidates, progress)


# The search.

GRID = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), **FLOAT64)


def test_a_search_asks_for_every_candidate_once_and_then_has_none():
    search = NeuralProcessSearch(small(), GRID, budget=6)
    asked = []
    for _ in range(6):
        point = search.ask()
        asked.append(point)
        search.tell(point, point.sum(1))
    assert sorted(torch.cat(asked).tolist()) == sorted(GRID.tolist())
    assert search.best.value == GRID.sum(1).max()
    with pytest.raises(ValueError, match="count must be at most 0, the candidates left; got 1"):
        search.ask()


def test_several_are_those_of_the_largest_acquisition_in_order():
    process = small()
    search = NeuralProcessSearch(process, GRID, budget=8, center=2.0, scale=0.5)
    elsewhere = torch.rand(3, 2, **FLOAT64)
    search.tell(elsewhere, torch.tensor([1.0, 2.0, 3.0], **FLOAT64))
    told = torch.tensor([-2.0, 0.0, 2.0])
    found = process(elsewhere.float(), told, GRID.float(), torch.tensor(3 / 8)).acquisition
    assert torch.equal(search.ask(3), GRID[found.argsort(descending=True)[:3]])
    assert torch.equal(search.ask(3), search.ask(3))


def test_an_infeasible_candidate_is_not_asked_for_again_and_tells_nothing():
    process = small()
    search, other = (NeuralProcessSearch(process, GRID, budget=4) for _ in range(2))
    search.tell(GRID[:1], torch.tensor([torch.nan]))
    rest = search.ask(5)
    assert not bool((rest == GRID[0]).all(1).any())
    with torch.no_grad():
        found = process(torch.empty(0, 2), torch.empty(0), GRID.float(), torch.tensor(0.25)).acquisition
    found[0] = -torch.inf
    assert torch.equal(rest, GRID[found.argsort(descending=True)[:5]])
    assert torch.equal(pickle.loads(pickle.dumps(search)).ask(5), rest)
    assert other.ask(6).shape == (6, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": GRID[:, :1]}, r"candidates must have shape \(m, 2\); got \(6, 1\)"),
        ({"candidates": 2 + GRID}, r"candidates must lie in \[0, 1\]; got"),
        ({"budget": 0}, "budget must be at least 1; got 0"),
        ({"scale": 0.0}, r"scale must lie in \(0, inf\); got 0"),
    ],
)
def test_what_a_search_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralProcessSearch(small(), **{"candidates": GRID, "budget": 3, **options})
