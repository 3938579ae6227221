"""Small tasks that train in milliseconds."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import torch
from torch import nn

from minimand.study import Method, Task, Trial, grid, metric
from minimand.study.choices import make_method
from minimand.study.engines import Job, engine
from minimand.study.trial import Budget, Phase, TrialResult

QUICK = Budget(steps=12, batch_size=16, candidates=3, curve_points=3)


def small_mlp(features: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 12), nn.Tanh(), nn.Linear(12, outputs))


class Normalised(nn.Module):
    """A network with running statistics, which cannot be stacked."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, 12, bias=False)  # a bias would get nothing but rounding errors as gradient
        self.norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(x)).relu())


def blobs(classes: int = 3, rows: int = 160, scored: str = "log_loss", model=small_mlp, spread: float = 1.0) -> Task:
    """Gaussian clouds around points in four dimensions."""
    rng = np.random.default_rng(7)
    target = np.arange(rows) % classes
    centres = rng.normal(size=(classes, 4)) * 1.5
    inputs = (centres[target] + spread * rng.normal(size=(rows, 4))).astype(np.float32)
    return Task.from_arrays(inputs, target, model=model, metric=scored, name="blobs")


def curve(rows: int = 160, scored: str = "rmse", model=small_mlp) -> Task:
    """A smooth function of four numbers, in units far from 0 and 1."""
    rng = np.random.default_rng(8)
    inputs = rng.normal(size=(rows, 4)).astype(np.float32)
    target = 500.0 + 40.0 * (np.sin(inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]) + rng.normal(size=rows)
    return Task.from_arrays(inputs, target, model=model, metric=scored, name="curve")


def run(job: Job, name: str) -> dict[str, TrialResult]:
    """Everything an engine yields, by trial key."""
    with closing(engine(name)) as runner:
        return {result.trial.key: result for results in runner.run(job) for result in results}


def job(task: Task, methods: list[Method], seeds: range = range(3), phase: Phase = "final", **options) -> Job:
    """A job of the methods' defaults, a trial a seed; ``hypers`` of the trials may be given."""
    hypers = options.pop("hypers", {})
    budget = options.pop("budget", QUICK)
    trials = [Trial(each.name, phase, 0, seed, {**each.fixed, **hypers}) for each in methods for seed in seeds]
    return Job(task, {each.name: each for each in methods}, trials, budget, **options)


__all__ = ["QUICK", "Normalised", "blobs", "curve", "grid", "job", "make_method", "metric", "run", "small_mlp"]
