"""The store is held to what it promises: real processes are killed, real limits hit."""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimand.study.store import SCHEMA_VERSION, Store, StoreError, StoreFull, StoreRefused
from minimand.study.trial import CurvePoint, Trial, TrialResult

CONFIG = {"task": {"name": "digits", "fingerprint": "a3f1"}, "budget": {"steps": 600}, "seeds": [1, 2, 3]}


def result(candidate: int = 0, method: str = "adamw", **measured: Any) -> TrialResult:
    trial = Trial(method, "tune", candidate, seed=7, hypers={"rule.lr": 0.01})
    return TrialResult(trial, measured.pop("status", "finished"), **measured)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def stored(path: Path) -> dict[str, TrialResult]:
    with Store.read(path) as store:
        return store.results()


# round trip


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def same(first: TrialResult, second: TrialResult) -> bool:
    """Equal to the bit in every float; any NaN equals any NaN."""

    def flat(r: TrialResult) -> list[Any]:
        numbers = [r.validation, r.test, r.seconds, *r.trial.hypers.values()]
        numbers += [value for point in r.curve for value in (point.loss, point.metric)]
        as_bits = [bits(math.nan) if math.isnan(value) else bits(value) for value in numbers]
        steps = [point.step for point in r.curve]
        rest = [r.trial.key, list(r.trial.hypers), r.status, r.parameters, r.memory_bytes, r.error, dict(r.facts)]
        return [as_bits, steps, rest]

    return flat(first) == flat(second)


awkward = st.text(st.characters(codec=None), max_size=20)  # lone surrogates, NUL and quotes among them
curves = st.lists(st.builds(CurvePoint, st.integers(0, 10**6), st.floats(), st.floats()), max_size=4)


@given(
    st.builds(
        TrialResult,
        trial=st.builds(
            Trial,
            method=st.text(st.characters(codec="utf-8"), max_size=20),
            phase=st.sampled_from(["tune", "final"]),
            candidate=st.integers(0, 1000),
            seed=st.integers(0, 2**63 - 1),
            hypers=st.dictionaries(awkward, st.floats(), max_size=3),
        ),
        status=st.sampled_from(["finished", "diverged", "crashed"]),
        validation=st.floats(),
        test=st.floats(),
        curve=curves.map(tuple),
        seconds=st.floats(),
        parameters=st.integers(0, 2**62),
        memory_bytes=st.integers(0, 2**62),
        error=awkward,
        facts=st.dictionaries(awkward, awkward, max_size=3),
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_result_comes_back_bit_for_bit(tmp_path: Path, wanted: TrialResult) -> None:
    path = tmp_path / "round_trip.sqlite"
    path.unlink(missing_ok=True)
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([wanted])
    (found,) = stored(path).values()
    assert same(found, wanted)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2, 1.0, 2.0**53])
def test_awkward_floats_come_back_bit_for_bit(path: Path, value: float) -> None:
    wanted = result(validation=value, test=value, seconds=value, curve=(CurvePoint(1, value, value),))
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([wanted])
    (found,) = stored(path).values()
    assert same(found, wanted)


def test_results_come_back_in_the_order_added(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(3), result(1)])
        store.add([result(2)])
        assert list(store.results()) == ["adamw|tune|3|7", "adamw|tune|1|7", "adamw|tune|2|7"]


def test_scores_can_be_read_with_plain_sql(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0, validation=0.5), result(1, validation=0.75), result(2, status="diverged")])
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT candidate, status FROM trials WHERE validation > 0.6 OR validation IS NULL")
    assert rows.fetchall() == [(1, "finished"), (2, "diverged")]
    connection.close()


# transactions


def test_adding_is_all_or_nothing(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0)])
        with pytest.raises(StoreError, match="one of them is stored already"):
            store.add([result(1), result(0)])
        assert list(store.results()) == ["adamw|tune|0|7"]
        store.add([result(1)])
        assert len(store.results()) == 2


def test_adding_nothing_changes_nothing(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([])
        assert store.results() == {}


def test_ctrl_c_in_the_midst_of_adding_rolls_back(path: Path) -> None:
    class Interrupted(Sequence):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> TrialResult:
            if index == 1:
                raise KeyboardInterrupt
            return result(index)

    with Store.open(path, CONFIG, resume=False) as store:
        with pytest.raises(KeyboardInterrupt):
            store.add(Interrupted())
        assert store.results() == {}
        store.add([result(0)])
    assert len(stored(path)) == 1


def test_commits_reach_the_disk_before_add_returns(path: Path) -> None:
    """SQLite's own word for it: 2 is FULL, a flush at every commit."""
    with Store.open(path, CONFIG, resume=False) as store:
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# opening


def test_resuming_goes_on_with_what_is_there(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0)])
    with Store.open(path, CONFIG, resume=True) as store:
        store.add([result(1)])
        assert len(store.results()) == 2


def test_resuming_what_is_not_there_starts_it(path: Path) -> None:
    with Store.open(path, CONFIG, resume=True) as store:
        assert store.results() == {}
        assert store.config == CONFIG


def test_a_store_with_trials_is_not_overwritten(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0), result(1)])
    with pytest.raises(StoreRefused, match="already holds 2 trials; resume that study, or choose another directory"):
        Store.open(path, CONFIG, resume=False)
    assert len(stored(path)) == 2


def test_a_store_without_trials_is_used_again_with_new_settings(path: Path) -> None:
    Store.open(path, CONFIG, resume=False).close()
    changed = {**CONFIG, "seeds": [9]}
    with Store.open(path, changed, resume=False) as store:
        assert store.config == changed


def test_resuming_with_other_settings_names_each_that_differs(path: Path) -> None:
    before = {"budget": {"steps": 600, "batch_size": 64}, "methods": [{"rule": "adamw"}], "seeds": [1, 2], "old": 1}
    now = {"budget": {"steps": 300, "batch_size": 64}, "methods": [{"rule": "lion"}], "seeds": [1, 2, 3], "new": None}
    with Store.open(path, before, resume=False) as store:
        store.add([result(0)])
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, now, resume=True)
    assert str(refused.value).split(": ", 1)[1].split("; ") == [
        "budget.steps is 600 there and 300 here",
        'methods[0].rule is "adamw" there and "lion" here',
        "new is absent there and null here",
        "old is 1 there and absent here",
        "seeds is [1, 2] there and [1, 2, 3] here",
    ]


def test_settings_compare_as_json_does(path: Path) -> None:
    """Tuples are lists and order of keys is nothing; NaN is itself."""
    with Store.open(path, {"a": (1, 2), "b": math.nan}, resume=False) as store:
        store.add([result(0)])
    Store.open(path, {"b": math.nan, "a": [1, 2]}, resume=True).close()


def test_long_settings_are_cut_in_the_message(path: Path) -> None:
    with Store.open(path, {"data": "x" * 10_000}, resume=False) as store:
        store.add([result(0)])
    with pytest.raises(StoreRefused) as refused:
        Store.open(path, {"data": "y" * 10_000}, resume=True)
    assert len(str(refused.value)) < 1000


def test_settings_json_cannot_hold_are_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(TypeError, match="config must be a mapping that JSON can hold"):
        Store.open(path, {"loss": object()}, resume=False)
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_text("my thesis, the only copy" * 100)
    with pytest.raises(StoreRefused, match="is not a study's store"):
        Store.open(path, CONFIG, resume=True)
    assert path.read_text() == "my thesis, the only copy" * 100


def test_another_programs_database_is_refused_and_kept(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="another program"):
        Store.open(path, CONFIG, resume=True)
    assert path.read_bytes() == before


def test_a_store_of_another_version_is_refused(path: Path) -> None:
    Store.open(path, CONFIG, resume=False).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    wanted = f"version {SCHEMA_VERSION + 1}; this minimand reads version {SCHEMA_VERSION}"
    with pytest.raises(StoreRefused, match=wanted):
        Store.open(path, CONFIG, resume=True)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"directory that exists; .*nowhere does not"):
        Store.open(tmp_path / "nowhere" / "study.sqlite", CONFIG, resume=False)


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not open"):
        Store.open(tmp_path, CONFIG, resume=False)


def test_reading_what_is_not_there_makes_no_file(path: Path) -> None:
    with pytest.raises(StoreRefused, match="there is no file"):
        Store.read(path)
    assert not path.exists()


def test_uses_of_the_test_split_are_counted_across_openings(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as store:
        assert store.test_uses == 0
        assert store.count_test_use() == 1
        store.add([result(0)])
    with Store.open(path, CONFIG, resume=True) as store:
        assert store.count_test_use() == 2
    with Store.read(path) as store:
        assert store.test_uses == 2


# several processes


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs ``code`` with this file's CONFIG and ``result``.

    The store needs nothing of what its room loads: without torch and scikit-learn such a process starts at once.
    """
    prelude = f"""
from __future__ import annotations
import resource, signal, sys, time, types
from typing import Any
room = sys.modules["minimand.study"] = types.ModuleType("minimand.study")
room.__path__ = [{str(Path(inspect.getfile(Store)).parent)!r}]
from minimand.study.store import Store, StoreFull
from minimand.study.trial import CurvePoint, Trial, TrialResult
CONFIG = {CONFIG!r}
{inspect.getsource(result)}
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD = """
store = Store.open(sys.argv[1], CONFIG, resume=False)
store.add([result(0)])
print("holding", flush=True)
time.sleep(60)
"""


def test_a_second_writer_is_refused_and_the_lock_dies_with_its_process(path: Path) -> None:
    writer = python(HOLD, str(path))
    try:
        assert said(writer) == "holding"
        with pytest.raises(StoreRefused, match="is being written by another process"):
            Store.open(path, CONFIG, resume=True)
        assert len(stored(path)) == 1, "a reader is not kept out"
    finally:
        writer.kill()
        writer.wait()
    with Store.open(path, CONFIG, resume=True) as store:
        assert len(store.results()) == 1


def test_a_second_writer_in_the_same_process_is_refused(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False), pytest.raises(StoreRefused, match="being written"):
        Store.open(path, CONFIG, resume=True)
    Store.open(path, CONFIG, resume=True).close()


def test_a_leftover_lock_file_keeps_nobody_out(path: Path) -> None:
    path.with_name(path.name + ".lock").touch()
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0)])
    assert len(stored(path)) == 1


def test_another_programs_lock_is_reported_and_the_store_goes_on_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimand.study.store.BUSY_SECONDS", 0.05)
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0)])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"another program has it locked .*stored before are intact"):
            store.add([result(1)])
        other.execute("ROLLBACK")
        other.close()
        store.add([result(1)])
        assert len(store.results()) == 2


def test_a_reader_sees_whole_transactions_while_a_writer_writes(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False) as writer, Store.read(path) as reader:
        for chunk in range(5):
            writer.add([result(8 * chunk + i) for i in range(8)])
            assert len(reader.results()) == 8 * (chunk + 1)


def test_a_reader_cannot_write(path: Path) -> None:
    Store.open(path, CONFIG, resume=False).close()
    with Store.read(path) as reader, pytest.raises(StoreError, match="readonly"):
        reader.add([result(0)])


WRITE_FOR_EVER = """
store = Store.open(sys.argv[1], CONFIG, resume=True)
done = len(store.results())
while True:
    curve = tuple(CurvePoint(step, 0.1 * step, 0.5) for step in range(200))
    store.add([result(done + i, curve=curve) for i in range(8)])
    done += 8
    print(done, flush=True)
"""


def test_kill_9_while_writing_loses_nothing_that_was_committed(path: Path) -> None:
    for round_ in range(3):
        writer = python(WRITE_FOR_EVER, str(path))
        assert writer.stdout is not None
        reported = [said(writer)]
        time.sleep(0.05 + 0.03 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        reported += writer.stdout.read().split()
        assert writer.wait() == -signal.SIGKILL
        found = stored(path)
        assert len(found) >= int(reported[-1])
        assert len(found) % 8 == 0, "a transaction is there whole or not at all"
        assert all(len(trial.curve) == 200 for trial in found.values())


FILL_UP = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.open(sys.argv[1], CONFIG, resume=False)
store.add([result(0, error="x" * 1000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
done = 1
try:
    while True:
        store.add([result(done, error="x" * 20_000)])
        done += 1
except StoreFull as full:
    print(done, flush=True)
    print(full, flush=True)
print(len(store.results()), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.add([result(done, error="x" * 20_000)])
print("room again", flush=True)
store.close()
"""


def test_a_file_size_limit_is_reported_and_earlier_trials_survive(path: Path) -> None:
    writer = python(FILL_UP, str(path))
    done, message, readable, after = (said(writer) for _ in range(4))
    assert writer.wait() == 0
    assert 2 < int(done) < 20
    assert "no room" in message
    assert "the trials stored before are intact" in message
    assert str(path) in message
    assert readable == done
    assert after == "room again"
    with Store.open(path, CONFIG, resume=True) as store:
        assert len(store.results()) == int(done) + 1


def test_a_full_disk_is_reported_and_earlier_trials_survive(path: Path) -> None:
    """SQLite's page limit gives the very error a full disk does: SQLITE_FULL."""
    with Store.open(path, CONFIG, resume=False) as store:
        store.add([result(0)])
        store._connection.execute("PRAGMA max_page_count=20")
        with pytest.raises(StoreFull, match=r"is full .*the trials stored before are intact: make room and resume"):
            store.add([result(i, error="x" * 50_000) for i in range(1, 9)])
        assert len(store.results()) == 1
    with Store.open(path, CONFIG, resume=True) as store:
        store.add([result(i, error="x" * 50_000) for i in range(1, 9)])
        assert len(store.results()) == 9


def test_the_settings_are_kept_as_json(path: Path) -> None:
    with Store.open(path, CONFIG, resume=False):
        connection = sqlite3.connect(path)
        (text,) = connection.execute("SELECT value FROM study WHERE name = 'config'").fetchone()
        connection.close()
    assert json.loads(text) == CONFIG
