"""Learnt search: histograms of forecasts, and the objective that a policy is trained on."""

from __future__ import annotations

import torch

from minimand import optim

from ..declare import Inputs, Takes, Wrong, part
from ..takes import normal, not_floating

BARS = optim.BarDistribution(torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64))


def actions(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    """Log-probabilities of actions under two policies near one another, and advantages."""
    old = normal(rows, generator=generator).sigmoid().log()
    return {
        "log_prob": old + normal(rows, generator=generator) / 8,
        "old_log_prob": old,
        "advantage": normal(rows, generator=generator),
    }


def forecasts(other: str | None = None) -> Takes:
    """Logits (12, 5) of five bars, and numbers (12,) named ``other``."""

    def make(rows: int, classes: int, generator: torch.Generator) -> Inputs:
        logits = {"logits": normal(rows, classes, generator=generator)}
        return logits if other is None else {**logits, other: normal(rows, generator=generator)}

    scores = ("logits",) if other is None else ("logits", other)
    wrong = [*not_floating("logits"), Wrong("logits", lambda x: x[:, 1:], "(12, 4)")]
    if other is not None:
        wrong += [*not_floating(other), Wrong(other, lambda x: x.to("meta"), "meta")]
    return Takes(make, scores=scores, wrong=wrong)


def not_its_fellow(name: str) -> list[Wrong]:
    """What an input of the first one's shape and device must refuse."""
    return [*not_floating(name), Wrong(name, lambda x: x[1:], "(11"), Wrong(name, lambda x: x.to("meta"), "meta")]


ACTIONS = Takes(
    actions,
    scores=("advantage",),
    wrong=[*not_floating("log_prob"), *not_its_fellow("old_log_prob"), *not_its_fellow("advantage")],
)
EPISODES = Takes(
    lambda rows, classes, g: {
        "rewards": normal(rows, classes, generator=g) / 4,
        "values": normal(rows, classes, generator=g) / 4,
    },
    scores=("rewards", "values"),
    wrong=[*not_floating("rewards"), Wrong("rewards", lambda x: x[0, 0], "()"), *not_its_fellow("values")],
)

PARTS = [
    *part(BARS.log_prob, forecasts("y"), name="BarDistribution.log_prob"),
    *part(BARS.mean, forecasts(), name="BarDistribution.mean"),
    *part(BARS.ucb, forecasts(), name="BarDistribution.ucb"),
    *part(BARS.expected_improvement, forecasts("best"), name="BarDistribution.expected_improvement"),
    *part(optim.ppo_objective, ACTIONS, wrong_options={"clip": 0.0}),
    *part(optim.generalized_advantages, EPISODES, wrong_options={"discount": 1.5, "trace": -0.5}),
]
