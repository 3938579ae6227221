"""Studies over many splits of one data set: what a claim about training can say beyond one split of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from minimand.claims.claim import Effect
from minimand.study import Budget, MethodResult, compare

COLUMNS = ("splits", "mean", "lowest", "highest", "median learning rate")


def over_splits(
    data: str,
    try_: Mapping[str, Any],
    *,
    splits: int,
    seed: int,
    budget: Budget,
    seeds: int = 1,
    **options: Any,
) -> dict[str, list[MethodResult]]:
    """{method: its result on each split}: a study for each of ``splits`` splits of ``data``.

    Every study has its own split, initial weights, batch order and candidates, which its methods share; each method
    is tuned on the split's validation rows and scored on its test rows, as the mean over ``seeds`` runs. ``options``
    are those of :func:`minimand.study.compare`.
    """
    found: dict[str, list[MethodResult]] = {}
    for i in range(splits):
        result = compare(data, try_, budget=budget, seeds=seeds, master_seed=1000 * seed + i, progress=False, **options)
        for row in result.rows:
            found.setdefault(row.name, []).append(row)
    return found


def gain(found: Mapping[str, Sequence[MethodResult]], method: str, baseline: str) -> Effect:
    """The method's mean gain in test score over the baseline, in pairs of one split."""
    return Effect.gain([row.mean for row in found[method]], [row.mean for row in found[baseline]])


def table_row(found: Sequence[MethodResult]) -> tuple[float | int, ...]:
    """One method's test scores over splits, under ``COLUMNS``."""
    scores = [row.mean for row in found]
    return len(scores), mean(scores), min(scores), max(scores), median(row.hypers["rule.lr"] for row in found)
