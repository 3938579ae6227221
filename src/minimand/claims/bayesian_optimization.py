"""Bayesian optimisation: expected improvement comes nearer to a maximum than random search does in as many looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.study.statistics import Interval, interval

SEEDS = {"smoke": 2, "small": 10, "full": 50}
LOOKS = {"smoke": 2, "small": 30, "full": 30}  # after the first ones
FIRST = 5
CANDIDATES, CLIMBERS, CLIMB, STRIDE = 512, 4, 15, 0.02  # how the acquisition's maximum is found


@dataclass(frozen=True)
class Problem:
    """A function to minimise over the unit cube, and its least value."""

    name: str
    dim: int
    function: Callable[[Tensor], Tensor]
    least: float

    def value(self, points: Tensor) -> Tensor:
        """What is searched for its maximum: minus the function at points (..., dim)."""
        return -self.function(points)

    def regret(self, values: Tensor) -> Tensor:
        """How far the best of the first k values is from the maximum, for every k: values (..., n) to (..., n)."""
        return -self.least - values.cummax(-1).values


def branin(points: Tensor) -> Tensor:
    """The Branin function, its box drawn onto the unit square; three minima, all global."""
    x, y = 15 * points[..., 0] - 5, 15 * points[..., 1]
    curve = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return curve**2 + 10 * (1 - 1 / (8 * math.pi)) * x.cos() + 10


HARTMANN_HEIGHTS = (1.0, 1.2, 3.0, 3.2)
HARTMANN_WIDTHS = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
HARTMANN_PLACES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann(points: Tensor) -> Tensor:
    """The six-dimensional Hartmann function; six minima, one of them global."""
    heights, widths, places = (points.new_tensor(t) for t in (HARTMANN_HEIGHTS, HARTMANN_WIDTHS, HARTMANN_PLACES))
    return -(heights * (-(widths * (points[..., None, :] - places).square()).sum(-1)).exp()).sum(-1)


PROBLEMS = (Problem("Branin", 2, branin, 0.39788735773), Problem("Hartmann-6", 6, hartmann, -3.32236801))


def run(scale: Scale, seed: int) -> Measured:
    """Expected improvement and random search from the same first points, all seeds at once."""
    effects: dict[str, Effect] = {}
    rows: list[tuple[str | float, ...]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for problem, name in zip(PROBLEMS, ("branin", "hartmann"), strict=True):
        generator = torch.Generator().manual_seed(seed)
        shape = (SEEDS[scale], FIRST + LOOKS[scale], problem.dim)
        random = torch.rand(shape, generator=generator, dtype=torch.float64)
        chosen = improved(problem, random[:, :FIRST], LOOKS[scale], generator)
        regrets = {
            "expected improvement": problem.regret(problem.value(chosen)),
            "random": problem.regret(problem.value(random)),
        }
        last = {search: regret[:, -1].numpy() for search, regret in regrets.items()}
        effects[name] = ratio_of_medians(last["expected improvement"], last["random"])
        for search, regret in regrets.items():
            found = last[search]
            rows.append((problem.name, search, float(np.median(found)), float(found.min()), float(found.max())))
            middle = regret.median(0).values.tolist()
            lines[f"{problem.name}, {search}"] = [(k + 1, value) for k, value in enumerate(middle)]
    return Measured(
        effects,
        Table(("problem", "search", "median regret", "least", "largest"), tuple(rows)),
        Figure("Simple regret, median over seeds", "evaluations", "regret", lines, log_y=True),
    )


def improved(problem: Problem, points: Tensor, looks: int, generator: torch.Generator) -> Tensor:
    """``points`` (S, n, d) and ``looks`` more, each where the expected improvement on all before it is largest."""
    for _ in range(looks):
        values = problem.value(points)
        process = optim.fit_gaussian_process(points, values, steps=50, noiseless=True)
        best = values.amax(-1, keepdim=True)

        def acquisition(x: Tensor, process: optim.GaussianProcess = process, best: Tensor = best) -> Tensor:
            return optim.log_expected_improvement(*process.marginals(x), best)

        shape = (len(points), CANDIDATES, problem.dim)
        candidates = torch.rand(shape, generator=generator, dtype=points.dtype)
        points = torch.cat([points, climbed(acquisition, candidates)], 1)
    return points


def climbed(acquisition: Callable[[Tensor], Tensor], candidates: Tensor) -> Tensor:
    """The largest point (S, 1, d) of an acquisition that Adam finds from the best of the candidates (S, m, d)."""
    order = acquisition(candidates).topk(CLIMBERS, -1).indices
    x = candidates.gather(1, order[..., None].expand(-1, -1, candidates.shape[-1])).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=STRIDE, maximize=True)
    for _ in range(CLIMB):
        optimizer.zero_grad()
        acquisition(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    x = x.detach()
    where = acquisition(x).argmax(-1)
    return x[torch.arange(len(x)), where][:, None]


def ratio_of_medians(values: NDArray[np.float64], baseline: NDArray[np.float64]) -> Effect:
    """The median over a baseline's median, with the bootstrap interval over seeds, drawn in pairs."""

    def statistic(seeds: NDArray[np.float64], /, *, axis: int) -> NDArray[np.float64]:
        drawn = seeds.astype(np.int64)
        return np.median(values[drawn], axis=axis) / np.median(baseline[drawn], axis=axis)

    found: Interval = interval(np.arange(len(values)), statistic=statistic)
    return Effect(float(np.median(values) / np.median(baseline)), found.low, found.high)


CLAIM = Claim(
    statement="After 5 random points and 30 more, points of largest expected improvement leave at most half the simple "
    "regret of random search, in the median over seeds, on Branin and on Hartmann-6.",
    refuted_by="a ratio of median regrets above 0.5, with its interval, on either function",
    thresholds={
        "branin": Threshold("median regret over random search's, Branin", below=0.5),
        "hartmann": Threshold("median regret over random search's, Hartmann-6", below=0.5),
    },
    parts=(
        optim.GaussianProcess,
        optim.fit_gaussian_process,
        optim.Matern52,
        optim.log_expected_improvement,
    ),
    run=run,
    full="50 seeds; a few minutes",
)
