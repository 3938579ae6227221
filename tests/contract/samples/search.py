"""Black-box search: Gaussian processes, acquisition functions, attacks along a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from minimand import optim

from ..declare import Inputs, Takes, Wrong, part
from ..takes import normal, not_floating, not_inside, uniform


def points(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"a": uniform(rows, classes, generator=generator), "b": uniform(4, classes, generator=generator)}


def seen(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {
        "points": uniform(rows, classes, generator=generator),
        "values": normal(rows, generator=generator),
        "at": uniform(4, classes, generator=generator),
    }


def forecasts(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {
        "mean": normal(rows, generator=generator),
        "deviation": uniform(rows, generator=generator) + 0.1,
        "best": normal(rows, generator=generator),
    }


def lines(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"mean": normal(rows, classes, generator=generator), "slope": normal(rows, classes, generator=generator)}


def lines_and_one(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    new = {name: normal(rows, generator=generator) for name in ("new_mean", "new_slope")}
    return {**lines(rows, classes, generator), **new}


def attacked(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    return {"x": normal(rows, classes, generator=generator), "u": normal(rows, classes, generator=generator)}


def attack(x: Tensor, u: Tensor) -> Tensor:
    return optim.directional_attack(lambda z: z + z.flip(1).tanh(), x, u, 0.5)


def foreseen(points: Tensor, values: Tensor, at: Tensor) -> Tensor:
    return optim.GaussianProcess(optim.Matern52(0.5), noise=0.5).condition(points, values).posterior(at).mean


NOT_FORECASTS = [*not_floating("mean"), *not_floating("deviation"), *not_inside("deviation", 0.0, 1.8e308)[:1]]
NOT_LINES = [
    *not_floating("mean"),
    *not_floating("slope"),
    Wrong("mean", lambda x: x[:, :0], "(12, 0)"),
    Wrong("slope", lambda x: x[:, 1:], "(12, 4)"),
]
POINTS = Takes(
    points,
    wrong=[
        *not_floating("a"),
        *not_floating("b"),
        Wrong("a", lambda x: x[0], "(5,)"),
        Wrong("b", lambda x: x[:, 1:], "(4, 4)"),
    ],
)
FORECASTS = Takes(forecasts, scores=("mean", "best"), edges={"deviation": (1e-3, 1e4)}, wrong=NOT_FORECASTS)
LINES = Takes(lines, scores=("mean", "slope"), wrong=NOT_LINES)
LINES_AND_ONE = Takes(lines_and_one, scores=("mean", "slope", "new_mean", "new_slope"), wrong=NOT_LINES)

PARTS = [
    *part(optim.RBF(0.7), POINTS, name="RBF"),
    *part(optim.Matern52(0.7), POINTS, name="Matern52"),
    *part(
        foreseen,
        Takes(
            seen,
            scores=("values",),
            wrong=[
                *not_floating("points"),
                Wrong("points", lambda x: x[0], "(5,)"),
                Wrong("values", lambda x: x[1:], "(11,)"),
            ],
        ),
        name="GaussianProcess.posterior",
    ),
    *part(optim.expected_improvement, FORECASTS),
    *part(optim.log_expected_improvement, FORECASTS),
    *part(optim.knowledge_gradient, LINES),
    *part(optim.noisy_expected_improvement, LINES_AND_ONE),
    *part(
        attack,
        Takes(attacked, scores=("x", "u"), wrong=[*not_floating("x"), Wrong("u", lambda x: x[1:], "(11, 5)")]),
        name="directional_attack",
    ),
]
