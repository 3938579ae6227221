"""Rates and batch sizes: a batch's Hessian has a larger top eigenvalue, by an excess that falls as 1 / batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import effective_batch, spiked_top_eigenvalue
from minimand.optim.objective import flatten, unflatten

SEEDS = {"smoke": 2, "small": 10, "full": 100}
ROWS = {"smoke": 50, "small": 1000, "full": 1000}
SIZES = {"smoke": (8, 16), "small": (16, 32, 64, 128, 256), "full": (16, 32, 64, 128, 256)}
BATCHES = {"smoke": 3, "small": 12, "full": 48}
INPUTS, HIDDEN, CLASSES = 10, 12, 10
STEPS, RATE = 40, 0.5
AT_ONCE = 125  # Hessians of single samples that are computed together


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalue on all samples, and for each batch size those of batches (K,) and what is predicted."""

    top: float
    tops: dict[int, list[float]]
    predicted: dict[int, float]

    def excess(self, size: int) -> float:
        """By how much the mean over batches exceeds that of all samples."""
        return float(np.mean(self.tops[size])) - self.top


def run(scale: Scale, seed: int) -> Measured:
    """A small network early in training, on several draws of rows, starts and batches."""
    found = [measure(scale, 1000 * seed + i) for i in range(SEEDS[scale])]
    sizes = SIZES[scale]
    effective = {size: effective_batch(size, ROWS[scale]) for size in sizes}
    slopes = [slope([effective[s] for s in sizes], [each.excess(s) for s in sizes]) for each in found]
    measured = {s: float(np.mean([each.excess(s) for each in found])) for s in sizes}
    predicted = {s: float(np.mean([each.predicted[s] - each.top for each in found])) for s in sizes}
    rows = tuple(
        (
            size,
            effective[size],
            float(np.mean([each.top for each in found])),
            measured[size],
            predicted[size],
            float(np.mean([2 / np.mean(each.tops[size]) for each in found])),
        )
        for size in sizes
    )
    columns = ("batch", "effective batch", "top eigenvalue, all samples", "mean excess", "predicted excess")
    return Measured(
        {
            "steepest": Effect.mean(slopes),
            "flattest": Effect.mean(slopes),
            "least excess": Effect.exact(min(each.excess(s) / each.top for each in found for s in sizes)),
        },
        Table((*columns, "mean largest stable rate"), rows),
        Figure(
            "Excess of a batch's top eigenvalue",
            "effective batch",
            "excess",
            {
                "measured": [(effective[s], measured[s]) for s in sizes],
                "predicted": [(effective[s], predicted[s]) for s in sizes],
            },
            log_x=True,
            log_y=True,
        ),
        (
            f"{SEEDS[scale]} networks, {BATCHES[scale]} batches of each size; slopes from {min(slopes):.3f} to "
            f"{max(slopes):.3f}. The prediction takes the noise for independent entries of the measured variance.",
        ),
    )


def measure(scale: Scale, seed: int) -> Curvature:
    """One network's Hessians, on all its rows and on batches of them."""
    inputs, target = digits(ROWS[scale], seed)
    objective, weights = trained(inputs, target, seed)
    each = sample_hessians(objective, weights, inputs, target)
    whole = each.mean(0)
    top = largest(whole)
    dim, rng = len(weights), np.random.default_rng(seed)
    variance = float((each.square().mean() - whole.square().mean()) * len(each) / (len(each) - 1))
    tops: dict[int, list[float]] = {}
    predicted: dict[int, float] = {}
    for size in SIZES[scale]:
        drawn = [torch.from_numpy(rng.choice(len(each), size, replace=False)) for _ in range(BATCHES[scale])]
        tops[size] = [largest(each[rows].mean(0)) for rows in drawn]
        noise = (dim * variance / effective_batch(size, len(each))) ** 0.5
        predicted[size] = float(spiked_top_eigenvalue(torch.tensor(top), noise))
    return Curvature(top, tops, predicted)


def digits(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of the handwritten digits: their first principal components, of variance 1, and classes."""
    inputs, target = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(inputs))[:rows]
    left = np.linalg.svd(inputs[chosen] - inputs[chosen].mean(0), full_matrices=False)[0]
    return torch.from_numpy(left[:, :INPUTS] * rows**0.5).float(), torch.from_numpy(target[chosen])


def trained(inputs: Tensor, target: Tensor, seed: int) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor]:
    """``(weights, inputs, target) -> mean cross-entropy`` of a network, and its weights after gradient descent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    start = {name: param.detach() for name, param in module.named_parameters()}

    def objective(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(module, unflatten(weights, start), x), y)

    weights, gradient = flatten(start), torch.func.grad(objective)
    for _ in range(STEPS):
        weights = weights - RATE * gradient(weights, inputs, target)
    return objective, weights


def sample_hessians(
    objective: Callable[[Tensor, Tensor, Tensor], Tensor], weights: Tensor, inputs: Tensor, target: Tensor
) -> Tensor:
    """(N, P, P): a Hessian for each sample; that of a batch is their mean."""

    def of_sample(x: Tensor, y: Tensor) -> Tensor:
        return torch.func.hessian(objective)(weights, x[None], y[None])

    return torch.func.vmap(of_sample, chunk_size=AT_ONCE)(inputs, target)


def largest(matrix: Tensor) -> float:
    """The largest eigenvalue of a symmetric matrix."""
    return float(torch.linalg.eigvalsh(matrix.double())[-1])


def slope(x: list[float], y: list[float]) -> float:
    """The least-squares slope of log y against log x; NaN where a y is not positive."""
    if min(y) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


CLAIM = Claim(
    statement="On handwritten digits, early in training, the largest eigenvalue of a batch's Hessian exceeds that of "
    "all samples on average, by an excess that falls as the -1st power of the effective batch size, to within 0.15.",
    refuted_by="a mean slope of log excess against log effective batch whose 95% interval lies outside [-1.15, -0.85], "
    "or a network and batch size whose batches have on average a smaller top eigenvalue than all samples",
    thresholds={
        "steepest": Threshold("slope of log excess against log effective batch", above=-1.15),
        "flattest": Threshold("slope of log excess against log effective batch", below=-0.85),
        "least excess": Threshold("least mean excess over the top eigenvalue on all samples", above=0.0),
    },
    parts=(optim.effective_batch, optim.spiked_top_eigenvalue),
    run=run,
    full="100 networks and 48 batches of each size; ten minutes",
)
