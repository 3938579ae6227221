"""What the trials of a study say: a row a method, and the notes that a reader must have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minimand.study import statistics
from minimand.study.engines.job import COMPILED, ENGINE, WHY
from minimand.study.method import Method
from minimand.study.result import CandidateResult, HoldoutUse, MethodResult, MethodVerdict
from minimand.study.statistics import interquartile_mean
from minimand.study.task import Task
from minimand.study.trial import Budget, Phase, TrialResult

Side = Literal["validation", "test"]

MAX_ERRORS = 10  # different ones, told of each method


@dataclass(frozen=True)
class Findings:
    """A study's results, by trial key, and what is needed to read them."""

    task: Task
    methods: Mapping[str, Method]
    baseline: str
    budget: Budget
    seeds: Sequence[int]
    results: Mapping[str, TrialResult]
    holdout: HoldoutUse | None = None

    def queries(self) -> dict[str, tuple[float, float]]:
        """Each method's mean score over the final seeds, on the validation and on the test rows; the baseline first.

        That is what a reusable holdout is asked.
        """
        names = sorted(self.methods, key=lambda name: name != self.baseline)
        return {name: (_mean(self._on("validation", name)), _mean(self._on("test", name))) for name in names}

    def rows(self) -> tuple[MethodResult, ...]:
        """A row a method, the best mean first."""
        higher = self.task.metric.higher_is_better
        scores = {name: self._scores(name) for name in self.methods}
        rivals = [name for name in self.methods if name != self.baseline]
        differences = {
            name: statistics.paired_comparison(scores[name], scores[self.baseline], higher) for name in rivals
        }
        corrected = statistics.holm([differences[name].p_value for name in rivals])
        rows = []
        for name, method in self.methods.items():
            tuned, final = self._of(name, "tune"), self._of(name, "final")
            trials = [*tuned, *final]
            statuses = Counter(result.status for result in trials)
            difference, p_value, verdict = None, None, "baseline"
            if name != self.baseline:
                difference, p_value = differences[name], float(corrected[rivals.index(name)])
                verdict: MethodVerdict = statistics.verdict(difference, p_value)
                if not self._beyond_reach(name, difference):
                    verdict = "undecided"
            seconds = sum(result.seconds for result in trials)
            rows.append(
                MethodResult(
                    name=name,
                    choices={axis: choice.name for axis, choice in method.choices.items()},
                    scores=scores[name],
                    mean=_mean(scores[name]),
                    interval=statistics.interval(scores[name]),
                    iqm=float(interquartile_mean(scores[name])),
                    iqm_interval=statistics.interval(scores[name], statistic=interquartile_mean),
                    difference=difference,
                    corrected_p=p_value,
                    verdict=verdict,
                    hypers=dict(final[0].trial.hypers),
                    candidates=tuple(CandidateResult(dict(r.trial.hypers), r.validation, r.status) for r in tuned),
                    diverged=statuses["diverged"],
                    crashed=statuses["crashed"],
                    errors=tuple(dict.fromkeys(r.error for r in trials if r.error))[:MAX_ERRORS],
                    seconds=seconds,
                    seconds_per_trial=seconds / len(trials),
                    parameters=max(result.parameters for result in trials),
                    memory_bytes=max(result.memory_bytes for result in trials),
                    curves=tuple(result.curve for result in final),
                    scored_on=self._scored_on(name),
                )
            )
        return tuple(sorted(rows, key=lambda row: row.mean, reverse=higher))

    def engine(self) -> str:
        """Which engines the trials ran on."""
        return ", ".join(dict.fromkeys(r.facts[ENGINE] for r in self.results.values() if ENGINE in r.facts))

    def notes(self) -> tuple[str, ...]:
        """What a reader must know, the most important first."""
        notes = []
        rivals, count = len(self.methods) - 1, len(self.seeds)
        if rivals and count < statistics.seeds_needed(rivals):
            notes.append(
                f"{count} seed{'s' * (count > 1)} cannot resolve any difference: the smallest p-value that they can "
                f"give is {min(1.0, rivals * statistics.smallest_p(count)):.2g}. {rivals} comparison"
                f"{'s take' if rivals > 1 else ' takes'} at least {statistics.seeds_needed(rivals)}."
            )
        for name in self.methods:
            final = self._of(name, "final")
            lost = Counter(result.status for result in final if result.status != "finished")
            if lost:
                words = " and ".join(f"{number} {status}" for status, number in lost.items())
                notes.append(
                    f"{name}: {words} of {len(final)} final trials; each counts as the worst score of the study, or "
                    "as that of a constant prediction if it is worse."
                )
        notes += self._holdout_notes()
        if len(self.task.train) < self.budget.batch_size:
            notes.append(f"Every batch is the whole training split: it has {len(self.task.train)} rows.")
        for why, names in self._grouped(WHY).items():
            engines = {r.facts[ENGINE] for r in self.results.values() if r.facts.get(WHY) == why}
            notes.append(f"{' and '.join(sorted(engines)).capitalize()} engine for {_listed(names)}: {why}.")
        for names in self._grouped(COMPILED).values():
            notes.append(f"Training steps were compiled for {_listed(names)}.")
        return tuple(notes)

    def _of(self, name: str, phase: Phase) -> list[TrialResult]:
        """A method's results in the order of its trials: by candidate, or by seed."""
        own = [r for r in self.results.values() if r.trial.method == name and r.trial.phase == phase]
        return sorted(own, key=lambda r: (r.trial.candidate, r.trial.seed))

    def _scores(self, name: str) -> tuple[float, ...]:
        """A method's final scores: on the test rows, or what a reusable holdout leaves of them.

        Of those it tells the level alone; how they spread over the seeds is taken from the validation rows.
        """
        on = self._scored_on(name)
        if on == "test":
            return self._on("test", name)
        scores = self._on("validation", name)
        if on == "validation" or self.holdout is None:
            return scores
        level = self.holdout.answers[name].value
        assert level is not None, "a method without an answer is scored on the validation rows"
        moved = level - _mean(scores)
        return tuple(score + moved for score in scores)

    def _on(self, side: Side, name: str) -> tuple[float, ...]:
        """A method's final scores on the rows of a split, with the penalty for trials that did not finish."""
        finals = self._of(name, "final")
        penalty = math.nan if all(r.status == "finished" for r in finals) else self._penalty(side)
        return tuple(_score(r, side) if r.status == "finished" else penalty for r in finals)

    def _penalty(self, side: Side) -> float:
        """What a final trial that did not finish scores: the worst that any did, or a constant's score if worse."""
        finals = [result for name in self.methods for result in self._of(name, "final")]
        known = [_score(result, side) for result in finals if result.status == "finished"]
        constant = constant_score(self.task, side)
        known += [constant] if math.isfinite(constant) else []
        if not known:
            error = next((result.error for result in finals if result.error), "")
            raise RuntimeError(f"no final trial finished, and {self.task.metric.name} scores no constant: {error}")
        return min(known) if self.task.metric.higher_is_better else max(known)

    def _scored_on(self, name: str) -> Literal["test", "thresholdout", "validation"]:
        if self.holdout is None or self.holdout.kind == "plain":
            return "test"
        return "validation" if self.holdout.answers[name].source == "none" else "thresholdout"

    def _beyond_reach(self, name: str, difference: statistics.PairedDifference) -> bool:
        """Whether a difference from the baseline is more than what a reusable holdout lets both scores be off by."""
        found = [self._scored_on(each) for each in (name, self.baseline)]
        if "validation" in found:
            return False
        low, high = difference.interval.low, difference.interval.high
        return "test" in found or low > self._tolerance or high < -self._tolerance

    @property
    def _tolerance(self) -> float:
        """Twice the threshold: each of two answers may be that far from its test score."""
        return 0.0 if self.holdout is None or self.holdout.threshold is None else 2 * self.holdout.threshold

    def _holdout_notes(self) -> list[str]:
        """How the test split was used, where that is more than once and plainly."""
        use = self.holdout
        if use is None:
            return []
        notes = []
        if use.kind == "thresholdout":
            spent = [name for name, answer in use.answers.items() if answer.source == "test"]
            open_ = [name for name, answer in use.answers.items() if answer.source == "none"]
            notes.append(
                f"Test scores are told by a reusable holdout (Thresholdout, threshold {use.threshold:g}): a method's "
                "validation score, unless its test score is further off than about that; then the test score with "
                f"noise of scale {use.sigma:g}. A method is called better or worse only if the interval of its gain "
                f"lies beyond {self._tolerance:g}."
            )
            if open_:
                notes.append(
                    f"The test split's budget of {use.budget} answers is exhausted: {_listed(open_)} "
                    f"{'is' if len(open_) == 1 else 'are'} shown by validation scores, which decide nothing. Only "
                    "fresh test rows can."
                )
            else:
                drew = f"{_listed(spent)} drew" if spent else "no method drew"
                notes.append(f"Of the test split's budget, {drew}; {use.remaining} of {use.budget} answers remain.")
        elif use.uses > 1:
            notes.append(
                f"{use.uses} studies in this place have scored this very test split: each look at it makes its scores "
                "less fresh. The thresholdout holdout is made for that."
            )
        return [*notes, *use.notes]

    def _grouped(self, fact: str) -> dict[str, list[str]]:
        """The methods by what their trials say about ``fact``."""
        found: dict[str, dict[str, None]] = {}
        for result in self.results.values():
            if fact in result.facts:
                found.setdefault(result.facts[fact], {})[result.trial.method] = None
        return {value: list(names) for value, names in found.items()}


def constant_score(task: Task, side: Side = "test") -> float:
    """The score of a prediction that ignores the inputs: the training split's class shares, or its mean.

    ``side`` says on which rows. NaN where the metric cannot score one.
    """
    mean, deviation = task.scale
    target = (task.test if side == "test" else task.validation).target.cpu().numpy()
    try:
        if task.kind == "classification":
            shares = np.bincount(task.train.target.cpu().numpy(), minlength=task.num_classes) / len(task.train)
            return float(task.metric.score(target, np.tile(shares, (len(target), 1))))
        target = target.astype(np.float64) * deviation + mean
        return float(task.metric.score(target, np.full(len(target), mean)))
    except (ValueError, ZeroDivisionError):
        return math.nan


def _score(result: TrialResult, side: Side) -> float:
    return result.test if side == "test" else result.validation


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores))


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
