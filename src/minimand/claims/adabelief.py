"""AdaBelief: no less accurate than Adam where both are tuned alike."""

from __future__ import annotations

from minimand import optim
from minimand.claims._splits import COLUMNS, gain, over_splits, table_row
from minimand.claims.claim import Claim, Measured, Scale, Table, Threshold
from minimand.study import Budget

SPLITS = {"smoke": 2, "small": 15, "full": 100}
BUDGET = {
    "smoke": Budget(steps=10, candidates=2, curve_points=1),
    "small": Budget(steps=310, candidates=8, curve_points=1),  # 20 epochs of 988 rows in batches of 64
    "full": Budget(steps=310, candidates=16, curve_points=1),
}
# Without weight decay the learning rate is all that is tuned, and both try the same ones.
METHODS = {"rule": ["adabelief:weight_decay=0", "adam"], "schedule": "linear"}


def run(scale: Scale, seed: int) -> Measured:
    """Both rules train a 64-64-64-10 network on splits of digits, the rate decaying linearly."""
    found = over_splits(
        "digits", METHODS, splits=SPLITS[scale], seed=seed, budget=BUDGET[scale], seeds=1 if scale == "smoke" else 2
    )
    adabelief, adam = METHODS["rule"]
    return Measured(
        {"accuracy": gain(found, adabelief, adam)},
        Table(("rule", *COLUMNS), (("AdaBelief", *table_row(found[adabelief])), ("Adam", *table_row(found[adam])))),
    )


CLAIM = Claim(
    statement="On handwritten digits a small network trained with AdaBelief is at least as accurate as with Adam, "
    "to within 0.3 points, when both get the same learning rates to choose from.",
    refuted_by="a 95% interval of the paired difference in test accuracy that lies below -0.3 points",
    thresholds={
        "accuracy": Threshold("difference in test accuracy from Adam's", above=-0.003),
    },
    parts=(optim.AdaBelief,),
    run=run,
    full="100 splits and 16 learning rates; a quarter of an hour",
)
