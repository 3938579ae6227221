"""FRUGAL: signs on what a low-rank rule leaves out recover what it loses, and take no memory."""

from __future__ import annotations

from minimand import optim
from minimand.claims._lm_mini import COLUMNS, Method, held_out_figure, train
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold
from minimand.optim import rules

WITH_SIGNS = Method(rules.Frugal(gap=50), rate=0.01)
WITHOUT = Method(rules.Frugal(gap=50, free="none"), rate=0.003)


def run(scale: Scale, seed: int) -> Measured:
    """A quarter of the singular directions of the block's gradients take Adam; the rest signs, or nothing."""
    found = {"FRUGAL": train(WITH_SIGNS, scale, seed), "the same without signs": train(WITHOUT, scale, seed)}
    with_signs, without = found.values()
    return Measured(
        {"loss": Effect.gain(with_signs.losses, without.losses, higher_is_better=False)},
        Table(COLUMNS, tuple((name, *one.row) for name, one in found.items())),
        held_out_figure(found),
    )


CLAIM = Claim(
    statement="On a small language model, with Adam's state for a quarter of the directions, steps along the sign of "
    "the rest of the gradient lower the held-out loss by 0.02 nats a character against none, each with its best of "
    "three learning rates.",
    refuted_by="a 95% interval of the paired difference in held-out loss that lies below 0.02 nats a character",
    thresholds={
        "loss": Threshold("gain in held-out loss from the part without state, in nats a character", above=0.02),
    },
    parts=(optim.Frugal,),
    run=run,
    full="24 seeds and 3000 steps; about an hour",
)
