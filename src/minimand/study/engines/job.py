"""What a study asks of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from minimand._checks import check_choice
from minimand.study.method import Method
from minimand.study.task import Task
from minimand.study.training import Recipe
from minimand.study.trial import Budget, Trial, TrialResult

Compile = Literal["auto", "always", "never"]

ENGINES = ("auto", "batched", "process", "ray")
DEFAULT_MEMORY = 1 << 30  # bytes that a chunk of stacked trials may take, by estimate

# What engines write into ``TrialResult.facts``; a study makes its notes of it, the same ones after a resume.
ENGINE, WHY, COMPILED = "engine", "why", "compiled"


def _silent(_: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Job:
    """Trials to run.

    ``trials`` are all of a phase, whether done or not: engines that group trials group them by the whole list, so
    that a resumed study computes in the same groups, and so the same numbers, as an unbroken one. ``done`` are the
    keys of those that have results. ``memory`` is what a chunk of stacked trials may take, in bytes; ``workers`` how
    many processes to use, 0 for this one alone. ``advance`` is told the number of trials' worth of work done since
    it was last told.
    """

    task: Task
    methods: Mapping[str, Method]
    trials: Sequence[Trial]
    budget: Budget
    done: frozenset[str] = frozenset()
    compile: Compile = "auto"
    memory: int = DEFAULT_MEMORY
    workers: int | None = None
    advance: Callable[[float], None] = _silent

    def open(self) -> list[Trial]:
        """The trials without a result."""
        return [trial for trial in self.trials if trial.key not in self.done]

    def by_method(self) -> dict[str, list[Trial]]:
        """All trials of each method that has open ones."""
        names = dict.fromkeys(trial.method for trial in self.open())
        return {name: [trial for trial in self.trials if trial.method == name] for name in names}

    def recipe(self, method: str) -> Recipe:
        """How a method's trials are trained."""
        return Recipe(self.task, self.methods[method], self.budget)


class Engine(Protocol):
    """Runs jobs."""

    def run(self, job: Job) -> Iterator[list[TrialResult]]:
        """Run every open trial once, and yield results in lists as they come.

        What a trial raises is its result, never the engine's. The caller stores a list before it asks for the next.
        """
        ...

    def close(self) -> None:
        """Let go of processes; the engine may be used again."""
        ...


def engine(name: str) -> Engine:
    """The engine called ``name``. "auto" is "batched", which hands what it cannot stack to "process"."""
    check_choice("engine", name, ENGINES)
    if name == "process":
        from minimand.study.engines.process import ProcessEngine

        return ProcessEngine()
    if name == "ray":
        from minimand.study.engines.ray import RayEngine

        return RayEngine()
    from minimand.study.engines.batched import BatchedEngine

    return BatchedEngine()


def with_facts(result: TrialResult, **facts: str) -> TrialResult:
    """The result with how it was computed."""
    return replace(result, facts={**result.facts, **facts})
