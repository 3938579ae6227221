"""What a study asks of its test split: counted, and answered as it is or through the reusable holdout.

``plain`` hands out test scores. ``thresholdout`` asks one query a method, in the order of the methods with the
baseline first: the mean over the final seeds of its score, on the validation rows (what the mechanism calls the
training rows: the analyst has tuned on them anyway) and on the test rows, by the very same trained models. Scores
are mapped from the metric's bounds to [0, 1], where the mechanism's threshold and noise apply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from minimand._checks import check_choice
from minimand.study.ledger import LEDGER_NAME, Account, Ledger, LedgerError
from minimand.study.provenance import digest
from minimand.study.result import HoldoutAnswer, HoldoutUse
from minimand.study.store import Store
from minimand.study.task import Task

Holdout = Literal["plain", "thresholdout"]
Queries = Mapping[str, tuple[float, float]]  # by method: its mean score on the validation and on the test rows

HOLDOUTS: tuple[Holdout, ...] = ("plain", "thresholdout")
THRESHOLD, SIGMA = 0.04, 0.01  # of the metric's range; Dwork et al. (2015), arXiv:1506.02629, section 5
ROWS_PER_ANSWER = 10
ROUNDING = 1e-9  # by which a score may miss its bounds
ANSWERS = "holdout"  # where the store keeps them


def check_holdout(holdout: str, task: Task) -> None:
    """ValueError for a holdout that is none, or that cannot take the task's scores."""
    check_choice("holdout", holdout, HOLDOUTS)
    if holdout == "thresholdout" and task.metric.bounds is None:
        from minimand.study.metrics import bounded

        raise ValueError(
            f"holdout 'thresholdout' needs scores with bounds, and {task.metric.name} has none; take "
            f"{', '.join(bounded(task.kind)) or 'holdout plain'}, or a Metric with bounds=(low, high)"
        )


def budget_of(rows: int) -> int:
    """How many answers may draw on a test split of so many rows: one for ten.

    A rule of thumb and no guarantee. The theorem (arXiv:1506.02629, theorem 25) lets the budget grow as the square
    of rows x accuracy^2 up to logarithms: at the accuracy used here that is about this many for 10,000 rows, and
    fewer for less.
    """
    return max(1, rows // ROWS_PER_ANSWER)


class Consultation:
    """One study at its test split.

    Args:
        holdout: "plain" or "thresholdout".
        out: the study's directory; the ledger lies in its parent. None: nothing is kept.
        store: the study's store, in ``out``.
    """

    def __init__(
        self, holdout: Holdout, task: Task, master_seed: int, out: Path | None = None, store: Store | None = None
    ) -> None:
        self.holdout: Holdout = holdout
        self.task = task
        self.master_seed = master_seed
        self.store = store
        self.split = digest([task.test.inputs.cpu().numpy(), task.test.target.cpu().numpy()])
        self.uses = 1
        self.notes: list[str] = []
        self._ledger = None if out is None else Ledger(out.resolve().parent / LEDGER_NAME)

    def begin(self) -> None:
        """Count the use of the test split, once a study, before anything is scored on it."""
        if self.store is None or self._ledger is None:
            return
        if self.store.test_uses == 0:  # a study that was interrupted after this uses it once all the same
            self.store.count_test_use()
        try:
            self.uses = self._ledger.count(self.split, self.store.identity)
        except LedgerError as error:
            self._give_up(error)

    def end(self, queries: Callable[[], Queries], config: Callable[[], Mapping[str, Any]]) -> HoldoutUse:
        """What the test split says of each method; the answers that are stored, where they are."""
        if self.holdout == "plain":
            return HoldoutUse("plain", self.split, self.uses, notes=tuple(self.notes))
        found = None if self.store is None else self.store.recall(ANSWERS)
        if found is None:
            found = self._ask(queries(), config())
            if self.store is not None:
                self.store.keep_answers(ANSWERS, found)
        low, high = self._bounds
        return HoldoutUse(
            "thresholdout",
            self.split,
            self.uses,
            budget=found["budget"],
            remaining=found["remaining"],
            threshold=THRESHOLD * (high - low),
            sigma=SIGMA * (high - low),
            answers={name: HoldoutAnswer(**answer) for name, answer in found["answers"].items()},
            notes=tuple(found["notes"]),
        )

    def _ask(self, queries: Queries, config: Mapping[str, Any]) -> dict[str, Any]:
        low, high = self._bounds
        keys = {name: _key(config, name, validation) for name, (validation, _) in queries.items()}
        account = self._answered(
            {keys[name]: (self._share(validation), self._share(test)) for name, (validation, test) in queries.items()}
        )
        answers = {}
        for name, (validation, _) in queries.items():
            answer = account.answers[keys[name]]
            value = answer.value if answer.value is None else low + (high - low) * answer.value
            answers[name] = HoldoutAnswer(validation if answer.source == "validation" else value, answer.source)
        return {
            "budget": account.budget,
            "remaining": account.remaining,
            "answers": {name: asdict(answer) for name, answer in answers.items()},
            "notes": self.notes,
        }

    def _answered(self, asked: Mapping[str, tuple[float, float]]) -> Account:
        """The answers from the ledger beside the studies, or from one that is forgotten with this run."""
        budget = budget_of(len(self.task.test))
        if self._ledger is not None:
            try:
                return self._ledger.ask(self.split, asked, budget=budget, master_seed=self.master_seed)
            except LedgerError as error:
                self._give_up(error)
        elif self.store is None:
            self.notes.append("Without a directory the budget of the test split is forgotten after this study.")
        return Ledger(":memory:").ask(self.split, asked, budget=budget, master_seed=self.master_seed)

    def _give_up(self, error: LedgerError) -> None:
        what = "uses" if self.holdout == "plain" else "uses and the budget"
        self.notes.append(f"The {what} of the test split are counted for this study alone: {error}.")
        self._ledger = None

    def _share(self, score: float) -> float:
        """Where a score lies within the metric's bounds, as a number in [0, 1]."""
        low, high = self._bounds
        share = (score - low) / (high - low)
        if not -ROUNDING <= share <= 1.0 + ROUNDING:
            name = self.task.metric.name
            raise ValueError(f"{name} must give scores within its bounds, [{low:g}, {high:g}]; got {score:g}")
        return min(max(share, 0.0), 1.0)

    @property
    def _bounds(self) -> tuple[float, float]:
        assert self.task.metric.bounds is not None, "checked when the study was made"
        return self.task.metric.bounds


def _key(config: Mapping[str, Any], method: str, validation: float) -> str:
    """What a query is known by: the study's settings, the method and what the analyst sees, never a test score."""
    text = json.dumps([config, method, f"{validation:.6g}"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
