"""What a study found: everything the report and the command line show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from minimand.study.statistics import Interval, PairedDifference
from minimand.study.task import Task
from minimand.study.trial import Budget, CurvePoint, Status

MethodVerdict = Literal["baseline", "better", "worse", "undecided"]


@dataclass(frozen=True)
class CandidateResult:
    """One tuning trial: the hyperparameters tried and their validation score, NaN where it did not finish."""

    hypers: Mapping[str, float]
    validation: float
    status: Status


@dataclass(frozen=True)
class MethodResult:
    """One method's row.

    ``scores`` are test scores, one a seed, in the study's order of seeds; those of trials that diverged or crashed
    are replaced by the penalty score. ``hypers`` are the winner's, under qualified names (``rule.lr``).
    ``difference`` and ``corrected_p`` compare with the baseline and are None for the baseline itself.
    ``diverged``, ``crashed`` and ``errors`` count tuning and final trials; ``curves`` are the final trials'.
    """

    name: str
    choices: Mapping[str, str]
    scores: tuple[float, ...]
    mean: float
    interval: Interval
    iqm: float
    iqm_interval: Interval
    difference: PairedDifference | None
    corrected_p: float | None
    verdict: MethodVerdict
    hypers: Mapping[str, float]
    candidates: tuple[CandidateResult, ...] = ()
    diverged: int = 0
    crashed: int = 0
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
    seconds_per_trial: float = 0.0
    parameters: int = 0
    memory_bytes: int = 0
    curves: tuple[tuple[CurvePoint, ...], ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study; ``rows`` are ranked best first by mean.

    ``started`` and ``finished`` are ISO 8601 times, ``test_uses`` how often the test split has been scored for
    this study's store, ``notes`` what a reader must know: why an engine fell back, how many seeds it would take to
    resolve anything.
    """

    task: Task
    budget: Budget
    baseline: str
    seeds: tuple[int, ...]
    rows: tuple[MethodResult, ...]
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    engine: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    test_uses: int = 0
    master_seed: int = 0
