"""Target surrogates: of two runs with as many gradients of the loss, the one with more surrogate steps gets lower."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import Armijo, Composite, Descent, Solver, TargetSurrogate, rules
from minimand.study.training import batch_order

CALLS = {"smoke": 4, "small": 100, "full": 100}
BATCH_CALLS = {"smoke": 3, "small": 500, "full": 500}
SEEDS = {"smoke": 2, "small": 10, "full": 100}
ETA = 4.0  # one over the smoothness of the logistic loss
BATCH, MANY = 32, 10
STEPS = (1, 2, 5, 20)
MOST = STEPS[-1]


@dataclass(frozen=True)
class Rows:
    """Standardised numbers (N, d) and labels (N,) of -1 and 1."""

    inputs: Tensor
    labels: Tensor

    @property
    def objective(self) -> Composite:
        """Logistic regression without an intercept."""
        return Composite(lambda params: self.inputs @ params["w"], lambda z: F.softplus(-self.labels * z))

    @property
    def rate(self) -> float:
        """eta / lambda_max(X^T X / N), one over the surrogate's smoothness, and for eta = 4 the loss's."""
        return ETA / float(torch.linalg.matrix_norm(self.inputs, 2) ** 2 / len(self.inputs))

    def surrogate(self, steps: int) -> TargetSurrogate:
        """The solver with that many inner steps of gradient descent."""
        return TargetSurrogate(eta=ETA, inner=Descent(rules.SGD(), {"lr": self.rate}), steps=steps)

    def batch(self, index: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.inputs[index], self.labels[index])


@lru_cache
def breast_cancer() -> Rows:
    """scikit-learn's 569 tumours, every number with mean 0 and deviation 1."""
    inputs, target = load_breast_cancer(return_X_y=True)
    x = torch.as_tensor(inputs, dtype=torch.float64)
    return Rows((x - x.mean(0)) / x.std(0, correction=0), 2.0 * torch.as_tensor(target) - 1)


def run(scale: Scale, seed: int) -> Measured:
    """The loss on all rows after as many gradients: over all rows, where nothing is random, and on mini-batches."""
    data = breast_cancer()
    solvers: dict[str, Solver] = {f"{m} surrogate steps": data.surrogate(m) for m in STEPS}
    solvers["gradient descent by line search"] = Armijo()
    paths = {name: full_batch(solver, data, CALLS[scale]) for name, solver in solvers.items()}
    most, plain = (
        paths[f"{MOST} surrogate steps"],
        full_batch(Descent(rules.SGD(), {"lr": data.rate}), data, CALLS[scale]),
    )
    rises = [
        after - before for path in (paths[f"{m} surrogate steps"] for m in STEPS) for before, after in pairwise(path)
    ]
    ends = {
        m: [on_batches(m, data, BATCH_CALLS[scale], 1000 * seed + i) for i in range(SEEDS[scale])] for m in (1, MANY)
    }
    lower = sum(many < one for many, one in zip(ends[MANY], ends[1], strict=True)) / SEEDS[scale]
    rows: list[tuple[str | float | int, ...]] = [("all rows", "gradient descent, rate 1/L", CALLS[scale], plain[-1])]
    rows += [("all rows", name, CALLS[scale], path[-1]) for name, path in paths.items()]
    rows += [
        (f"batches of {BATCH}", f"{m} surrogate steps", BATCH_CALLS[scale], sum(each) / len(each))
        for m, each in ends.items()
    ]
    return Measured(
        {
            "rise": Effect.exact(max(rises)),
            "all rows": Effect.exact(most[-1] / plain[-1]),
            "batches": Effect.exact(lower),
        },
        Table(("gradients of", "method", "gradients", "mean loss on all rows"), tuple(rows)),
        Figure(
            "Logistic regression on all rows of breast_cancer",
            "gradients of the loss",
            "loss",
            {name: tuple(enumerate(path)) for name, path in paths.items()},
            log_y=True,
        ),
        (
            "A surrogate step costs a pass forward and back through the model, without the loss: with a loss this "
            "cheap many of them save gradients and no time. The line search evaluates the loss several times a "
            "gradient.",
        ),
    )


def full_batch(solver: Solver, data: Rows, calls: int) -> list[float]:
    """The loss at zero weights and after each of ``calls`` steps."""
    objective, params = data.objective, {"w": torch.zeros(data.inputs.shape[1], dtype=torch.float64)}
    state, path = solver.init(params), []
    for _ in range(calls):
        params, state, info = solver.step(objective, params, state)
        path.append(info.value)
    return [*path, float(objective(params))]


def on_batches(steps: int, data: Rows, calls: int, seed: int) -> float:
    """The loss on all rows after a surrogate for each of ``calls`` mini-batches; the seed orders the rows."""
    params = {"w": torch.zeros(data.inputs.shape[1], dtype=torch.float64)}
    for index in batch_order(len(data.inputs), calls, BATCH, seed):
        batch = data.batch(index)
        solver = batch.surrogate(steps)
        params, _, _ = solver.step(batch.objective, params, solver.init(params))
    return float(data.objective(params))


CLAIM = Claim(
    statement="On breast_cancer, logistic regression with eta = 4 never rises on target surrogates of all rows and "
    "after 100 gradients, with 20 surrogate steps each, is at least 15% under gradient descent; on mini-batches 10 "
    "surrogate steps end lower than one in at least 9 of 10 orders of the rows.",
    refuted_by="a surrogate step on all rows that raises the loss; a loss after 100 gradients above 85% of gradient "
    "descent's; or more than one order of the rows in ten where 10 surrogate steps end above one",
    thresholds={
        "all rows": Threshold("loss with 20 surrogate steps over gradient descent's", below=0.85),
        "rise": Threshold("largest rise of the loss from one surrogate to the next", below=1e-12),
        "batches": Threshold("share of the orders of mini-batches in which 10 steps end lower than one", above=0.89),
    },
    parts=(optim.TargetSurrogate, optim.Descent, optim.Armijo),
    run=run,
    full="100 orders of the rows; ten minutes",
)
