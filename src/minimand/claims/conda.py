"""Conda: Adam in the basis of its momentum's singular vectors needs fewer steps than Adam."""

from __future__ import annotations

from minimand import optim
from minimand.claims._lm_mini import COLUMNS, STEPS, Method, held_out_figure, train
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold
from minimand.optim import rules

ADAMW = Method(rules.AdamW(), rate=0.001, hypers={"beta2": 0.99})
CONDA = Method(rules.Conda(gap=100), rate=0.01)


def run(scale: Scale, seed: int) -> Measured:
    """Both train the block of the small language model, each with its best of three rates."""
    adamw, conda = train(ADAMW, scale, seed), train(CONDA, scale, seed)
    needed = conda.steps_to(adamw.curve[adamw.best, :, -1])
    share = (needed / STEPS[scale]).clamp(max=1.0)  # never there is no better than there at the end
    return Measured(
        {"steps": Effect.mean(share.tolist())},
        Table(
            (*COLUMNS, "share of AdamW's steps to its last loss"),
            (("AdamW", *adamw.row, 1.0), ("Conda", *conda.row, float(share.mean()))),
        ),
        held_out_figure({"AdamW": adamw, "Conda": conda}),
    )


CLAIM = Claim(
    statement="On a small language model Conda comes to the held-out loss that AdamW ends at in at most 80% of the "
    "steps, each with its best of three learning rates.",
    refuted_by="a 95% interval of the share of steps that lies above 80%; a run that never comes there counts as 100%",
    thresholds={
        "steps": Threshold("share of AdamW's steps that Conda needs to AdamW's last loss", below=0.8),
    },
    parts=(optim.Conda,),
    run=run,
    full="24 seeds and 3000 steps; about an hour",
)
