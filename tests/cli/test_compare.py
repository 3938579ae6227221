"""``minimand compare`` from the command line to the report, and every way it can end early."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from minimand.cli.app import app
from minimand.study import store

SMALL = ["iris", "--try", "loss=cross_entropy,gce", "--budget", "steps=20,candidates=2,batch=16", "--seeds", "2"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def minimand(*arguments: str, monkeypatch: pytest.MonkeyPatch | None = None) -> Any:
    if monkeypatch is not None:  # what the report and a hint how to resume say was typed
        monkeypatch.setattr(sys, "argv", ["minimand", *arguments])
    return CliRunner().invoke(app, list(arguments))


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---------------------------------------------------------------- a study


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small study, run once."""
    folder = tmp_path_factory.mktemp("study")
    return minimand("compare", *SMALL, "--out", str(folder / "out")), folder / "out"


def test_study_ends_well_and_is_quiet_on_stderr(done: tuple[Any, Path]) -> None:
    result, _ = done
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def test_header_says_what_was_read_and_decided(done: tuple[Any, Path]) -> None:
    shown = done[0].stdout
    for piece in (
        "150: 82 to train, 30 to validate, 38 to test",
        "cross_entropy (baseline), gce",
        "20 steps of 16 rows; 2 candidates and 2 seeds a method",
        "4 to tune + 4 final = 8",
        "accuracy, higher is better",
    ):
        assert piece in shown


def test_last_line_is_the_path_of_the_report(done: tuple[Any, Path]) -> None:
    result, out = done
    assert result.stdout.splitlines()[-1] == f"Report: {out / 'report.html'}"
    assert written(out) == ["report.html", "results.csv", "results.json", "study.sqlite", "study.sqlite.lock"]


def test_table_shows_the_scores_that_results_json_holds(done: tuple[Any, Path]) -> None:
    result, out = done
    found = json.loads((out / "results.json").read_text())
    for method in found["methods"]:
        line = next(
            line for line in result.stdout.splitlines() if line.split()[1:2] == [method["name"]] and line[0].isdigit()
        )
        shown = float(line.split()[2])
        assert shown == pytest.approx(100 * np.mean(method["scores"]), abs=0.5)


def test_differences_that_two_seeds_cannot_resolve_are_called_that(done: tuple[Any, Path]) -> None:
    assert "Not resolved: " in done[0].stdout
    assert "Note: 2 seeds cannot resolve any difference" in done[0].stdout
    assert "Resolved: " not in done[0].stdout.replace("Not resolved: ", "")


def test_json_is_all_of_stdout_and_what_the_file_holds(here: Path, done: tuple[Any, Path]) -> None:
    result = minimand("compare", *SMALL, "--out", str(done[1]), "--resume", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed.pop("report") == str(done[1] / "report.html")
    assert printed == json.loads((done[1] / "results.json").read_text())


def test_without_out_a_directory_of_its_own_is_made(here: Path) -> None:
    result = minimand("compare", *SMALL)
    assert result.exit_code == 0, result.output
    (out,) = (path for path in (here / "runs").iterdir() if path.is_dir())
    assert out.name.startswith("iris-")
    assert result.stdout.splitlines()[-1] == f"Report: runs/{out.name}/report.html"


def test_a_tuner_that_learns_is_named_and_has_the_same_budget(here: Path) -> None:
    result = minimand("compare", *SMALL, "--tuner", "direct", "--seeds", "1", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["tuner"] == "direct"
    assert [len(row["candidates"]) for row in found["methods"]] == [2, 2]
    assert "around the best of them" in (here / "out" / "report.html").read_text()


def test_thresholdout_tells_its_budget_and_another_study_goes_on_from_it(here: Path) -> None:
    asked = [*SMALL, "--holdout", "thresholdout", "--json"]
    first, second = (minimand("compare", *asked, "--out", f"runs/{name}", "--seed", "0") for name in "ab")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
    holdouts = [json.loads(result.stdout)["holdout"] for result in (first, second)]
    assert [(use["kind"], use["budget"], use["uses"]) for use in holdouts] == [
        ("thresholdout", 3, 1),
        ("thresholdout", 3, 2),
    ]
    assert holdouts[0]["answers"] == holdouts[1]["answers"]  # the same question has the same answer, and is free
    assert holdouts[0]["remaining"] == holdouts[1]["remaining"]


def test_a_plain_study_is_not_resumed_through_thresholdout(done: tuple[Any, Path]) -> None:
    result = minimand("compare", *SMALL, "--out", str(done[1]), "--resume", "--holdout", "thresholdout")
    assert result.exit_code == 2
    assert 'holdout is absent there and "thresholdout" here' in result.stderr.replace("\n", " ")


def test_regression_on_a_table_takes_losses_that_fit(here: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=80), "b[red]": rng.choice(["x", "y"], 80)})
    frame["y"] = frame["a"] * 3 + rng.normal(size=80)
    frame.to_csv("table.csv", index=False)
    result = minimand(
        "compare", "table.csv", "-t", "y", "--budget", "steps=10,candidates=1", "--seeds", "1", "-m", "rmse"
    )
    assert result.exit_code == 0, result.output
    assert "mse (baseline), l1, huber, hl_gauss" in result.stdout
    assert "regression (inferred: numbers)" in result.stdout
    assert "rmse, lower is better" in result.stdout


def test_grid_over_two_axes_and_a_model_of_the_users_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "my_small_net.py").write_text("import torch\n\ndef make(n, m):\n    return torch.nn.Linear(n, m)\n")
    result = minimand(
        *("compare", "iris", "--model", "my_small_net:make", "--try", "rule=adamw,lion"),
        *("--try", "loss=ldr(lam=10, margin=0),focal", "--baseline", "lion + focal"),
        *("--budget", "steps=5,candidates=1", "--seeds", "1", "--json"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["baseline"] == "lion + focal"
    assert {method["name"] for method in found["methods"]} == {
        f"{rule} + {loss}" for rule in ("adamw", "lion") for loss in ("ldr:lam=10:margin=0", "focal")
    }
    assert {method["parameters"] for method in found["methods"]} == {4 * 3 + 3}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.csv"], "DATA: no file 'nothing.csv' and no embedded set of that name"),
        (["notes.txt"], "DATA must end in .csv"),
        (["table.csv"], "target must name the column to predict; table has a, y"),
        (["table.csv", "-t", "Y"], "target must be one of a, y; got 'Y' (did you mean 'y'?)"),
        (["constant.csv", "-t", "y"], "target 'y' must have at least two classes; every row holds 'no'"),
        (["rare.csv", "-t", "y"], "target 'y' must have at least 2 rows a class; class 'maybe' has 1"),
        (["missing.csv", "-t", "y"], "target 'y' is missing in 1 of 31 rows"),
        (["iris", "-m", "rmse"], "metric 'rmse' is for regression, this task is classification"),
        (["iris", "-m", "acuracy"], "(did you mean 'accuracy'?)"),
        (["iris", "--try", "loss=crossentropy"], "(did you mean 'cross_entropy'?)"),
        (["iris", "--try", "los=gce"], "(did you mean 'loss'?)"),
        (["iris", "--try", "gce"], "--try must be written AXIS=a,b,c"),
        (["iris", "--try", "loss=mse"], "loss 'mse' is for regression; this task is classification"),
        (["iris", "--try", "loss=ldr:lam=-1"], "lam must lie in [0, inf); got -1"),
        (["iris", "--try", "loss=gce", "--baseline", "ldr"], "baseline must be one of gce; got 'ldr'"),
        (["iris", "--budget", "stepz=3"], "(did you mean 'steps'?)"),
        (["iris", "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["iris", "--workers", "-1"], "--workers must be at least 0; got -1"),
        (["iris", "--engine", "batch"], "(did you mean 'batched'?)"),
        (["iris", "--tuner", "bayes"], "(did you mean 'bayesian'?)"),
        (["iris", "--compile", "often"], "--compile must be one of auto, always, never; got 'often'"),
        (["iris", "--holdout", "thresholdot"], "--holdout must be one of plain, thresholdout; got 'thresholdot' (did"),
        (["iris", "--holdout", "thresholdout", "-m", "log_loss"], "needs scores with bounds, and log_loss has none"),
        (["iris", "--kind", "ranking"], "--kind must be one of classification, regression; got 'ranking'"),
        (["iris", "--missing-target", "keep"], "--missing-target must be one of refuse, drop; got 'keep'"),
        (["iris", "--device", "warp"], "device must be 'auto' or a torch device; got 'warp'"),
        (["iris", "--model", "mpl"], "(did you mean 'mlp'?)"),
        (["iris", "--model", "cnn", "-t", "petal width (cm)"], "model 'cnn' takes pictures"),
        (["iris", "--resume"], "--resume needs --out DIR"),
        (["iris", "--resume", "--out", "runs/none"], "--resume: there is no study in runs/none"),
        (["iris", "--out", "notes.txt"], "--out must be a directory; notes.txt is a file"),
        (["iris", "--out", "notes.txt/out"], "--out: cannot write to notes.txt/out"),
        (["iris", "--out", "/proc/minimand"], "--out: cannot write to /proc/minimand"),
        (["iris", "--out", "mine"], "--out: mine has a results.json that is no study's"),
        (["--target", "y"], "--target names a column of DATA"),
    ],
)
def test_bad_input_ends_with_code_2_one_line_and_nothing_written(here: Path, arguments: list[str], said: str) -> None:
    (here / "notes.txt").write_text("milk")
    (here / "mine").mkdir()
    (here / "mine" / "results.json").write_text("{}")
    rows = "1,no\n2,yes\n" * 15
    for name, content in {
        "table": rows,
        "constant": "1,no\n2,no\n" * 15,
        "rare": rows + "3,maybe\n",
        "missing": rows + "3,\n",
    }.items():
        (here / f"{name}.csv").write_text("a,y\n" + content)
    before = written(here)
    result = minimand("compare", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert written(here) == before


def test_10_gb_file_is_refused_with_code_2(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimand.study.tables.free_memory", lambda: 8_000_000_000)
    with open("large.csv", "wb") as file:
        file.truncate(10_000_000_000)  # a hole: it takes no disk
    result = minimand("compare", "large.csv", "--target", "y")
    assert result.exit_code == 2
    assert "is 10.0 GB and would take about 40.0 GB of memory; at most 4.0 GB may be used" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_directory_without_write_permission_is_refused(here: Path) -> None:
    (here / "locked").mkdir(mode=0o500)
    result = minimand("compare", "iris", "--out", "locked/out")
    assert result.exit_code == 2
    assert "--out: cannot write to locked/out: Permission denied" in result.stderr


def test_finished_study_is_not_overwritten(done: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = (done[1] / "results.json").read_bytes()
    result = minimand("compare", *SMALL, "--out", str(done[1]), monkeypatch=monkeypatch)
    assert result.exit_code == 2
    assert "already holds 8 trials" in result.stderr
    assert f"--out {done[1]} --resume" in result.stderr
    assert (done[1] / "results.json").read_bytes() == before


def test_study_is_not_resumed_with_other_settings(done: tuple[Any, Path]) -> None:
    result = minimand("compare", *SMALL, "--seed", "1", "--out", str(done[1]), "--resume")
    assert result.exit_code == 2
    assert "holds a study with other settings" in result.stderr


def test_resume_names_the_nearest_study(done: tuple[Any, Path]) -> None:
    result = minimand("compare", *SMALL, "--out", f"{done[1]}t", "--resume")
    assert f"did you mean '{done[1]}'?" in result.stderr


# ---------------------------------------------------------------- ending early


def scores(out: Path) -> dict[str, list[float]]:
    return {m["name"]: m["scores"] for m in json.loads((out / "results.json").read_text())["methods"]}


def stop_after_one_chunk(error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk but the first fails to be stored."""
    real, calls = store.Store.add, []

    def add(self: store.Store, results: list) -> None:
        calls.append(len(results))
        if len(calls) > 1:
            raise error()
        real(self, results)

    monkeypatch.setattr(store.Store, "add", add)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt, 130, "interrupted; "),
        (lambda: store.StoreFull("could not store 2 trials: database or disk is full"), 1, "disk is full"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full; "),
    ],
)
def test_what_ends_a_study_early_says_what_is_kept_and_resuming_gives_the_same_result(
    here: Path, done: tuple[Any, Path], error: Callable, code: int, said: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after_one_chunk(error, patch)
        result = minimand("compare", *SMALL, monkeypatch=patch)
    assert result.exit_code == code
    assert said in result.stderr
    (out,) = (path for path in (here / "runs").iterdir() if path.is_dir())
    assert f"2 of 8 trials are kept in runs/{out.name}; to go on: minimand compare iris" in result.stderr
    assert result.stderr.endswith(f"--out runs/{out.name} --resume\n")
    assert "Traceback" not in result.output
    again = minimand("compare", *SMALL, "--out", f"runs/{out.name}", "--resume")
    assert again.exit_code == 0, again.output
    assert scores(out) == scores(done[1])


def test_report_that_finds_no_room_says_that_all_trials_are_kept(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minimand.study.report.write_report", full)
    result = minimand("compare", *SMALL, "--out", "out", monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert "the disk is full; 8 of 8 trials are kept in out; to go on: minimand compare iris" in result.stderr
    assert result.stderr.endswith("--out out --resume\n")


def test_interrupt_while_reading_keeps_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minimand.study.read_task", interrupt)
    result = minimand("compare", *SMALL)
    assert (result.exit_code, written(here)) == (130, [])
    assert result.stderr == "Error: interrupted\n"


BROKEN_NET = """
import torch


class Net(torch.nn.Linear):
    def forward(self, x):
        if self.training:
            raise RuntimeError("out of luck")
        return super().forward(x)
"""


def test_trials_that_crash_are_shown_with_their_reason(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "my_broken_net.py").write_text(BROKEN_NET)
    result = minimand("compare", *SMALL, "--model", "my_broken_net:Net", "--workers", "0")
    assert "Traceback" not in result.output
    assert "4 trials crashed: gce; they count against it: RuntimeError: out of luck" in result.stdout
    assert result.exit_code == 1


def test_ctrl_c_in_a_real_process(tmp_path: Path) -> None:
    """SIGINT while the final trials train: code 130, no traceback, nothing on stdout but the header, trials kept."""
    command = [sys.executable, "-m", "minimand", "compare", "iris", "--out", "out", "--try", "loss=cross_entropy,gce"]
    command += [
        "--budget",
        "steps=30,candidates=1,batch=8",
        "--seeds",
        "100000",
        "--engine",
        "process",
        "--workers",
        "0",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 90
    while stored(tmp_path / "out" / "study.sqlite") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no trial was stored"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    kept = stored(tmp_path / "out" / "study.sqlite")
    assert errors.startswith(f"Error: interrupted; {kept} of 200002 trials are kept in out; to go on: minimand compare")
    assert len(errors.splitlines()) == 1
    assert "Report" not in output


def stored(path: Path) -> int:
    """Trials in a store that another process may be making right now."""
    if not path.exists():
        return 0
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return connection.execute("SELECT count(*) FROM trials").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.OperationalError:  # not made yet
        return 0
