"""The batched engine: the same numbers as a loop, in chunks, whatever its trials do."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from minimand.study.choices import make_method
from minimand.study.engines import batched
from minimand.study.engines.batched import BatchedEngine
from minimand.study.engines.probe import Cost, probe
from minimand.study.metrics import metric
from minimand.study.task import Metric
from minimand.study.training import Recipe, train
from minimand.study.trial import Budget, Trial
from tests.study.examples import QUICK, Normalised, blobs, curve, job, run

pytestmark = pytest.mark.usefixtures("traced")


def assert_alike(result, oracle) -> None:
    """Two records of one trial, up to rounding."""
    assert (result.status, result.parameters, result.memory_bytes) == (
        oracle.status,
        oracle.parameters,
        oracle.memory_bytes,
    )
    assert [point.step for point in result.curve] == [point.step for point in oracle.curve]
    for name in ("loss", "metric"):
        ours, theirs = ([getattr(point, name) for point in r.curve] for r in (result, oracle))
        assert ours == pytest.approx(theirs, rel=2e-4, abs=2e-5), name
    assert result.test == pytest.approx(oracle.test, rel=2e-4, abs=2e-5)


def against_the_loop(task, **chosen) -> None:
    method = make_method(task, "m", **chosen)
    asked = job(task, [method], range(2))
    for key, result in run(asked, "batched").items():
        assert result.facts == {"engine": "batched"}
        assert_alike(result, train(asked.recipe("m"), next(t for t in asked.trials if t.key == key)))


@pytest.mark.parametrize("rule", ["adamw", "momentum", "adamp", "lion_nuclear", "muon", "adagrad_norm"])
def test_every_rule_trains_as_in_a_loop(rule):
    against_the_loop(blobs(), rule=rule)


@pytest.mark.parametrize("loss", ["gce", "ldr", "aldr", "g_mean"])
def test_losses_of_classes_train_as_in_a_loop(loss):
    against_the_loop(blobs(classes=2), loss=loss)


@pytest.mark.parametrize("loss", ["huber", "hl_gauss"])
def test_losses_of_numbers_train_as_in_a_loop(loss):
    against_the_loop(curve(), loss=loss)


def test_a_schedule_trains_as_in_a_loop():
    against_the_loop(blobs(), schedule="linear")


def test_each_trial_has_its_own_hyperparameters():
    task = blobs()
    method = make_method(task, "m", loss="ldr")
    trials = [
        Trial("m", "tune", i, 5, {"rule.lr": lr, "loss.lam": lam}) for i, (lr, lam) in enumerate([(0.1, 1), (0.01, 9)])
    ]
    asked = dataclasses.replace(job(task, [method]), trials=trials)
    found = run(asked, "batched")
    for trial in trials:
        assert found[trial.key].validation == pytest.approx(train(asked.recipe("m"), trial).validation, rel=1e-4)
    assert found[trials[0].key].validation != pytest.approx(found[trials[1].key].validation, rel=1e-2)


def test_constant_buffers_and_frozen_weights_are_shared():
    class Scaled(nn.Module):
        def __init__(self, features: int, outputs: int) -> None:
            super().__init__()
            self.register_buffer("scale", torch.arange(1.0, features + 1))
            self.frozen = nn.Parameter(torch.full((features,), 0.5), requires_grad=False)
            self.head = nn.Linear(features, outputs)

        def forward(self, x):
            return self.head(x * self.scale * self.frozen)

    against_the_loop(blobs(model=Scaled))


# what cannot be stacked


class Dropping(nn.Sequential):
    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(nn.Linear(features, 8), nn.Dropout(0.2), nn.Linear(8, outputs))


class Branching(nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        return out * 2 if out.sum() > 0 else out


class Counting(nn.Linear):
    calls = 0

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(features, outputs)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) / self.calls


class RandomFeatures(nn.Module):
    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(features, 8))
        self.head = nn.Linear(8, outputs)

    def forward(self, x):
        return self.head((x @ self.directions).cos())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Normalised, "it writes to its buffer 'norm.running_mean' while training (running statistics?)"),
        (Dropping, "it draws random numbers while training (dropout?)"),
        (Counting, "it changes its attribute 'calls' while training"),
        (RandomFeatures, "its 'directions' is not trained and differs between seeds"),
        (Branching, "torch.func cannot stack it: RuntimeError"),
    ],
)
def test_a_model_that_cannot_be_stacked_goes_to_the_process_engine_and_says_why(model, reason):
    task = blobs(model=model)
    asked = job(task, [make_method(task, "m")], range(2), workers=0)
    for key, result in run(asked, "batched").items():
        assert result.facts["engine"] == "process"
        assert result.facts["why"].startswith(reason)
        assert "\n" not in result.facts["why"]
        oracle = train(asked.recipe("m"), next(t for t in asked.trials if t.key == key))
        assert result.test == oracle.test


def test_one_method_that_cannot_be_stacked_leaves_the_others_batched():
    task = blobs()
    methods = [make_method(task, "plain"), make_method(task, "odd", model=Normalised)]
    found = run(job(task, methods, range(1), workers=0), "batched")
    assert [result.facts["engine"] for result in found.values()] == ["batched", "process"]


# chunks


@pytest.mark.parametrize(("trials", "largest"), [(1, 64), (64, 64), (65, 64), (10, 4), (7, 7), (130, 64), (5, 1)])
def test_chunks_keep_the_order_and_are_as_few_and_as_even_as_can_be(trials, largest):
    listed = [Trial("m", "tune", i, 0, {}) for i in range(trials)]
    chunks = batched._chunks(listed, largest)
    assert [trial for chunk in chunks for trial in chunk] == listed
    assert len(chunks) == math.ceil(trials / largest)
    sizes = [len(chunk) for chunk in chunks]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def small_memory(task, method, trials: int) -> int:
    """Room for so many trials in a chunk."""
    cost = probe(Recipe(task, method, QUICK), 0)
    assert isinstance(cost, Cost)
    return int(cost.bytes * (trials + 0.5))


def test_chunks_are_sized_to_the_memory():
    task = blobs()
    method = make_method(task, "m")
    asked = job(task, [method], range(7), memory=small_memory(task, method, 3))
    assert [len(results) for results in BatchedEngine().run(asked)] == [3, 2, 2]


def test_a_trial_larger_than_the_memory_still_runs_alone():
    task = blobs()
    asked = job(task, [make_method(task, "m")], range(2), memory=1)
    assert [[r.status for r in results] for results in BatchedEngine().run(asked)] == [["finished"], ["finished"]]


def test_chunks_change_no_number_but_by_rounding():
    task = blobs()
    method = make_method(task, "m")
    whole = run(job(task, [method], range(5)), "batched")
    parts = run(job(task, [method], range(5), memory=small_memory(task, method, 2)), "batched")
    for key in whole:
        assert_alike(parts[key], whole[key])


def test_a_resumed_job_computes_what_the_unbroken_one_did_to_the_last_bit():
    task = blobs()
    method = make_method(task, "m", rule="muon")
    asked = job(task, [method], range(7), memory=small_memory(task, method, 3))
    unbroken = run(asked, "batched")
    first, *_ = BatchedEngine().run(asked)
    done = frozenset(result.trial.key for result in first)
    rest = run(dataclasses.replace(asked, done=done), "batched")
    assert set(rest) == set(unbroken) - done
    for key, result in rest.items():
        assert (result.test, result.curve) == (unbroken[key].test, unbroken[key].curve)


def test_a_job_that_is_done_computes_nothing():
    asked = job(blobs(), [make_method(blobs(), "m")], range(2))
    assert run(dataclasses.replace(asked, done=frozenset(t.key for t in asked.trials)), "batched") == {}


def test_progress_adds_up_to_the_number_of_trials():
    task = blobs()
    told: list[float] = []
    run(job(task, [make_method(task, "m")], range(5), advance=told.append), "batched")
    assert sum(told) == pytest.approx(5)
    assert len(told) == QUICK.curve_points


def test_an_engine_used_again_forgets_the_study_before():
    runner = BatchedEngine()
    for task in (blobs(), blobs(rows=90), blobs(model=Normalised)):
        asked = job(task, [make_method(task, "m")], range(2), workers=0)
        found = {result.trial.key: result for results in runner.run(asked) for result in results}
        assert {key: r.test for key, r in found.items()} == {key: r.test for key, r in run(asked, "batched").items()}


PEAK = """
    import resource
    import torch
    from torch import nn
    from minimand.study.trial import Budget
    from tests.study.examples import blobs, job, make_method, run

    torch.set_num_threads(1)

    def wide(features, outputs):
        return nn.Sequential(nn.Linear(features, 256), nn.Linear(256, 256), nn.Linear(256, outputs))

    task, budget = blobs(model=wide), Budget(steps=2, batch_size=16, curve_points=1)
    for trials in (2, 40, 160):
        asked = job(task, [make_method(task, "m")], range(trials), budget=budget, memory=64 << 20)
        assert len(run(asked, "batched")) == trials
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_grows_with_the_chunk_and_not_with_the_study(request):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", textwrap.dedent(PEAK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=request.config.rootpath)
    idle, small, large = (int(line) for line in done.stdout.split())
    # 160 trials of 67,587 parameters, each with two moments, would be 130 MB if they were held at once.
    assert large <= small + 20
    assert small <= idle + 2 * 64


# trials that fail


def test_a_trial_that_diverges_leaves_the_others_bitwise_unchanged():
    task = curve()
    method = make_method(task, "m", rule="sgd")

    def trials(last: float) -> list[Trial]:
        return [Trial("m", "final", 0, seed, {"rule.lr": lr}) for seed, lr in enumerate([0.01, 0.02, last])]

    calm, wild = (
        run(dataclasses.replace(job(task, [method]), trials=trials(last)), "batched") for last in (0.03, 1e12)
    )
    keys = list(wild)
    assert [wild[key].status for key in keys] == ["finished", "finished", "diverged"]
    assert "the loss became" in wild[keys[2]].error
    for key in keys[:2]:
        assert (wild[key].test, wild[key].curve) == (calm[key].test, calm[key].curve)


def test_an_error_on_one_trial_costs_that_trial_alone():
    honest = metric("log_loss", "classification")

    def fragile(target: np.ndarray, prediction: np.ndarray) -> float:
        if prediction.max() > 0.999:
            raise ArithmeticError("too sure")
        return honest.score(target, prediction)

    task = dataclasses.replace(blobs(), metric=Metric("fragile", "classification", False, fragile))
    method = make_method(task, "m", rule="sgd")
    trials = [Trial("m", "final", 0, seed, {"rule.lr": lr}) for seed, lr in enumerate([0.01, 50.0, 0.02])]
    told: list[float] = []
    asked = dataclasses.replace(job(task, [method]), trials=trials, advance=told.append)
    found = list(run(asked, "batched").values())
    assert [result.status for result in found] == ["finished", "crashed", "finished"]
    assert found[1].error.startswith("ArithmeticError: too sure")
    assert all("its chunk of 3 trials raised ArithmeticError" in result.facts["why"] for result in found)
    assert found[0].test == train(asked.recipe("m"), trials[0]).test
    assert sum(told) == pytest.approx(3)


def test_a_loss_that_raises_is_recorded_as_a_crash_of_every_trial():
    def broken(outputs, target):
        raise OSError("no such table")

    task = blobs()
    found = run(job(task, [make_method(task, "m", loss=broken)], range(2), workers=0), "batched")
    assert [result.status for result in found.values()] == ["crashed", "crashed"]
    assert all(result.error.startswith("OSError: no such table") for result in found.values())


# compiling


def test_compiling_is_for_long_work_and_decided_without_a_clock():
    cost = Cost(bytes=1e6, forward=1e5, held=1.4e5, flops=3.4e6)
    assert not cost.worth_compiling(steps=600, size=10)
    assert cost.worth_compiling(steps=20_000, size=64)


def test_compiled_steps_train_as_in_a_loop(monkeypatch):
    monkeypatch.setattr(
        "minimand.optim.trainer.compiled", lambda module: torch.compile(module, backend="aot_eager", fullgraph=True)
    )
    task = blobs()
    asked = job(task, [make_method(task, "m")], range(2), compile="always")
    for key, result in run(asked, "batched").items():
        assert result.facts == {"engine": "batched", "compiled": "yes"}
        assert_alike(result, train(asked.recipe("m"), next(t for t in asked.trials if t.key == key)))


def test_steps_that_do_not_compile_run_uncompiled_and_say_so(monkeypatch):
    def missing(module):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("minimand.optim.trainer.compiled", missing)
    monkeypatch.setattr(Cost, "worth_compiling", lambda self, steps, size: True)
    task = blobs()
    for result in run(job(task, [make_method(task, "m")], range(2)), "batched").values():
        assert result.status == "finished"
        assert result.facts["engine"] == "batched"
        assert "could not be compiled" in result.facts["why"]
        assert "no C++ compiler" in result.facts["why"]


def test_large_splits_are_scored_in_parts(monkeypatch):
    task = blobs(rows=400)
    method = make_method(task, "m")
    asked = job(task, [method], range(2), budget=Budget(steps=4, batch_size=4, curve_points=2))
    whole = run(asked, "batched")
    parts = run(dataclasses.replace(asked, memory=2000), "batched")
    for key in whole:
        assert parts[key].test == pytest.approx(whole[key].test, rel=1e-5)
