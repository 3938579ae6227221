"""Largest eigenvalues of noisy curvature."""

from __future__ import annotations

from minimand import optim

from ..declare import Takes, Wrong, part
from ..takes import normal, not_floating, uniform


def not_beside_top(name):
    """What a positive number for each of ``top`` (12,) must refuse."""
    return [
        Wrong(name, lambda x: x.long(), "torch.int64", TypeError),
        Wrong(name, lambda x: x[1:], "(11,)"),
        Wrong(name, lambda x: x.to("meta"), "meta"),
        Wrong(name, lambda x: -x - 1, "-"),
    ]


SPIKED = Takes(
    lambda rows, classes, g: {"top": normal(rows, generator=g), "noise": uniform(rows, generator=g)},
    scores=("top",),
    edges={"noise": (0.0, 1e-6, 1.0, 1e2)},
    wrong=[*not_floating("top"), *not_beside_top("noise")],
)
COVARIANCE = Takes(
    lambda rows, classes, g: {
        "top": 3 + normal(rows, generator=g),
        "ratio": uniform(rows, generator=g),
        "bulk": uniform(rows, generator=g),
    },
    scores=("top",),
    edges={"ratio": (1e-2, 1.0, 4.0), "bulk": (0.0, 1e-2, 1.0, 1e2)},
    wrong=[*not_floating("top"), *not_beside_top("ratio"), *not_beside_top("bulk")],
)

PARTS = [*part(optim.spiked_top_eigenvalue, SPIKED), *part(optim.bbp_top_eigenvalue, COVARIANCE)]
