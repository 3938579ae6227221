"""Offline search: the penalty on a surrogate's gradient norm, and the ascent on designs."""

from __future__ import annotations

from torch import Tensor

from minimand import optim

from ..declare import Takes, Wrong, part
from ..takes import normal, not_floating


def penalty(weights: Tensor, x: Tensor, **options: float) -> Tensor:
    """The penalty of a surrogate tanh(x . weights)."""
    return optim.gradient_norm_penalty(lambda p, x: (x @ p["weights"]).tanh(), {"weights": weights}, x, 0.5, **options)


def ascent(x: Tensor) -> Tensor:
    """Two steps up a smooth hill."""
    return optim.ascend_surrogate(lambda x: -(x / 10 - 1).square().sum(-1), x, steps=2)


SURROGATE = Takes(
    lambda rows, classes, g: {
        "weights": normal(classes, generator=g) / 4,
        "x": normal(rows, classes, generator=g) / 4,
    },
    scores=("x",),
    wrong=[*not_floating("weights"), *not_floating("x"), Wrong("x", lambda x: x[:0], "(0, 5)")],
)
DESIGNS = Takes(
    lambda rows, classes, g: {"x": normal(rows, classes, generator=g)},
    scores=("x",),
    wrong=[*not_floating("x"), Wrong("x", lambda x: x[0, 0], "()")],
)
PARTS = [
    *part(penalty, SURROGATE, name="gradient_norm_penalty", wrong_options={"r": 0.0}),
    *part(
        penalty,
        SURROGATE,
        {"difference": {"r": 0.05}},
        name="gradient_norm_penalty",
        plain=False,
        is_first=False,
        condition=5000.0,  # what two gradients have in common is lost, and the rest divided by r
    ),
    *part(ascent, DESIGNS, name="ascend_surrogate"),
]
