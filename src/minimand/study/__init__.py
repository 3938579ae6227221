"""Studies: which method is better on this data, under one budget, and how sure one can be.

::

    from minimand.study import Task, compare

    task = Task.from_arrays(X, y, model=lambda features, outputs: MyModule(features, outputs))
    result = compare(task, {"loss": ["cross_entropy", "ldr"], "rule": ["adamw", "lion"]}, out="study")
    for row in result.rows:
        print(row.name, row.mean, row.interval, row.verdict)

Names are imported on first use: a worker process that only trains needs no pandas and no report.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimand.study.choices import grid, make_method, register
    from minimand.study.data import read_task
    from minimand.study.holdout import BudgetExhausted, EmpiricalHoldout, GaussianHoldout, Thresholdout
    from minimand.study.method import Choice, Method
    from minimand.study.metrics import metric
    from minimand.study.result import CandidateResult, MethodResult, StudyResult
    from minimand.study.study import Study, compare
    from minimand.study.task import Metric, Split, Task
    from minimand.study.trial import Budget, CurvePoint, Trial, TrialResult

__all__ = [
    "compare",
    "Study",
    "Task",
    "read_task",
    "Split",
    "Metric",
    "metric",
    "Budget",
    "Method",
    "Choice",
    "grid",
    "make_method",
    "register",
    "StudyResult",
    "MethodResult",
    "CandidateResult",
    "Trial",
    "TrialResult",
    "CurvePoint",
    "Thresholdout",
    "GaussianHoldout",
    "EmpiricalHoldout",
    "BudgetExhausted",
]

_HOMES = {
    "study": ("compare", "Study"),
    "task": ("Task", "Split", "Metric"),
    "data": ("read_task",),
    "metrics": ("metric",),
    "trial": ("Budget", "Trial", "TrialResult", "CurvePoint"),
    "method": ("Method", "Choice"),
    "choices": ("grid", "make_method", "register"),
    "holdout": ("Thresholdout", "GaussianHoldout", "EmpiricalHoldout", "BudgetExhausted"),
    "result": ("StudyResult", "MethodResult", "CandidateResult"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"minimand.study.{_HOME[name]}"), name)
    raise AttributeError(f"module 'minimand.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
