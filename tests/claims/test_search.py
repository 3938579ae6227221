"""The experiments behind the claims about black-box search: that their problems and counts are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minimand import optim
from minimand.claims import bayesian_optimization, directional_attacks
from minimand.claims.bayesian_optimization import PROBLEMS, climbed, ratio_of_medians
from minimand.claims.directional_attacks import WIDTHS, Problem, best_after

# From Dixon and Szego (1978) and Hartmann (1973), by way of the usual test collections: the minima, on the unit cube.
MINIMA = {
    "Branin": [(-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)],
    "Hartmann-6": [(0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)],
}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_the_functions_have_their_known_minima(problem):
    points = torch.tensor(MINIMA[problem.name], dtype=torch.float64)
    if problem.name == "Branin":
        points = (points + torch.tensor([5.0, 0.0])) / 15
    assert torch.allclose(problem.value(points), torch.tensor(-problem.least, dtype=torch.float64), atol=1e-5)
    anywhere = torch.rand(2000, problem.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(problem.value(anywhere).max()) < -problem.least


def test_regret_is_that_of_the_best_point_so_far():
    values = torch.tensor([[-3.0, -1.0, -2.0]]) - PROBLEMS[0].least
    assert torch.allclose(PROBLEMS[0].regret(values), torch.tensor([[3.0, 1.0, 1.0]]))


def test_an_acquisition_with_one_hill_is_climbed_to_its_top():
    def hill(x):
        return -(x - 0.4).square().sum(-1)

    candidates = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = climbed(hill, candidates)
    assert found.shape == (2, 1, 3)
    assert bool((hill(found)[:, 0] >= hill(candidates).amax(1)).all())


def test_a_ratio_of_medians_is_drawn_in_pairs():
    baseline = np.array([1.0, 5.0, 3.0, 8.0, 2.0, 9.0])
    found = ratio_of_medians(baseline / 4, baseline)
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


def test_both_searches_start_from_the_same_points():
    first = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = bayesian_optimization.improved(PROBLEMS[0], first, 1, torch.Generator().manual_seed(1))
    assert torch.equal(chosen[:, :5], first)
    assert chosen.shape == (2, 6, 2)


def test_the_target_can_be_reached_and_only_from_within_the_box():
    problem = Problem.drawn(0)
    assert problem.target.shape == (WIDTHS[-1],)
    assert float(problem.objective(problem.target[None])) == 0.0
    generator = torch.Generator().manual_seed(0)
    for rows, columns in zip(WIDTHS[1:], WIDTHS[:-1], strict=True):
        torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    x = directional_attacks.REACH * (2 * torch.rand(1, WIDTHS[0], generator=generator, dtype=torch.float64) - 1)
    outputs = problem.network(x / directional_attacks.SIDE + 0.5)
    assert torch.allclose(outputs[0], problem.target)


def test_passes_back_are_counted_as_evaluations():
    problem = Problem.drawn(1)
    search = optim.AttackSearch(problem.network, problem.objective, WIDTHS[0], 0)
    best = best_after(search, problem, 40)
    assert len(best) == 40
    assert 40 <= len(search.values) + search.gradients <= 41
    assert search.gradients > 0
    assert best == sorted(best)
