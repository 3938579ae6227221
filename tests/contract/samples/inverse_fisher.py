"""The inverse of an empirical Fisher matrix, and the rule that steps by it."""

from __future__ import annotations

from minimand import optim
from minimand.optim import rules

from ..declare import RuleSample, Takes, Wrong, part
from ..takes import normal, not_floating


def product(gradients, x, **options):
    """A product with the inverse Fisher matrix of these gradients."""
    return optim.InverseFisher(gradients, damping=0.5, **options).mul(x)


GRADIENTS = Takes(
    lambda rows, classes, g: {
        "gradients": normal(rows, classes, generator=g) / 4,
        "x": normal(3, classes, generator=g) / 4,
    },
    scores=("x",),
    wrong=[
        *not_floating("gradients"),
        *not_floating("x"),
        Wrong("gradients", lambda x: x[0], "(5,)"),
        Wrong("x", lambda x: x[:, 1:], "(3, 4)"),
        Wrong("x", lambda x: x.to("meta"), "meta"),
    ],
)

PARTS = part(product, GRADIENTS, {"blocks": {"block_size": 2}}, name="InverseFisher.mul", plain=False)
RULES = [RuleSample("MFAC", rules.MFAC(window=8))]
