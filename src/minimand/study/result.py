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
class HoldoutAnswer:
    """What the reusable holdout said of a method's mean score.

    ``source`` says which rows the value is from: "validation", where the test rows say about the same; "test", with
    noise; "none", where the budget was spent before and there is no value.
    """

    value: float | None
    source: Literal["validation", "test", "none"]


@dataclass(frozen=True)
class HoldoutUse:
    """How a study has used its test split.

    ``split`` is the digest of the test rows, ``uses`` the number of studies that have consulted them, this one
    included, as far as the directory knows. The others belong to "thresholdout": the ``budget`` of answers that may
    draw on the test rows and what ``remaining`` of it this study left, the mechanism's ``threshold`` and ``sigma``
    in the metric's units, and the ``answers`` by method.
    """

    kind: Literal["plain", "thresholdout"]
    split: str
    uses: int
    budget: int | None = None
    remaining: int | None = None
    threshold: float | None = None
    sigma: float | None = None
    answers: Mapping[str, HoldoutAnswer] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
    are replaced by the penalty score. Under the reusable holdout they are the validation scores, moved so that their
    mean is its answer; ``scored_on`` is then "thresholdout", or "validation" where it gave none and nothing was
    moved. ``hypers`` are the winner's, under qualified names (``rule.lr``).
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
    scored_on: Literal["test", "thresholdout", "validation"] = "test"


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study; ``rows`` are ranked best first by mean.

    ``started`` and ``finished`` are ISO 8601 times, ``test_uses`` how often the test split has been scored for
    this study's store, ``holdout`` how often in all and how it answered, ``notes`` what a reader must know: why an
    engine fell back, how many seeds it would take to resolve anything. ``tuner`` is how candidates were chosen.
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
    tuner: str = "quasirandom"
    holdout: HoldoutUse | None = None
