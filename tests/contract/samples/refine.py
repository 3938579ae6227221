"""Schedules from gradient norms, and the bound behind them."""

from __future__ import annotations

from functools import partial

from minimand import optim

from ..declare import Takes, Wrong, part
from ..takes import not_floating, replaced, uniform

EDGES = (1e-4, 1e4, 1.0)


def not_positive(name):
    """What positive numbers (12, 5) must refuse."""
    return [
        *not_floating(name),
        Wrong(name, lambda x: x[:, :1], "(12, 1)"),
        Wrong(name, partial(replaced, position=3, value=0.0), "0 at flat position 3"),
        Wrong(name, partial(replaced, position=3, value=float("inf")), "inf at flat position 3"),
    ]


NORMS = Takes(
    lambda rows, classes, g: {"norms": uniform(rows, classes, generator=g)},
    edges={"norms": EDGES},
    wrong=not_positive("norms"),
)
WEIGHTS = Takes(
    lambda rows, classes, g: {"weights": uniform(rows, classes, generator=g)},
    edges={"weights": EDGES},
    wrong=not_positive("weights"),
)
WEIGHTED_NORMS = Takes(
    lambda rows, classes, g: {name: uniform(rows, classes, generator=g) for name in ("weights", "norms")},
    edges={"weights": EDGES, "norms": (0.0, 1.0)},
    wrong=[
        *not_positive("weights"),
        *not_floating("norms"),
        Wrong("norms", lambda x: x[1:], "(11, 5)"),
        Wrong("norms", lambda x: x.to("meta"), "meta"),
    ],
)

PARTS = [
    *part(
        optim.refine_schedule, NORMS, {"filtered": {"tau": 0.5}}, plain=False, wrong_options={"tau": 1.5, "power": -1.0}
    ),
    *part(optim.last_iterate_steps, WEIGHTS),
    *part(
        optim.last_iterate_bound,
        WEIGHTED_NORMS,
        {"": {"distance": 1.0}},
        plain=False,
        wrong_options={"distance": -1.0},
    ),
]
