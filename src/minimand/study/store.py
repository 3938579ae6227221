"""The store: what a study has measured so far, one row a trial, in one SQLite file that survives a crash.

A transaction is committed with ``synchronous=FULL`` in write-ahead mode: once :meth:`Store.add` returns, its rows
outlive a killed process and a power cut alike. NORMAL would survive only the first; FULL costs one flush to disk a
chunk of trials, milliseconds against the seconds the chunk took to train.
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast, final

from minimand.study.trial import CurvePoint, Phase, Status, Trial, TrialResult

SCHEMA_VERSION = 1
INTACT = "the trials stored before are intact"
APPLICATION_ID = 0x6D6E6D64  # "mnmd": SQLite keeps it in the file's header, so another program's file is told apart
BUSY_SECONDS = 10.0  # a reader's or a backup's lock is short; wait that long for it

# Scores have no declared type: under a REAL one SQLite stores -0.0 as the integer 0. NaN it stores as NULL.
SCHEMA = """
CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    method TEXT NOT NULL, phase TEXT NOT NULL, candidate INTEGER NOT NULL, seed INTEGER NOT NULL,
    hypers TEXT NOT NULL, status TEXT NOT NULL, validation, test, curve TEXT NOT NULL, seconds,
    parameters INTEGER NOT NULL, memory_bytes INTEGER NOT NULL, error TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (method, phase, candidate, seed)
);
"""
COLUMNS = (
    "method, phase, candidate, seed, hypers, status, validation, test, curve, seconds, "
    "parameters, memory_bytes, error, facts"
)


class StoreError(Exception):
    """The store could not do what was asked; the message says what survives."""


class StoreRefused(StoreError):
    """The store cannot be opened as asked: other settings, another writer, not a store, results in the way."""


class StoreFull(StoreError):
    """A transaction could not be written, mostly for want of room on the disk; all earlier ones are intact."""


@final
class Store:
    """One study's trials on disk. Make one with :meth:`open`, or :meth:`read` beside a running study.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Store.open(Path(folder) / "study.sqlite", {"seeds": [1, 2]}, resume=False) as store:
    ...         store.add([TrialResult(Trial("adamw", "tune", 0, 1, {"rule.lr": 0.01}), "finished", validation=0.9)])
    ...         [(key, result.validation) for key, result in store.results().items()]
    [('adamw|tune|0|1', 0.9)]
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: sqlite3.Connection | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, config: Mapping[str, Any], resume: bool) -> Store:
        """Open ``path`` for writing, making it if it is not there.

        ``config`` is whatever must be equal for trials to belong together, as JSON can hold it: the data's
        fingerprint, methods, budget, seeds. It is saved with a new store and compared when resuming.

        StoreRefused if the store holds trials and ``resume`` is False; if it was made with another ``config`` (the
        message names what differs); if another process is writing to it; if the file is no store of this version.
        StoreError if the file cannot be opened or written.
        """
        path = Path(path)
        wanted = _canonical(config)
        if not path.parent.is_dir():
            raise StoreError(f"path must lie in a directory that exists; {path.parent} does not")
        lock = _take_lock(path)
        try:
            with _explained("open", path):
                # isolation_level=None: transactions begin and end where this file says so.
                connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        except BaseException:
            lock.close()
            raise
        store = cls(path, connection, lock)
        try:
            store._prepare(wanted, resume)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def read(cls, path: str | Path) -> Store:
        """Open ``path`` for reading only, also while a study is writing to it."""
        path = Path(path)
        if not path.is_file():
            raise StoreRefused(f"path must be a study's store; there is no file {path}")
        with _explained("read", path):
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        store = cls(path, connection, None)
        try:
            with _explained("read", path):
                store._check_made_by_us()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def config(self) -> dict[str, Any]:
        """The settings the store was made with."""
        return json.loads(self._value("config"))

    @property
    def test_uses(self) -> int:
        """How often the test split has been consulted: each time makes its scores a little less fresh."""
        return int(self._value("test_uses"))

    def count_test_use(self) -> int:
        """Count one more look at the test split; returns the new count."""
        with self._transaction("count a use of the test split in"):
            self._connection.execute("UPDATE study SET value = value + 1 WHERE name = 'test_uses'")
        return self.test_uses

    @property
    def identity(self) -> str:
        """What the store is known by among others, wherever it is moved."""
        found = self.recall("identity")
        if found is None:
            found = uuid.uuid4().hex
            self.remember("identity", found)
        return found

    def remember(self, name: str, value: Any) -> None:
        """Keep a value under ``name``, as JSON can hold it; in place of the one that was there."""
        with self._transaction(f"save {name} in"):
            self._connection.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", (name, json.dumps(value)))

    def recall(self, name: str) -> Any:
        """What was kept under ``name``; None if nothing was."""
        with _explained("read", self.path):
            row = self._connection.execute("SELECT value FROM study WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep_answers(self, name: str, answers: Any) -> None:
        """Keep a reusable holdout's answers under ``name`` and, with them, drop the test scores they stand for."""
        with self._transaction("save the holdout's answers in"):
            self._connection.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", (name, json.dumps(answers)))
            self._connection.execute("UPDATE trials SET test = NULL")

    def add(self, results: Sequence[TrialResult]) -> None:
        """Store ``results`` in one transaction: all of them or, on an error, none.

        StoreFull if there is no room; StoreError if a trial is stored already or the file cannot be written. The
        trials added before are intact in either case, and adding may be tried again.
        """
        rows = [_row(result) for result in results]
        marks = ", ".join("?" * len(COLUMNS.split(", ")))
        with self._transaction(f"store {len(rows)} trials in"):
            self._connection.executemany(f"INSERT INTO trials ({COLUMNS}) VALUES ({marks})", rows)

    def results(self) -> dict[str, TrialResult]:
        """All stored trials by their key, in the order they were added."""
        with _explained("read", self.path):
            rows = self._connection.execute(f"SELECT {COLUMNS} FROM trials ORDER BY rowid").fetchall()
        found = map(_result, rows)
        return {result.trial.key: result for result in found}

    def close(self) -> None:
        """Close the file and let other writers in."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, wanted: str, resume: bool) -> None:
        """Make the tables of a new store; hold an existing one against ``wanted``."""
        with _explained("open", self.path):
            new = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if not new:
                self._check_made_by_us()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
        if new:
            with self._transaction("make"):
                for statement in filter(str.strip, SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO study VALUES ('config', ?), ('test_uses', '0')", (wanted,))
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                self._connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            return
        stored, count = self._value("config"), self._count()
        if count == 0:
            with self._transaction("save the settings in"):
                self._connection.execute("UPDATE study SET value = ? WHERE name = 'config'", (wanted,))
        elif not resume:
            raise StoreRefused(
                f"{self.path} already holds {count} trials; resume that study, or choose another directory"
            )
        elif stored != wanted:
            changes = list(_differences(json.loads(stored), json.loads(wanted)))
            listed = "; ".join(changes[:8]) + (f"; and {len(changes) - 8} more" if len(changes) > 8 else "")
            raise StoreRefused(f"{self.path} holds a study with other settings and cannot be resumed: {listed}")

    def _check_made_by_us(self) -> None:
        application, version = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application != APPLICATION_ID:
            raise StoreRefused(f"{self.path} is an SQLite file of another program, not a study's store")
        if version != SCHEMA_VERSION:
            raise StoreRefused(
                f"{self.path} is a store of version {version}; this minimand reads version {SCHEMA_VERSION}"
            )

    def _count(self) -> int:
        with _explained("read", self.path):
            return self._connection.execute("SELECT count(*) FROM trials").fetchone()[0]

    def _value(self, name: str) -> str:
        with _explained("read", self.path):
            return self._connection.execute("SELECT value FROM study WHERE name = ?", (name,)).fetchone()[0]

    @contextmanager
    def _transaction(self, aim: str) -> Iterator[None]:
        """All of the block is committed, or none of it; whatever ends it early, Ctrl-C included, rolls it back."""
        with _explained(aim, self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _take_lock(path: Path) -> sqlite3.Connection:
    """Hold ``path``'s writer lock: a second, empty SQLite file kept in an exclusive transaction.

    The operating system frees it when the process ends in whatever way, so no lock is ever left over, whether or
    not the empty file is; and readers of the store itself are not kept out.
    """
    with _explained("lock", path):
        lock = sqlite3.connect(path.with_name(path.name + ".lock"), timeout=0.0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            lock.close()
            if "locked" not in str(error):
                raise
            raise StoreRefused(
                f"{path} is being written by another process; wait until it ends, or choose another directory"
            ) from error
        return lock


@contextmanager
def _explained(aim: str, path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones that say what could not be done to which file, and what survives."""
    try:
        yield
    except sqlite3.Error as error:
        failed, reason = f"could not {aim} {path}", str(error)
        if "not a database" in reason:
            raise StoreRefused(f"{path} is not a study's store: {reason}") from error
        if isinstance(error, sqlite3.IntegrityError):
            raise StoreError(f"{failed}: one of them is stored already ({reason}); {INTACT}") from error
        if "locked" in reason:
            raise StoreError(f"{failed}: another program has it locked ({reason}); {INTACT}") from error
        if "is full" in reason or "disk I/O" in reason:
            # A quota or a limit on file sizes is an I/O error to SQLite, not a full disk.
            raise StoreFull(
                f"{failed}: {reason} (no room on the disk, a quota or file-size limit, or a failing disk); "
                f"{INTACT}: make room and resume"
            ) from error
        raise StoreError(f"{failed}: {reason}") from error


def _canonical(config: Mapping[str, Any]) -> str:
    """``config`` as JSON text that is equal for equal settings."""
    try:
        return json.dumps(config, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"config must be a mapping that JSON can hold; {error}") from error


def _differences(stored: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """One phrase for each setting that differs, named by its path: ``budget.steps is 600 there and 300 here``."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in sorted(stored.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else key
            if key not in wanted:
                yield f"{inner} is {_short(stored[key])} there and absent here"
            elif key not in stored:
                yield f"{inner} is absent there and {_short(wanted[key])} here"
            else:
                yield from _differences(stored[key], wanted[key], inner)
    elif isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        for position, (before, now) in enumerate(zip(stored, wanted, strict=True)):
            yield from _differences(before, now, f"{name}[{position}]")
    elif json.dumps(stored) != json.dumps(wanted):
        yield f"{name} is {_short(stored)} there and {_short(wanted)} here"


def _short(value: Any, limit: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _row(result: TrialResult) -> tuple[str | int | float, ...]:
    """A result as its row, in the order of COLUMNS. JSON keeps every float but the payload of a NaN."""
    trial = result.trial
    return (
        trial.method,
        trial.phase,
        int(trial.candidate),
        int(trial.seed),
        json.dumps({name: float(value) for name, value in trial.hypers.items()}),
        result.status,
        float(result.validation),
        float(result.test),
        json.dumps([[int(point.step), float(point.loss), float(point.metric)] for point in result.curve]),
        float(result.seconds),
        int(result.parameters),
        int(result.memory_bytes),
        json.dumps(result.error),  # as JSON: an error may quote bytes that are no valid text
        json.dumps(dict(result.facts)),
    )


def _result(row: tuple[Any, ...]) -> TrialResult:
    """The result that ``_row`` made the row of."""
    (
        method,
        phase,
        candidate,
        seed,
        hypers,
        status,
        validation,
        test,
        curve,
        seconds,
        parameters,
        memory,
        error,
        facts,
    ) = row
    return TrialResult(
        Trial(method, cast(Phase, phase), candidate, seed, json.loads(hypers)),
        cast(Status, status),
        _score(validation),
        _score(test),
        tuple(CurvePoint(*point) for point in json.loads(curve)),
        _score(seconds),
        parameters,
        memory,
        json.loads(error),
        json.loads(facts),
    )


def _score(stored: float | None) -> float:
    return math.nan if stored is None else stored
