"""Sophia: clipped steps over a diagonal of curvature come to Adam's loss in half of the steps."""

from __future__ import annotations

from minimand import optim
from minimand.claims._lm_mini import COLUMNS, Method, held_out_figure, train
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold
from minimand.optim import rules

ADAM = Method(rules.AdamW(), rate=0.006, hypers={"beta2": 0.99})
SOPHIA = Method(rules.Sophia(), rate=0.003)


def run(scale: Scale, seed: int) -> Measured:
    """Both train the whole small language model, each with its best of three rates; curvature every ten steps."""
    adam, sophia = (train(method, scale, seed, everywhere=True) for method in (ADAM, SOPHIA))
    mark = len(adam.steps) * 2 // 3  # two thirds of the way
    target, taken = adam.curve[adam.best, :, max(mark - 1, 0)], adam.steps[max(mark - 1, 0)]
    share = sophia.steps_to(target).clamp(max=adam.steps[-1]) / taken  # never there counts as at the end
    return Measured(
        {"steps": Effect.mean(share.tolist())},
        Table(
            (*COLUMNS, f"share of Adam's {taken} steps to its loss there"),
            (("Adam", *adam.row, 1.0), ("Sophia", *sophia.row, float(share.mean()))),
        ),
        held_out_figure({"Adam": adam, "Sophia": sophia}),
    )


CLAIM = Claim(
    statement="On a small language model Sophia, with a Gauss-Newton-Bartlett estimate every ten steps, comes to the "
    "held-out loss that Adam has after two thirds of its training in at most 60% of Adam's steps to there, each with "
    "its best of three learning rates.",
    refuted_by="a 95% interval of the share of steps that lies above 60%; a run that never comes there counts as one "
    "that does with its last step",
    thresholds={
        "steps": Threshold("share of Adam's steps that Sophia needs to Adam's loss at two thirds", below=0.6),
    },
    parts=(optim.Sophia, optim.gauss_newton_bartlett_diagonal),
    run=run,
    full="24 seeds and 3000 steps; about an hour",
)
