"""A trial is task x method x hyperparameters x seed; its result is one row of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["tune", "final"]
Status = Literal["finished", "diverged", "crashed"]


@dataclass(frozen=True)
class Budget:
    """What every method gets: the same steps, batch size and number of candidates."""

    steps: int = 600
    batch_size: int = 64
    candidates: int = 8
    curve_points: int = 20


@dataclass(frozen=True)
class Trial:
    """One training run to make. ``candidate`` indexes the method's candidates."""

    method: str
    phase: Phase
    candidate: int
    seed: int
    hypers: Mapping[str, float]

    @property
    def key(self) -> str:
        """Its identity within a study."""
        return f"{self.method}|{self.phase}|{self.candidate}|{self.seed}"


@dataclass(frozen=True)
class CurvePoint:
    """Mean training loss since the last point, and the metric on the validation split."""

    step: int
    loss: float
    metric: float


@dataclass(frozen=True)
class TrialResult:
    """What a trial measured. Scores are the task's metric; NaN where the trial did not finish.

    ``seconds`` is this trial's share of its chunk; ``memory_bytes`` what one trial's parameters, gradients and
    optimiser state take.
    """

    trial: Trial
    status: Status
    validation: float = float("nan")
    test: float = float("nan")
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = 0.0
    parameters: int = 0
    memory_bytes: int = 0
    error: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
