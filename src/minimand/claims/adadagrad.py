"""AdAdaGrad: batches that grow with the gradient's noise, and far fewer steps at the same number of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.hyper import as_hyper
from minimand.optim import BatchSizeTest, rules

SEEDS = {"smoke": 2, "small": 24, "full": 200}
EPOCHS = {"smoke": 2, "small": 100, "full": 100}
RATE, FIRST, TOLERANCE = 0.5, 8, 0.5
ALL = "all rows"
METHODS = {
    "norm test": "norm",
    "coordinate-wise test": "coordinate",
    f"always {FIRST}": FIRST,
    f"always {ALL}": ALL,
}
GROWING, SMALL = "norm test", f"always {FIRST}"


@dataclass(frozen=True)
class Logistic:
    """Mean logistic loss of labels (N,) in {0, 1}, linear in inputs (N, d)."""

    inputs: Tensor
    target: Tensor

    @classmethod
    def breast_cancer(cls) -> Logistic:
        """All 569 rows, their columns standardised, and a column of ones."""
        inputs, target = load_breast_cancer(return_X_y=True)
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        return cls(torch.from_numpy(np.c_[inputs, np.ones(len(inputs))]), torch.from_numpy(target).double())

    def gradients(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Per-sample gradients (b, d) of these rows at weights (d,)."""
        inputs = self.inputs[rows]
        return ((inputs @ weights).sigmoid() - self.target[rows])[:, None] * inputs

    def gradient_norm(self, weights: Tensor) -> float:
        """The length of the gradient over all rows."""
        return float(self.gradients(weights, torch.arange(len(self.target))).mean(0).norm())


@dataclass(frozen=True)
class Run:
    """The batch sizes of one run, and the length of the whole gradient at its end."""

    sizes: list[int]
    gradient: float


def run(scale: Scale, seed: int) -> Measured:
    """AdaGrad on logistic regression from zero weights, every method until it has seen as many samples."""
    problem = Logistic.breast_cancer()
    budget = EPOCHS[scale] * len(problem.target)
    found = {
        name: [descend(problem, batches, budget, 1000 * seed + i) for i in range(SEEDS[scale])]
        for name, batches in METHODS.items()
    }
    growing, small = found[GROWING], found[SMALL]
    ratios = [ours.gradient / theirs.gradient for ours, theirs in zip(growing, small, strict=True)]
    rows = tuple(
        (
            name,
            float(np.mean([len(each.sizes) for each in runs])),
            min(each.sizes[-1] for each in runs),
            *(float(statistic([each.gradient for each in runs])) for statistic in (np.mean, min, max)),
        )
        for name, runs in found.items()
    )
    return Measured(
        {
            "steps": Effect.exact(max(len(a.sizes) / len(b.sizes) for a, b in zip(growing, small, strict=True))),
            "gradient": Effect.mean(ratios),
            "last batch": Effect.exact(min(each.sizes[-1] for each in growing)),
        },
        Table(("batches", "mean steps", "least last batch", "mean final gradient norm", "lowest", "highest"), rows),
        Figure(
            "Batch sizes of one run",
            "step",
            "samples in the batch",
            {name: list(enumerate(found[name][0].sizes, 1)) for name in list(METHODS)[:2]},
            log_x=True,
            log_y=True,
        ),
        (
            f"{SEEDS[scale]} seeds, {budget:,} samples each; sizes never fall, since a test gives the larger of both.",
            "All rows in every batch, from the start, is the rival that growing must beat where memory allows it.",
        ),
    )


def descend(problem: Logistic, batches: str | int, budget: int, seed: int) -> Run:
    """AdaGrad on random batches until ``budget`` samples are seen: of one size, of all rows, or by a test's kind."""
    count = len(problem.target)
    test = BatchSizeTest(kind=batches, eta=TOLERANCE, max_size=count) if batches in ("norm", "coordinate") else None
    generator = torch.Generator().manual_seed(seed)
    rule, weights = rules.AdaGrad(), torch.zeros(problem.inputs.shape[1], dtype=torch.float64)
    hyper = {name: as_hyper(value) for name, value in {**rule.defaults(), "lr": RATE}.items()}
    state, sizes = rule.init(weights), []
    size, seen = count if batches == ALL else FIRST, 0
    while seen < budget:
        gradients = problem.gradients(weights, torch.randperm(count, generator=generator)[:size])
        step, state = rule.update(gradients.mean(0), state, weights, hyper)
        weights = weights + step
        sizes.append(size)
        seen += size
        if test is not None:
            size = test.next(gradients, size)
    return Run(sizes, problem.gradient_norm(weights))


CLAIM = Claim(
    statement="With batches that grow by the norm test AdaGrad takes at most a tenth of the steps that it takes with "
    "batches of 8, sees as many samples, and ends at a gradient at most 1.2 times as long.",
    refuted_by="a run of more than a tenth of the steps, one whose batch does not grow to all 569 rows, or a mean "
    "ratio of final gradient norms whose 95% interval lies above 1.2",
    thresholds={
        "steps": Threshold("largest share of the steps that batches of 8 take", below=0.1),
        "gradient": Threshold("final gradient norm over that with batches of 8", below=1.2),
        "last batch": Threshold("least size of the last batch", above=568.0),
    },
    parts=(optim.BatchSizeTest, optim.AdaGrad),
    run=run,
    full="200 seeds; two minutes",
)
