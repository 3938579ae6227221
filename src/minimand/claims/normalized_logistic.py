"""Normalized logistic regression: the number of steps to separate data no longer grows with how many there are."""

from __future__ import annotations

import torch
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import (
    Composite,
    Descent,
    NormalizedLogistic,
    Solver,
    batch_perceptron,
    logistic_separation_bound,
    rules,
)
from minimand.optim.solvers.normalized import logistic

SIZES: dict[Scale, tuple[int, ...]] = {
    "smoke": (5, 50, 500),
    "small": (100, 1000, 10_000),
    "full": (100, 1000, 10_000, 100_000),
}
RATES = (100.0, 10.0, 1.0, 0.1)
RATE = 10.0  # the claim's
MOST = 1_000_000  # steps, never reached
UNKNOWNS, APART = 20, 0.1  # of the even data: dimensions, and how far from the true boundary all of them lie


def run(scale: Scale, seed: int) -> Measured:
    """Steps until all data are on the right side, on the paper's hard data and on data without a rare class."""
    sizes = SIZES[scale]
    hard = [rare_class(n) for n in sizes]
    even = [even_classes(n, seed) for n in sizes]
    rows: list[tuple[str | float | int, ...]] = []
    counts = {}
    for rate in RATES if scale != "smoke" else (RATE,):
        counts[rate] = [steps_to_separate(NormalizedLogistic(rate), z) for z in hard]
        rows.append((f"normalized, rate {rate:g}", *counts[rate]))
    plain = [steps_to_separate(Descent(rules.SGD(), {"lr": RATE}), z) for z in hard]
    rows += [
        (f"plain, rate {RATE:g}", *plain),
        ("batch perceptron, normalized", *(batch_perceptron(z).steps for z in hard)),
        ("batch perceptron, plain", *(batch_perceptron(z, normalize=False).steps for z in hard)),
        (f"bound for normalized, rate {RATE:g}", *(bound(z) for z in hard)),
        (f"no rare class: normalized, rate {RATE:g}", *(steps_to_separate(NormalizedLogistic(RATE), z) for z in even)),
        (
            f"no rare class: plain, rate {RATE:g}",
            *(steps_to_separate(Descent(rules.SGD(), {"lr": RATE}), z) for z in even),
        ),
    ]
    return Measured(
        {
            "normalized": Effect.exact(max(counts[RATE]) - min(counts[RATE])),
            "plain": Effect.exact(plain[-1] / plain[0]),
        },
        Table(("steps until all are on the right side", *(f"{n:,} data" for n in sizes)), tuple(rows)),
        Figure(
            f"Steps to separate data with one sample of a rare class, rate {RATE:g}",
            "data",
            "steps",
            {
                "normalized": tuple(zip(sizes, counts[RATE], strict=True)),
                "plain": tuple(zip(sizes, plain, strict=True)),
            },
            log_x=True,
            log_y=True,
        ),
        (
            "The hard data have one sample (0.5, -1) of class 1 beside copies of (-0.5, -1) of class -1. The data "
            f"without a rare class are Gaussian in {UNKNOWNS} dimensions, {APART:g} or more from a plane.",
        ),
    )


def rare_class(count: int) -> Tensor:
    """The paper's hard data z (n, 2), samples times labels: (0.5, -1) once, and n - 1 times -(-0.5, -1)."""
    z = torch.tensor([[0.5, 1.0]], dtype=torch.float64).repeat(count, 1)
    z[0, 1] = -1.0
    return z


def even_classes(count: int, seed: int) -> Tensor:
    """z (n, d): Gaussian samples, moved away from a plane through 0 by ``APART``, times the side that they are on."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(count, UNKNOWNS, generator=generator, dtype=torch.float64)
    side = samples[:, :1].sign()
    samples[:, :1] += APART * side
    return side * samples


def steps_to_separate(solver: Solver, z: Tensor) -> int:
    """The first t at which all z . theta_t are above 0, from theta_0 = 0."""
    objective = Composite(lambda params: z @ params["theta"], logistic)
    params = {"theta": torch.zeros(z.shape[1], dtype=z.dtype)}
    state = solver.init(params)
    for t in range(1, MOST + 1):
        params, state, _ = solver.step(objective, params, state)
        if bool((z @ params["theta"] > 0).all()):
            return t
    return MOST


def bound(z: Tensor) -> float:
    """The theorem's number of steps for the hard data: their two kinds of sample are the margin's."""
    rare, common = z[0], z[-1]
    return logistic_separation_bound(float(z.norm(dim=1).max()), margin_of_two(rare, common), len(z), RATE)


def margin_of_two(a: Tensor, b: Tensor) -> float:
    """The largest over unit vectors of the lesser of two products: the length of the point of [a, b] nearest to 0."""
    along = ((a @ (a - b)) / (a - b).square().sum()).clamp(0, 1)
    return float((a + along * (b - a)).norm())


CLAIM = Claim(
    statement="On data with one sample of a rare class, normalized logistic regression with rate 10 separates the "
    "classes in as many steps for 10,000 samples as for 100, while plain gradient descent on the logistic loss needs "
    "at least 50 times as many.",
    refuted_by="another number of steps of the normalized method for another number of samples; or a number of the "
    "plain method's that grows less than 50-fold as the samples grow 100-fold",
    thresholds={
        "normalized": Threshold(
            "difference between the normalized method's largest and least number of steps", below=0.5
        ),
        "plain": Threshold("plain method's steps for the most data, over those for the fewest", above=50.0),
    },
    parts=(optim.NormalizedLogistic, optim.normalized_logistic_step, optim.batch_perceptron),
    run=run,
    full="up to 100,000 samples; a quarter of an hour",
)
