"""Studies: which method is better on this data, under one budget, and how sure one can be.

::

    from minimand.study import Task, compare

    task = Task.from_arrays(X, y, model=lambda features, outputs: MyModule(features, outputs))
    result = compare(task, {"loss": ["cross_entropy", "ldr"], "rule": ["adamw", "lion"]}, out="study")
    for row in result.rows:
        print(row.name, row.mean, row.interval, row.verdict)
"""

from minimand.study.choices import grid, make_method, register
from minimand.study.data import read_task
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
]
