"""Studies from end to end: planted truths, repeatability, and what survives a killed process."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from minimand.study import Budget, Method, Study, Task, compare, grid, make_method
from minimand.study.findings import Findings, constant_score
from minimand.study.metrics import metric
from minimand.study.store import Store, StoreRefused
from minimand.study.study import STORE_NAME
from minimand.study.task import Metric
from minimand.study.trial import TrialResult
from tests.study.examples import QUICK, Normalised, blobs, curve, small_mlp

ROOT = Path(__file__).parents[2]


def essence(result) -> list:
    """All that a study found, without its times."""
    return [
        dataclasses.replace(row, seconds=0.0, seconds_per_trial=0.0, candidates=(), errors=()) for row in result.rows
    ] + [[candidate.validation for candidate in row.candidates] for row in result.rows]


def study(task: Task | None = None, methods=None, **options) -> Study:
    task = task or blobs()
    methods = methods or grid(task, {"loss": ["cross_entropy", "ldr"]})
    return Study(task, methods, **{"budget": QUICK, "seeds": 3, "engine": "process", "workers": 0, **options})


# planted truths


def test_a_method_and_its_copy_are_undecided():
    task = blobs()
    method = make_method(task, "one")
    result = study(task, [method, dataclasses.replace(method, name="other")], seeds=8).run()
    assert [row.verdict for row in result.rows] == ["baseline", "undecided"]
    assert result.rows[0].scores == result.rows[1].scores
    assert result.rows[1].difference.mean == 0.0
    assert result.rows[1].corrected_p == 1.0


class Drawing:
    """A linear model with weights of its own: it draws ``skipped`` numbers before it draws them."""

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped

    def __call__(self, features: int, outputs: int) -> nn.Module:
        torch.rand(self.skipped)
        return nn.Linear(features, outputs)


def test_methods_that_are_equal_but_for_chance_are_hardly_ever_called_different():
    task = blobs(rows=60)
    methods = [make_method(task, f"{n}", model=Drawing(n)) for n in (1, 2)]
    verdicts = []
    for master_seed in range(20):
        fair = study(
            task,
            methods,
            seeds=10,
            master_seed=master_seed,
            engine="batched",
            budget=Budget(steps=1, batch_size=8, candidates=1, curve_points=1),
        )
        verdicts += [row.verdict for row in fair.run().rows if row.verdict != "baseline"]
    assert len(verdicts) == 20
    assert verdicts.count("undecided") >= 17  # at a rate of 5%, 4 or more are called different once in 60 times


@pytest.mark.parametrize(("baseline", "word"), [("frozen", "better"), ("trained", "worse")])
def test_a_method_that_does_not_learn_is_found_out(baseline, word):
    task = blobs()
    methods = [make_method(task, "frozen", rule="adamw:lr=0"), make_method(task, "trained", rule="adamw:lr=0.05")]
    result = study(task, methods, baseline=baseline, seeds=6).run()
    assert [row.name for row in result.rows] == ["trained", "frozen"]  # log loss: lower is better, and ranked first
    found = next(row for row in result.rows if row.name != baseline)
    assert found.verdict == word
    assert found.corrected_p == pytest.approx(2 / 2**6)
    assert (found.difference.mean > 0) == (word == "better")


def test_with_wrong_labels_a_robust_loss_is_found_better():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, 1200)
    inputs = rng.normal(size=(1200, 8)) + 2.5 * np.eye(8)[target]
    noisy = np.where(rng.random(400) < 0.6, (target[:400] + rng.integers(1, 4, 400)) % 4, target[:400])
    task = Task.from_arrays(
        inputs[:400],
        noisy,
        test=(inputs[400:], target[400:]),
        model=lambda f, o: nn.Sequential(nn.Linear(f, 64), nn.ReLU(), nn.Linear(64, o)),
    )
    methods = grid(task, {"loss": ["cross_entropy", "mae"], "rule": "adamw:lr=0.01:weight_decay=0"})
    result = study(task, methods, seeds=6, budget=Budget(steps=200, batch_size=64, curve_points=1)).run()
    assert (result.rows[0].name, result.rows[0].verdict) == ("mae", "better")


# the protocol


def test_the_winner_is_the_candidate_with_the_best_validation_score():
    for scored, best in (("log_loss", min), ("accuracy", max)):
        result = study(blobs(scored=scored), budget=dataclasses.replace(QUICK, candidates=5)).run()
        for row in result.rows:
            scores = [candidate.validation for candidate in row.candidates]
            assert len(scores) == 5
            winner = row.candidates[scores.index(best(scores))]
            assert row.hypers == winner.hypers


def test_the_test_split_is_scored_once_a_final_trial_and_never_while_tuning():
    honest, seen = metric("accuracy", "classification"), []
    spy = Metric("spy", "classification", True, lambda t, p: seen.append(len(t)) or honest.score(t, p))
    task = dataclasses.replace(blobs(), metric=spy)
    assert len(task.test) not in (len(task.validation), len(task.train))
    study(task).run()
    assert seen.count(len(task.test)) == 2 * 3
    first_final = 2 * QUICK.candidates
    assert len(task.test) not in seen[:first_final]


def test_a_methods_scores_do_not_depend_on_what_it_is_compared_with():
    task = blobs()
    few, many = (study(task, grid(task, {"loss": names})).run() for names in (["ldr", "gce"], ["focal", "ldr", "gce"]))

    def scores(result, name):
        return next(row.scores for row in result.rows if row.name == name)

    assert scores(few, "ldr") == scores(many, "ldr")
    assert scores(few, "gce") == scores(many, "gce")


def test_the_same_master_seed_gives_the_same_result_and_another_a_different_one():
    first, again, other = (study(master_seed=seed).run() for seed in (4, 4, 5))
    assert essence(first) == essence(again)
    assert first.rows[0].scores != other.rows[0].scores
    assert not set(first.seeds) & set(other.seeds)


def test_all_methods_have_the_same_seeds_and_the_tuning_seed_is_none_of_them():
    planned = study()
    assert {trial.seed for trial in planned.tuning_trials()} == {planned.tuning_seed}
    assert planned.tuning_seed not in planned.seeds
    done = {
        trial.key: TrialResult(trial, "finished", validation=float(trial.candidate))
        for trial in planned.tuning_trials()
    }
    finals = planned.final_trials(done)
    for name in planned.methods:
        assert tuple(trial.seed for trial in finals if trial.method == name) == planned.seeds


def test_regression_studies_run():
    task = curve(scored="r2")
    result = study(task, grid(task, {"loss": ["mse", "hl_gauss"]}), budget=dataclasses.replace(QUICK, steps=60)).run()
    assert {row.name for row in result.rows} == {"mse", "hl_gauss"}
    assert result.rows[0].mean >= result.rows[1].mean


def test_what_a_study_says_of_a_method():
    result = study(engine="auto").run()
    row = next(row for row in result.rows if row.name == "ldr")
    assert row.choices == {"loss": "ldr", "rule": "adamw", "schedule": "cosine"}
    assert set(row.hypers) == {"rule.lr", "rule.weight_decay", "loss.lam"}
    assert row.parameters == 4 * 12 + 12 + 12 * 3 + 3
    assert row.memory_bytes == 4 * 4 * row.parameters + 4 * 4
    assert row.seconds > 0
    assert [len(points) for points in row.curves] == [3, 3, 3]
    assert row.mean == pytest.approx(np.mean(row.scores))
    assert result.engine == "batched"
    assert (result.test_uses, result.master_seed, result.baseline) == (1, 0, "cross_entropy")
    assert result.versions["torch"] == torch.__version__


# failures


def test_a_method_that_diverges_scores_no_better_than_the_worst_and_is_said_to():
    task = curve()
    methods = [make_method(task, "sound", loss="mse"), make_method(task, "wild", rule="sgd:lr=1e12", loss="mse")]
    result = study(task, methods).run()
    sound, wild = result.rows
    assert (sound.name, wild.name) == ("sound", "wild")
    worst = max(*sound.scores, constant_score(task))
    assert wild.scores == (worst,) * 3
    assert wild.diverged == QUICK.candidates + 3
    assert all(candidate.status == "diverged" for candidate in wild.candidates)
    assert any("wild: 3 diverged of 3 final trials" in note for note in result.notes)
    assert any("the loss became" in error for error in wild.errors)


def test_a_method_that_crashes_does_not_stop_the_others():
    def broken(outputs, target):
        if outputs.requires_grad:
            raise RuntimeError("broken on purpose")
        return nn.functional.cross_entropy(outputs, target)

    task = blobs()
    result = study(task, [make_method(task, "sound"), make_method(task, "broken", loss=broken)], seeds=2).run()
    failed = next(row for row in result.rows if row.name == "broken")
    assert failed.crashed == QUICK.candidates + 2
    assert failed.errors[0].startswith("RuntimeError: broken on purpose")
    assert next(row for row in result.rows if row.name == "sound").crashed == 0


def test_a_constant_prediction_is_scored_by_the_training_splits_shares():
    task = blobs()
    shares = np.bincount(task.train.target) / len(task.train)
    assert constant_score(task) == pytest.approx(-np.mean(np.log(shares[task.test.target])))
    numbers = curve(scored="rmse")
    truth = numbers.test.target.double().numpy() * numbers.scale[1]
    assert constant_score(numbers) == pytest.approx(np.sqrt(np.mean(truth**2)))


def test_where_nothing_finishes_and_nothing_scores_the_study_says_so():
    task = dataclasses.replace(blobs(), metric=Metric("odd", "classification", True, lambda t, p: math.nan))
    with pytest.raises(
        RuntimeError, match="no final trial finished, and odd scores no constant: odd of the predictions"
    ):
        study(task, seeds=1).run()


def test_a_model_that_cannot_be_stacked_is_trained_in_processes_and_noted():
    result = study(blobs(model=Normalised), seeds=2, engine="auto").run()
    assert result.engine == "process"
    assert any(
        note.startswith("Process engine for cross_entropy, ldr: it writes to its buffer 'norm.running_mean'")
        for note in result.notes
    )


def test_too_few_seeds_are_noted_first():
    task = blobs()
    assert study().run().notes[0] == (
        "3 seeds cannot resolve any difference: the smallest p-value that they can give is 0.25. "
        "1 comparison takes at least 6."
    )
    enough = study(task, grid(task, {"loss": ["cross_entropy", "gce"]}), seeds=6).run()
    assert not any("cannot resolve" in note for note in enough.notes)


# the store


def chunked(task: Task | None = None, **options) -> Study:
    """A batched study of many small chunks."""
    return study(task, engine="batched", memory=1, **options)


def test_a_study_can_be_resumed_after_ctrl_c_and_comes_out_the_same(tmp_path):
    unbroken = chunked().run()
    calls, out = 0, tmp_path / "out"  # what is told of test rows is kept in the folder around it

    def interrupt(what: str, done: float, total: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chunked().run(out, progress=interrupt)
    with Store.read(out / STORE_NAME) as store:
        kept = store.results()
    assert 0 < len(kept) < 12
    resumed = chunked().run(out, resume=True)
    assert essence(resumed) == essence(unbroken)
    assert resumed.notes == unbroken.notes
    with Store.read(out / STORE_NAME) as store:
        assert {key: store.results()[key] for key in kept} == kept  # what was finished was not computed again


SCRIPT = """
    import sys
    from tests.study.test_study import chunked
    print("ready", flush=True)
    chunked().run(sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_study_killed_in_the_middle_is_resumed_to_the_unbroken_result(tmp_path):
    unbroken = chunked().run()
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)], cwd=ROOT)
    end, finished = time.monotonic() + 120, 0
    while finished < 4 and time.monotonic() < end:
        time.sleep(0.01)
        if (tmp_path / STORE_NAME).exists():
            try:
                with Store.read(tmp_path / STORE_NAME) as store:
                    finished = len(store.results())
            except StoreRefused:
                continue  # it is just being made
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with Store.read(tmp_path / STORE_NAME) as store:
        assert 4 <= len(store.results()) < 12
    resumed = chunked().run(tmp_path, resume=True)
    assert essence(resumed) == essence(unbroken)
    assert resumed.test_uses == unbroken.test_uses == 1


def test_a_finished_study_is_resumed_without_training(tmp_path):
    first = study().run(tmp_path)
    told: list[float] = []
    again = study().run(tmp_path, resume=True, progress=lambda what, done, total: told.append(done / total))
    assert essence(again) == essence(first)
    assert set(told) == {1.0}


def test_results_in_the_way_are_not_overwritten(tmp_path):
    study().run(tmp_path)
    with pytest.raises(StoreRefused, match="already holds 12 trials; resume that study, or choose another directory"):
        study().run(tmp_path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"budget": dataclasses.replace(QUICK, steps=13)}, "budget.steps is 12 there and 13 here"),
        ({"master_seed": 1}, "seeds"),
        ({"task": blobs(rows=161)}, "task.data"),
        ({"task": blobs(scored="accuracy")}, 'task.metric is "log_loss" there and "accuracy" here'),
        ({"task": blobs(model=lambda f, o: nn.Linear(f, o))}, "initial weights"),
        ({"engine": "batched"}, 'engine is "process" there and "batched" here'),
        ({"methods": grid(blobs(), {"loss": ["cross_entropy", "ldr:lam=3"]})}, "methods"),
    ],
)
def test_a_study_with_other_settings_is_not_resumed(tmp_path, other, difference):
    planned = study(seeds=1)
    with Store.open(tmp_path / STORE_NAME, planned.config(), resume=False) as store:
        store.add([TrialResult(planned.tuning_trials()[0], "finished", validation=0.5)])
    with pytest.raises(StoreRefused, match=difference):
        study(**{"seeds": 1, **other}).run(tmp_path, resume=True)


def test_nothing_is_written_where_the_study_makes_no_sense(tmp_path):
    task = blobs(model=lambda f, o: nn.Linear(f, o + 1))
    with pytest.raises(ValueError, match="outputs of shape"):
        compare(task, {"loss": ["cross_entropy"]}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": 0}, ValueError, "seeds must be at least 1; got 0"),
        ({"seeds": 2.5}, TypeError, "seeds must be an integer of at least 1; got float"),
        ({"budget": Budget(steps=0)}, ValueError, "budget.steps must be at least 1; got 0"),
        ({"master_seed": -1}, ValueError, "master_seed must be at least 0; got -1"),
        ({"engine": "dask"}, ValueError, "engine must be one of 'auto', 'batched', 'process', 'ray'; got 'dask'"),
        ({"compile": "maybe"}, ValueError, "compile must be one of 'auto', 'always', 'never'; got 'maybe'"),
        ({"device": "abacus"}, ValueError, "device must be 'auto' or a torch device; got 'abacus'"),
        ({"baseline": "gce"}, ValueError, "baseline must be one of cross_entropy, ldr; got 'gce'"),
        ({"workers": -1}, ValueError, "workers must be at least 0; got -1"),
        ({"memory": 0}, ValueError, "memory must be at least 1; got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, error, message):
    with pytest.raises(error, match=message):
        study(**options)


def test_methods_must_have_different_names():
    method: Method = make_method(blobs(), "same")
    with pytest.raises(ValueError, match=r"methods must be one or more of different names; got \['same', 'same'\]"):
        study(methods=[method, method])


def test_resuming_needs_a_directory():
    with pytest.raises(ValueError, match="resume needs out"):
        study().run(resume=True)


# progress


def test_progress_rises_to_the_number_of_trials():
    told = []
    study().run(progress=lambda what, done, total: told.append((what, done, total)))
    assert [what for what, _, _ in (told[0], told[-1])] == ["tuning", "final"]
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(12)
    assert {total for _, _, total in told} == {12}


def test_without_a_terminal_nothing_is_printed(capfd):
    study().run()
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_what_remains(capfd, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FORCE_COLOR", "1")
    study().run(progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "final" in shown.err
    assert "left:" in shown.err


# compare


def test_tensors_and_ones_own_module_in_under_ten_lines():
    x, y = torch.randn(80, 3), torch.arange(80) % 2
    task = Task.from_arrays(x, y, model=small_mlp)
    result = compare(task, {"loss": ["cross_entropy", "f1"], "rule": "lion"}, budget=QUICK, seeds=2)
    assert {row.name for row in result.rows} == {"cross_entropy", "f1"}


def test_a_frame_is_compared_by_its_target_column_and_reported(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=60), "colour": ["red", "blue", "green"] * 20})
    frame["price"] = 3 * frame["size"] + (frame["colour"] == "red") + 0.1 * rng.normal(size=60)
    result = compare(
        frame, {"loss": ["mse", "huber"]}, target="price", metric="mae", budget=QUICK, seeds=2, out=tmp_path / "out"
    )
    assert result.task.metric.name == "mae"
    assert {"report.html", "results.json", "results.csv", STORE_NAME} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_findings_are_a_function_of_the_results():
    planned = study(seeds=6)
    results = {}
    for trial in planned.tuning_trials():
        results[trial.key] = TrialResult(trial, "finished", validation=1.0, seconds=1.0)
    finals = planned.final_trials(results)
    for trial in finals:
        score = 0.5 + 0.01 * trial.seed + (0.2 if trial.method == "ldr" else 0.0)
        results[trial.key] = TrialResult(trial, "finished", validation=1.0, test=score, seconds=1.0)
    found = Findings(planned.task, planned.methods, planned.baseline, planned.budget, planned.seeds, results)
    best, last = found.rows()
    assert (best.name, last.name, last.verdict) == ("cross_entropy", "ldr", "worse")  # log loss: 0.2 more is worse
    assert last.difference.mean == pytest.approx(-0.2)
    assert (last.seconds, last.seconds_per_trial) == (QUICK.candidates + 6, 1.0)
