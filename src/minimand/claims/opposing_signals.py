"""Opposing signals: the loss spikes once the curvature along the feature that two groups disagree on is too large."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minimand import optim
from minimand.claims.claim import Claim, Effect, Figure, Measured, Scale, Table, Threshold
from minimand.optim import OpposingSignalModel
from minimand.optim.objective import value_and_gradient

SEEDS = {"smoke": 2, "small": 100, "full": 1000}
STEPS = {"smoke": 150, "small": 600, "full": 600}
RATE, SLOWER = 0.06, 0.04  # the slower rate is stable at every curvature that the model reaches
ALPHA, KAPPA, DIM = 20.0, 0.1, 5
LENGTH, SPREAD = 2.0, 0.1  # of beta, and of each entry of b at the start
START = {"b_o": 0.05, "c": 0.1}
SOON, FIRST = 100, 40  # steps after the crossing in which the loss must spike, and in which groups are compared
LAST = 20  # steps before the loss is back where it was at the crossing, in which groups are compared as well


@dataclass(frozen=True)
class Descent:
    """Gradient descent from several starts: loss, curvature along the feature and group losses at every step.

    ``loss`` and ``curvature`` are (steps, S), ``groups`` (steps, S, 2); the last entry is the end.
    """

    rate: float
    loss: Tensor
    curvature: Tensor
    groups: Tensor

    @property
    def relative(self) -> Tensor:
        """The curvature over 2 / rate, above which a step along the feature overshoots."""
        return self.curvature * self.rate / 2

    def crossings(self) -> list[int | None]:
        """For each start the first step whose curvature is too large; None where none is."""
        over = self.relative > 1
        return [int(run.int().argmax()) if bool(run.any()) else None for run in over.unbind(1)]


def run(scale: Scale, seed: int) -> Measured:
    """Gradient descent on the model from random starts, at a rate that its curvature outgrows and at a slower one."""
    model, starts = problem(SEEDS[scale], seed)
    fast, slow = (descend(model, starts, rate, STEPS[scale]) for rate in (RATE, SLOWER))
    rise, before, correlation, late = [], [], [], []
    for i, at in enumerate(fast.crossings()):
        loss, groups = fast.loss[:, i], fast.groups[:, i]
        if at is None:
            rise.append(0.0)
            continue
        rise.append(float(loss[at : at + SOON + 1].max() / loss[at]))
        before.append(float((loss[: at + 1] / loss[: at + 1].cummin(0).values).max()))
        correlation.append(correlated(groups[at : at + FIRST + 1]))
        lowest = at + int(loss[at : at + SOON].argmin())
        back = lowest + int((loss[lowest:] >= loss[at]).int().argmax())
        late.append(correlated(groups[back - LAST : back + 1]))
    rows = tuple(
        (
            found.rate,
            2 / found.rate,
            sum(at is not None for at in found.crossings()),
            float(found.curvature.max()),
            float(found.curvature[-1].min()),
            float(found.curvature[-1].max()),
            float((found.loss / found.loss.cummin(0).values).max()),
        )
        for found in (fast, slow)
    )
    columns = ("rate", "2 / rate", "runs that cross", "largest curvature", "least at the end", "largest at the end")
    return Measured(
        {
            "crossed": Effect.exact(float(fast.relative.amax(0).min())),
            "spike": Effect.exact(min(rise)),
            "settled": Effect.exact(float(fast.relative[-1].max())),
            "correlation": Effect.exact(max(correlation, default=1.0)),
        },
        Table((*columns, "largest rise of the loss over its least so far"), rows),
        Figure(
            "One run",
            "step",
            "loss above its least value; curvature over 2 / rate",
            {
                "loss": list(enumerate(fast.loss[:, 0].tolist())),
                "curvature along the feature": list(enumerate(fast.relative[:, 0].tolist())),
                f"loss at rate {SLOWER:g}": list(enumerate(slow.loss[:, 0].tolist())),
            },
            log_y=True,
        ),
        (
            f"{SEEDS[scale]} starts. Before the crossing the loss rises by a factor of at most "
            f"{max(before, default=1.0):.4f} over its least so far.",
            "Just after the crossing both groups still gain by what they share. In the "
            f"{LAST} steps before the loss is back at its value there their changes correlate at "
            f"{max(late, default=1.0):.3f} or less.",
            "A demonstration on the model: that groups in real data behave so is the paper's, not tested here.",
        ),
    )


def correlated(losses: Tensor) -> float:
    """The correlation of two groups' changes in loss, of losses (steps, 2)."""
    return float(torch.corrcoef(losses.diff(dim=0).T)[0, 1])


def problem(starts: int, seed: int) -> tuple[OpposingSignalModel, dict[str, Tensor]]:
    """The model, and starts with b drawn at random around 0."""
    generator = torch.Generator().manual_seed(seed)
    beta = torch.full((DIM,), LENGTH / DIM**0.5, dtype=torch.float64)
    b = SPREAD * torch.randn(starts, DIM, generator=generator, dtype=torch.float64)
    fixed = {name: torch.full((starts,), value, dtype=torch.float64) for name, value in START.items()}
    return OpposingSignalModel(ALPHA, beta, KAPPA), {"b": b, **fixed}


def descend(model: OpposingSignalModel, params: dict[str, Tensor], rate: float, steps: int) -> Descent:
    """Gradient descent from every start."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps + 1):
        found.append((model(params), model.hessian(params)[:, DIM, DIM], model.group_losses(params)))
        _, slope = value_and_gradient(lambda own: model(own).sum(), params)
        params = {name: value - rate * slope[name] for name, value in params.items()}
    return Descent(rate, *(torch.stack(each) for each in zip(*found, strict=True)))


CLAIM = Claim(
    statement="In a two-layer linear model with a large feature that two groups use in opposite directions, gradient "
    "descent sharpens until the curvature along that feature passes 2 / rate; within 100 steps the loss rises to 5 "
    "times its value, while one group gains what the other loses, and the curvature ends below 2 / rate.",
    refuted_by="a start whose curvature never passes 2 / rate or ends above it, whose loss rises to less than 5 times "
    "its value at the crossing, or whose groups' changes in loss correlate above -0.9 in the 40 steps after it",
    thresholds={
        "crossed": Threshold("least of the runs' largest curvature along the feature, over 2 / rate", above=1.0),
        "spike": Threshold("least rise of the loss within 100 steps of the crossing, as a factor", above=5.0),
        "settled": Threshold("largest final curvature along the feature, over 2 / rate", below=1.0),
        "correlation": Threshold("largest correlation of the groups' changes in loss after the crossing", below=-0.9),
    },
    parts=(optim.OpposingSignalModel,),
    run=run,
    full="1000 starts; seconds",
)
