"""First layers that train their pre-activations."""

from __future__ import annotations

import torch

from minimand import optim

from ..declare import Inputs, Takes, Wrong, part
from ..takes import normal, not_floating


def rows(count: int, width: int, generator: torch.Generator) -> Inputs:
    return {"dz": normal(count, 3, generator=generator), "x": normal(count, width, generator=generator)}


ROWS = Takes(
    rows,
    scores=("dz", "x"),
    wrong=[
        *not_floating("dz"),
        *not_floating("x"),
        Wrong("dz", lambda x: x[0], "(3,)"),
        Wrong("x", lambda x: x[1:], "(11, 5)"),
        Wrong("x", lambda x: x.to("meta"), "meta"),
    ],
)
WIDE = Takes(lambda count, width, g: rows(count // 4, 2 * width, g), wrong=[Wrong("x", lambda x: x[1:], "(2, 10)")])

PARTS = [
    *part(optim.tract_gradient, ROWS, {"": {"lam": 1.0}}, plain=False, wrong_options={"lam": 0.0}),
    *part(optim.tract_gradient, WIDE, {"fewer rows": {"lam": 1.0}}, plain=False),
]
