"""Study results made by hand, for what is shown of them."""

from __future__ import annotations

import numpy as np
import torch

from minimand.study.metrics import metric
from minimand.study.models import linear
from minimand.study.result import MethodResult, StudyResult
from minimand.study.statistics import Interval, PairedDifference
from minimand.study.task import Split, Task
from minimand.study.trial import Budget


def task(metric_name: str = "accuracy", name: str = "digits") -> Task:
    kind = "classification" if metric_name == "accuracy" else "regression"
    dtype = torch.int64 if kind == "classification" else torch.float32
    split = Split(torch.zeros(5, 2), torch.zeros(5, dtype=dtype))
    facts = {"Rows": "15: 5, 5 and 5", "Kind": kind}
    return Task(name, kind, split, split, split, linear, metric(metric_name, kind), 2, ("a", "b"), facts=facts)


def row(name: str, mean: float, verdict: str, gain: float | None = None, half: float = 0.02, **more) -> MethodResult:
    difference = None if gain is None else PairedDifference(gain, Interval(gain - half, gain + half), 0.0002)
    return MethodResult(
        name=name,
        choices={"loss": name},
        scores=tuple(np.full(3, mean)),
        mean=mean,
        interval=Interval(mean - half, mean + half),
        iqm=mean,
        iqm_interval=Interval(mean - half, mean + half),
        difference=difference,
        corrected_p=None if gain is None else 0.0004 if verdict != "undecided" else 0.4,
        verdict=verdict,  # type: ignore[arg-type]
        hypers={},
        parameters=8970,
        seconds=3.2,
        **more,
    )


def study(rows: list[MethodResult], metric_name: str = "accuracy", **more) -> StudyResult:
    baseline = next(row.name for row in rows if row.verdict == "baseline")
    return StudyResult(task(metric_name), Budget(), baseline, (1, 2, 3), tuple(rows), **more)
