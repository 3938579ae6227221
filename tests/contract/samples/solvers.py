"""The pure steps of solvers."""

from __future__ import annotations

import torch

from minimand import optim

from ..declare import Inputs, Takes, Wrong, part
from ..takes import normal, not_floating

WIDTH = 4


def classifiers(rows: int, classes: int, generator: torch.Generator) -> Inputs:
    """Several classifiers, and samples times their labels."""
    return {"theta": normal(classes, WIDTH, generator=generator), "z": normal(rows, WIDTH, generator=generator)}


CLASSIFIERS = Takes(
    classifiers,
    wrong=[
        *not_floating("theta"),
        *not_floating("z"),
        Wrong("theta", lambda x: x[:, 1:], "(5, 3)"),
        Wrong("z", lambda x: x[0], "(4,)"),
    ],
    scores=("theta", "z"),
)

PARTS = part(optim.normalized_logistic_step, CLASSIFIERS, wrong_options={"gamma": 0.0})
