"""The ledger: what the studies of one directory have asked of each test split, and the answers they got.

It is one SQLite file beside the studies, ``holdout.sqlite``, keyed by the digest of the test rows. Every change is
one transaction that begins by locking the file: studies that run at the same time count right and share one budget.
It knows the very same rows only. A split of the same table by another seed shares rows with this one, and is
another split.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minimand.study.holdout import BudgetExhausted, Thresholdout
from minimand.study.result import HoldoutAnswer

LEDGER_NAME = "holdout.sqlite"
APPLICATION_ID = 0x6D6E686F  # "mnho", in the file's header: another program's file is not written to
SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0  # transactions take milliseconds; this many of them may be waiting

SCHEMA = """
CREATE TABLE uses (split TEXT NOT NULL, study TEXT NOT NULL, PRIMARY KEY (split, study));
CREATE TABLE mechanisms (
    split TEXT PRIMARY KEY, budget INTEGER NOT NULL, remaining INTEGER NOT NULL, gamma NOT NULL, generator BLOB NOT NULL
);
CREATE TABLE answers (
    split TEXT NOT NULL, query TEXT NOT NULL, value NOT NULL, source TEXT NOT NULL, PRIMARY KEY (split, query)
);
"""


class LedgerError(Exception):
    """The ledger could not be read or written; the message says why."""


@dataclass(frozen=True)
class Account:
    """A test split's budget: what it was, what is left, and the answers to the queries just put, by their keys."""

    budget: int
    remaining: int
    answers: Mapping[str, HoldoutAnswer]


class Ledger:
    """The uses and the budgets of test splits, in the file ``path``, which is made when first written to.

    >>> ledger = Ledger(":memory:")
    >>> ledger.count("a split", "one study"), ledger.count("a split", "one study"), ledger.count("a split", "another")
    (1, 1, 2)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._memory = sqlite3.connect(":memory:", isolation_level=None) if path == ":memory:" else None

    def count(self, split: str, study: str) -> int:
        """Note that ``study`` consults ``split``, once however often it is told; returns how many studies have."""
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO uses VALUES (?, ?)", (split, study))
            return connection.execute("SELECT count(*) FROM uses WHERE split = ?", (split,)).fetchone()[0]

    def ask(
        self, split: str, queries: Mapping[str, tuple[float, float]], *, budget: int, master_seed: int = 0
    ) -> Account:
        """Answer ``queries`` through the split's Thresholdout, in their order.

        A query that was answered before gets the answer it got, which tells nothing new and spends nothing.

        Args:
            queries: {key: (its value on the validation rows, its value on the test rows)}, both in [0, 1].
            budget, master_seed: what the split's mechanism starts from, where there is none yet.
        """
        with self._transaction() as connection:
            mechanism, budget = self._mechanism(connection, split, budget, master_seed)
            answers = {}
            for key, (validation, test) in queries.items():
                answer = _stored(connection, split, key) or _asked(mechanism, validation, test)
                if answer.value is not None:
                    row = (split, key, answer.value, answer.source)
                    connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", row)
                answers[key] = answer
            state = mechanism.state_dict()
            connection.execute(
                "INSERT OR REPLACE INTO mechanisms VALUES (?, ?, ?, ?, ?)",
                (split, budget, state["remaining"], state["gamma"], state["generator"].numpy().tobytes()),
            )
        return Account(budget, state["remaining"], answers)

    def _mechanism(
        self, connection: sqlite3.Connection, split: str, budget: int, master_seed: int
    ) -> tuple[Thresholdout[str], int]:
        """The split's mechanism as it stood, and the budget it was given."""
        seed = int.from_bytes(hashlib.sha256(f"{split} {master_seed}".encode()).digest()[:7], "big")
        mechanism = Thresholdout("validation", "test", budget=budget, generator=torch.Generator().manual_seed(seed))
        row = connection.execute(
            "SELECT budget, remaining, gamma, generator FROM mechanisms WHERE split = ?", (split,)
        ).fetchone()
        if row is None:
            return mechanism, budget
        budget, remaining, gamma, generator = row
        drawn = torch.from_numpy(np.frombuffer(generator, dtype=np.uint8).copy())
        mechanism.load_state_dict({"remaining": remaining, "gamma": gamma, "generator": drawn})
        return mechanism, budget

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._prepare(connection)
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            raise LedgerError(f"{self.path}: {error}") from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if self._memory is not None:
            yield self._memory
            return
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            yield connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new ledger; LedgerError for a file that is none."""
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            for statement in filter(str.strip, SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        made_by, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if (made_by, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise LedgerError(f"{self.path} is not a ledger of version {SCHEMA_VERSION}")


def _asked(mechanism: Thresholdout[str], validation: float, test: float) -> HoldoutAnswer:
    """A new answer; one without a value if the budget is spent."""
    before = mechanism.remaining
    try:
        value = mechanism.answer({"validation": validation, "test": test}.__getitem__)
    except BudgetExhausted:
        return HoldoutAnswer(None, "none")
    return HoldoutAnswer(value, "validation" if mechanism.remaining == before else "test")


def _stored(connection: sqlite3.Connection, split: str, key: str) -> HoldoutAnswer | None:
    row = connection.execute("SELECT value, source FROM answers WHERE split = ? AND query = ?", (split, key)).fetchone()
    return None if row is None else HoldoutAnswer(*row)
