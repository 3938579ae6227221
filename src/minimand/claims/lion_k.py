"""Lion-K: with weight decay Lion solves a problem in a box, and comes into the box at a known rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.hyper import as_hyper
from minimand.optim import linear_decay, rules

PROBLEMS = {"smoke": 3, "small": 100, "full": 1000}
STEPS = {"smoke": 500, "small": 10_000, "full": 10_000}
EQUATIONS, UNKNOWNS = 40, 20
RATE, DECAY = 1e-2, 1.0  # the box is |x| <= 1 / DECAY
START, SPREAD = 5.0, 2.0  # where every coordinate starts, and how far out minimisers without the box lie, in boxes
ROUNDING = 1e-9
INSIDE = 1e-6  # a coordinate at a bound comes nearer for ever: what counts as arrived
DRAWN = 400  # points of the figure's lines


@dataclass(frozen=True)
class LeastSquares:
    """f(x) = ||A x - b||^2 / 2, with A (P, equations, unknowns) and b (P, equations): P problems at once."""

    matrix: Tensor
    target: Tensor

    @classmethod
    def drawn(cls, problems: int, seed: int) -> LeastSquares:
        """Gaussian A, and b = A x* with Gaussian x* of deviation ``SPREAD`` boxes, so that it lies outside."""
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(problems, EQUATIONS, UNKNOWNS, generator=generator, dtype=torch.float64)
        best = SPREAD / DECAY * torch.randn(problems, UNKNOWNS, generator=generator, dtype=torch.float64)
        return cls(matrix, torch.einsum("pij,pj->pi", matrix, best))

    def value(self, x: Tensor) -> Tensor:
        """f of x (P, unknowns): (P,)."""
        return self._residual(x).square().sum(-1) / 2

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient at x (P, unknowns)."""
        return torch.einsum("pij,pi->pj", self.matrix, self._residual(x))

    def best_in_box(self, size: float) -> Tensor:
        """The minimiser under |x| <= size, by L-BFGS-B."""
        return torch.stack(
            [_bounded(a.numpy(), b.numpy(), size) for a, b in zip(self.matrix, self.target, strict=True)]
        )

    def _residual(self, x: Tensor) -> Tensor:
        return torch.einsum("pij,pj->pi", self.matrix, x) - self.target


def _bounded(matrix: NDArray[np.float64], target: NDArray[np.float64], size: float) -> Tensor:
    def value_and_gradient(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        residual = matrix @ x - target
        return float(residual @ residual / 2), matrix.T @ residual

    found = minimize(
        value_and_gradient,
        np.zeros(matrix.shape[1]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-size, size)] * matrix.shape[1],
        options={"maxiter": 10_000, "maxfun": 100_000, "ftol": 0.0, "gtol": 1e-11},
    )
    return torch.from_numpy(found.x)


def run(scale: Scale, seed: int) -> Measured:
    """Lion from outside the box on every problem at once, against the minimiser in the box."""
    problem = LeastSquares.drawn(PROBLEMS[scale], seed)
    best = problem.value(problem.best_in_box(1 / DECAY))
    drawn = set(np.geomspace(1, STEPS[scale], DRAWN).astype(int).tolist())
    x = torch.full((PROBLEMS[scale], UNKNOWNS), START / DECAY, dtype=torch.float64)
    rule = rules.LionK(kernel="sign")
    hyper = {name: as_hyper(value) for name, value in {**rule.defaults(), "weight_decay": DECAY}.items()}
    state, late, arrived = rule.init(x), 0.0, STEPS[scale]
    outside: list[tuple[float, float]] = []
    error: list[tuple[float, float]] = []
    for t in range(STEPS[scale]):
        rate = RATE * linear_decay(t, STEPS[scale])
        before = excess(x)
        step, state = rule.update(problem.gradient(x), state, x, {**hyper, "lr": as_hyper(rate)})
        x = x + step
        after = excess(x)
        late = max(late, float((after - (1 - rate * DECAY) * before).max()))
        if t + 1 in drawn:
            outside.append((t + 1, float(after.max())))
            error.append((t + 1, float(relative(problem.value(x), best).abs().max())))
        if arrived == STEPS[scale] and after.max() < INSIDE:
            arrived = t + 1
    errors = relative(problem.value(x), best)
    rows = (
        ("problems", len(best)),
        (f"step after which no coordinate is more than {INSIDE:g} outside", arrived),
        ("largest excess at the end", float(excess(x).max())),
        ("mean relative error of f", float(errors.abs().mean())),
        ("largest relative error of f", float(errors.abs().max())),
        ("share of coordinates at the box's bounds", float((x.abs() * DECAY > 1 - 1e-3).double().mean())),
    )
    return Measured(
        {"entry": Effect.exact(late), "error": Effect.exact(float(errors.abs().max()))},
        Table(("measured", "value"), rows),
        Figure(
            "Lion on its way into the box, the slowest of all problems",
            "step",
            "distance",
            {
                "excess of |lambda x| over 1": [(t, value) for t, value in outside if value > 0],
                "relative error of f": error,
            },
            log_x=True,
            log_y=True,
        ),
    )


def excess(x: Tensor) -> Tensor:
    """How far each coordinate of lambda x lies outside [-1, 1]."""
    return ((DECAY * x).abs() - 1).clamp(min=0)


def relative(value: Tensor, best: Tensor) -> Tensor:
    """(f - f*) / f*."""
    return (value - best) / best


CLAIM = Claim(
    statement="With decoupled weight decay lambda, Lion from outside the box |x| <= 1/lambda comes closer to it by a "
    "factor of at least 1 - lr lambda at every step, and ends at the minimum of least squares in the box.",
    refuted_by="one step, of any coordinate of any problem, that leaves more than (1 - lr lambda) of the excess over "
    "the box; or a problem on which f ends more than 0.1% from its least value in the box",
    thresholds={
        "entry": Threshold("largest excess over the box left by a step beyond (1 - lr lambda) of it", below=ROUNDING),
        "error": Threshold("largest relative error of f at the end", below=1e-3),
    },
    parts=(optim.LionK, optim.Lion),
    run=run,
    full="1000 problems; a minute or two",
)
