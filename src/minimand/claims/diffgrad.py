"""diffGrad: on two curves where Adam runs past the lower minimum, diffGrad stops in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minimand import optim
from minimand.claims._splits import COLUMNS, gain, over_splits, table_row
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.hyper import as_hyper
from minimand.optim import rules
from minimand.study import Budget

SPLITS = {"smoke": 2, "small": 15, "full": 100}
BUDGET = {
    "smoke": Budget(steps=10, candidates=2, curve_points=1),
    "small": Budget(steps=310, candidates=8, curve_points=1),  # 20 epochs of 988 rows in batches of 64
    "full": Budget(steps=310, candidates=16, curve_points=1),
}
# Without weight decay the learning rate is all that is tuned, and both try the same ones.
METHODS = {"rule": ["diffgrad:weight_decay=0", "adam"], "schedule": "linear"}

START, RATE, BETA1, STEPS = -1.0, 0.1, 0.95, 300  # the authors'; beta2 and eps are the usual ones
NEAR = 0.005
RULES = {
    "diffGrad": (rules.DiffGrad(), RATE),
    "Adam": (rules.AdamW(), RATE),
    "Adam, half the rate": (rules.AdamW(), RATE / 2),  # diffGrad's step where the gradient hardly changes
}


@dataclass(frozen=True)
class Curve:
    """A function of one number with two minima on the way from ``START``: the lower first, then a higher one."""

    value: Callable[[Tensor], Tensor]
    lower: float
    higher: float


def two_parabolas(x: Tensor) -> Tensor:
    """The paper's F1: (x + 0.3)^2 up to 0, then (x - 0.2)^2 + 0.05."""
    return torch.where(x <= 0, (x + 0.3).square(), (x - 0.2).square() + 0.05)


def wave(x: Tensor) -> Tensor:
    """The paper's F2: a slope of -40 up to -0.9, then x^3 + x sin(8 x) + 0.85."""
    return torch.where(x <= -0.9, -40 * x - 35.15, x**3 + x * (8 * x).sin() + 0.85)


CURVES = {
    "F1": Curve(two_parabolas, -0.3, 0.2),
    "F2": Curve(wave, -0.6429185989, 0.0),  # roots of 3 x^2 + 8 x cos(8 x) + sin(8 x)
}


def run(scale: Scale, seed: int) -> Measured:
    """The two rules down both curves, exactly; then as a rule for a network on splits of digits, against Adam."""
    effects: dict[str, Effect] = {}
    rows: list[tuple[str | float, ...]] = []
    lines = {}
    for beta1 in (BETA1, 0.9):
        for name, curve in CURVES.items():
            paths = {label: descend(rule, curve.value, rate, beta1) for label, (rule, rate) in RULES.items()}
            ends = torch.tensor([path[-1] for path in paths.values()], dtype=torch.float64)
            rows.append((f"last x on {name}, beta1 {beta1:g}", *ends.tolist()))
            rows.append((f"{name} there", *curve.value(ends).tolist()))
            if beta1 == BETA1:
                for label, goal in (("diffGrad", curve.lower), ("Adam", curve.higher)):
                    lines[f"{label} on {name}"] = tuple(enumerate(paths[label]))
                    effects[f"{label} on {name}"] = Effect.exact(abs(paths[label][-1] - goal))
    found = over_splits(
        "digits", METHODS, splits=SPLITS[scale], seed=seed, budget=BUDGET[scale], seeds=1 if scale == "smoke" else 2
    )
    diffgrad, adam = METHODS["rule"]
    effects["accuracy"] = gain(found, diffgrad, adam)
    measured = zip(COLUMNS, table_row(found[diffgrad]), table_row(found[adam]), strict=True)
    rows += [(f"accuracy on digits: {column}", *numbers, "") for column, *numbers in measured]
    return Measured(
        effects,
        Table(("measured", *RULES), tuple(rows)),
        Figure("The way down from -1, beta1 0.95", "step", "x", lines),
    )


def descend(
    rule: optim.Rule, value: Callable[[Tensor], Tensor], rate: float = RATE, beta1: float = BETA1
) -> list[float]:
    """Every x on the way from ``START``, in float64."""
    numbers = {**rule.defaults(), "lr": rate, "beta1": beta1, "weight_decay": 0.0}
    hyper = {name: as_hyper(number) for name, number in numbers.items()}
    x = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    state, path = rule.init(x), [START]
    for _ in range(STEPS):
        (grad,) = torch.autograd.grad(value(x), x)
        step, state = rule.update(grad, state, x.detach(), hyper)
        x = (x.detach() + step).requires_grad_()
        path.append(x.item())
    return path


CLAIM = Claim(
    statement="On the paper's curves F1 and F2, from -1 with learning rate 0.1 and beta1 0.95, diffGrad stops in the "
    "lower minimum and Adam runs past it into a higher one; on handwritten digits diffGrad costs a network at most "
    "0.5 points of accuracy.",
    refuted_by="diffGrad ending elsewhere than in the lower minimum, or Adam elsewhere than in the higher, on either "
    "curve; or a 95% interval of the paired difference in test accuracy that lies below -0.5 points",
    thresholds={
        "diffGrad on F1": Threshold("distance of diffGrad's end from the lower minimum of F1", below=NEAR),
        "diffGrad on F2": Threshold("distance of diffGrad's end from the lower minimum of F2", below=NEAR),
        "Adam on F1": Threshold("distance of Adam's end from the higher minimum of F1", below=NEAR),
        "Adam on F2": Threshold("distance of Adam's end from the higher minimum of F2", below=NEAR),
        "accuracy": Threshold("difference in test accuracy from Adam's on digits", above=-0.005),
    },
    parts=(optim.DiffGrad,),
    run=run,
    full="100 splits of digits and 16 learning rates; a quarter of an hour",
)
