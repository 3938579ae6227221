"""NorMuon: evening out the rows of Muon's steps lowers the loss."""

from __future__ import annotations

from minimand import optim
from minimand.claims._lm_mini import COLUMNS, Method, held_out_figure, train
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold
from minimand.optim import rules

MUON = Method(rules.Muon(), rate=0.02)
NORMUON = Method(rules.NorMuon(), rate=0.02)


def run(scale: Scale, seed: int) -> Measured:
    """Both train the block of the small language model, each with its best of three rates."""
    muon, normuon = train(MUON, scale, seed), train(NORMUON, scale, seed)
    uneven = {"Muon": muon.variation[muon.best], "NorMuon": normuon.variation[normuon.best]}
    rows = [(name, *found.row, float(uneven[name].mean())) for name, found in (("Muon", muon), ("NorMuon", normuon))]
    return Measured(
        {
            "loss": Effect.gain(normuon.losses, muon.losses, higher_is_better=False),
            "rows": Effect.mean((uneven["NorMuon"] / uneven["Muon"]).tolist()),
        },
        Table((*COLUMNS, "variation of a step's row norms"), tuple(rows)),
        held_out_figure({"Muon": muon, "NorMuon": normuon}),
    )


CLAIM = Claim(
    statement="On a small language model NorMuon ends at a lower held-out loss than Muon after as many steps, each "
    "with its best of three learning rates, and the row norms of its steps vary at most half as much.",
    refuted_by="a 95% interval of the paired difference in held-out loss that lies above zero, or row norms whose "
    "coefficient of variation is more than half of Muon's",
    thresholds={
        "loss": Threshold("gain in held-out loss over Muon, in nats a character", above=0.0),
        "rows": Threshold("coefficient of variation of a step's row norms over that of Muon's steps", below=0.5),
    },
    parts=(optim.NorMuon, optim.Muon),
    run=run,
    full="24 seeds and 3000 steps; about an hour",
)
