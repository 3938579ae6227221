"""The three engines give the same numbers, and lose a trial at most when they lose a process."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minimand.hyper import HyperSpec
from minimand.study.choices import Choice, make_method
from minimand.study.engines.job import ENGINES, engine
from minimand.study.engines.process import ProcessEngine
from minimand.study.objective import ClassLoss
from minimand.study.task import Task
from minimand.study.trial import Trial
from tests.study.examples import Normalised, blobs, curve, job, run, small_mlp

ROOT = str(Path(__file__).parents[2])


def three_methods(task: Task):
    return [
        make_method(task, "plain"),
        make_method(task, "muon", rule="muon"),
        make_method(task, "robust", loss="ldr:lam=5", schedule="linear"),
    ]


def assert_same_numbers(found, oracle) -> None:
    assert found.keys() == oracle.keys()
    for key in oracle:
        assert found[key].status == oracle[key].status == "finished", found[key].error
        assert found[key].test == pytest.approx(oracle[key].test, rel=1e-4)
        assert found[key].validation == pytest.approx(oracle[key].validation, rel=1e-4)
        losses = [[point.loss for point in each[key].curve] for each in (found, oracle)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture(scope="module")
def batched():
    task = blobs()
    return run(job(task, three_methods(task), range(2)), "batched")


def test_worker_processes_give_the_numbers_of_the_batched_engine(batched):
    task = blobs()
    told: list[float] = []
    found = run(job(task, three_methods(task), range(2), workers=2, advance=told.append), "process")
    assert_same_numbers(found, batched)
    assert sum(told) == pytest.approx(6)
    assert all(result.facts == {"engine": "process"} for result in found.values())


def test_the_studys_own_process_gives_the_numbers_of_the_batched_engine(batched):
    task = blobs()
    assert_same_numbers(run(job(task, three_methods(task), range(2), workers=0), "process"), batched)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine must be one of 'auto', 'batched', 'process', 'ray'; got 'dask'"):
        engine("dask")
    assert ENGINES == ("auto", "batched", "process", "ray")


# processes


def deadly(outputs: torch.Tensor, target: torch.Tensor, deadly: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that kills its process where ``deadly`` is 1."""
    if deadly == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return F.cross_entropy(outputs, target)


DEADLY = Choice("deadly", "loss", ClassLoss(deadly), {"deadly": HyperSpec(0.0)}, kinds=("classification",))


class Chatty(nn.Linear):
    def forward(self, x):
        print("hello from the model")
        os.write(1, b"\x00\xff raw bytes")
        return super().forward(x)


def test_a_killed_worker_costs_the_trial_that_it_was_at_and_printing_costs_nothing():
    task = blobs(model=Chatty)
    method = make_method(task, "m", loss=DEADLY)
    trials = [Trial("m", "final", 0, seed, {"loss.deadly": float(seed == 1)}) for seed in range(4)]
    found = list(run(dataclasses.replace(job(task, [method], workers=1), trials=trials), "process").values())
    assert [result.status for result in found] == ["finished", "crashed", "finished", "finished"]
    assert found[1].error == "the worker process was killed by SIGKILL: out of memory?"


class Unloadable:
    """A model factory that pickles but does not unpickle."""

    def __call__(self, features: int, outputs: int) -> nn.Module:
        return small_mlp(features, outputs)

    def __reduce__(self):
        return (int, ("no number",))


class Unpicklable:
    """A model factory that does not even pickle."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, features: int, outputs: int) -> nn.Module:
        return small_mlp(features, outputs)


@pytest.mark.parametrize(("model", "reason"), [(Unpicklable(), "lock"), (Unloadable(), "invalid literal for int")])
def test_what_no_worker_can_be_given_runs_in_the_studys_process_and_says_why(model, reason):
    task = blobs(model=model)
    for result in run(job(task, [make_method(task, "m")], range(2), workers=2), "process").values():
        assert result.status == "finished"
        assert "trials run in the study's own process" in result.facts["why"]
        assert reason in result.facts["why"]


def sleepy(outputs: torch.Tensor, target: torch.Tensor, asleep: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that takes ten minutes where ``asleep`` is 1."""
    time.sleep(600.0 * float(asleep))
    return F.cross_entropy(outputs, target)


SLEEPY = Choice("sleepy", "loss", ClassLoss(sleepy), {"asleep": HyperSpec(0.0)}, kinds=("classification",))


def test_stopping_in_the_middle_of_a_trial_ends_the_workers_at_once():
    task = blobs()
    trials = [Trial("m", "final", 0, seed, {"loss.asleep": float(seed > 0)}) for seed in range(3)]
    asked = dataclasses.replace(job(task, [make_method(task, "m", loss=SLEEPY)], workers=1), trials=trials)
    before = set(psutil.Process().children())
    runner = ProcessEngine()
    results = runner.run(asked)
    assert next(results)[0].status == "finished"
    (worker,) = set(psutil.Process().children()) - before
    results.close()
    runner.close()
    assert not worker.is_running()


def test_a_worker_ends_in_the_middle_of_a_trial_when_its_parent_is_killed():
    code = """
        from minimand.study import Trial, make_method
        from minimand.study.engines.worker import Worker, pack
        from tests.study.examples import QUICK, blobs
        from tests.study.test_engines import SLEEPY

        task = blobs()
        worker = Worker(pack((task, {"m": make_method(task, "m", loss=SLEEPY)}, QUICK, "cpu")))
        print(worker.process.pid, flush=True)
        worker.run(Trial("m", "final", 0, 0, {"loss.asleep": 1.0}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    worker.wait(timeout=30)


SCRIPT = """
    import numpy as np
    import torch
    from minimand.study import Budget, Task, compare

    class Net(torch.nn.Module):
        def __init__(self, features, outputs):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(features, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU())
            self.head = torch.nn.Linear(8, outputs)

        def forward(self, x):
            return self.head(self.layers(x))

    x, y = np.random.default_rng(0).normal(size=(80, 3)), np.arange(80) % 2
    result = compare(
        Task.from_arrays(x, y, model=Net), {"loss": ["cross_entropy", "gce"]},
        budget=Budget(steps=3, candidates=1), seeds=2, workers=2,
    )
    print(result.engine, len(result.rows), result.rows[0].crashed)
"""


def test_a_script_without_a_main_guard_can_use_worker_processes(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "process 2 0"


# Ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A local Ray of two workers."""
    ray = pytest.importorskip("ray")
    from minimand.study.engines.ray import _connected

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)  # the workers import this file by its name
        _connected(workers=2)
        yield ray
        ray.shutdown()


def test_ray_gives_the_numbers_of_the_batched_engine(cluster, batched):
    task = blobs()
    found = run(job(task, three_methods(task), range(2)), "ray")
    assert_same_numbers(found, batched)
    assert all(result.facts == {"engine": "ray"} for result in found.values())


def test_ray_runs_the_trial_of_a_killed_worker_again(cluster, tmp_path):
    mark = tmp_path / "killed"

    def once(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy; the first worker to come by is killed in the middle of its trial."""
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return F.cross_entropy(outputs, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    task = blobs()
    found = run(job(task, [make_method(task, "m", loss=once)], range(4)), "ray")
    assert mark.exists()
    oracle = run(job(task, [make_method(task, "m")], range(4), workers=0), "process")
    assert_same_numbers(found, oracle)


class Broken(nn.Linear):
    def forward(self, x):
        raise KeyError("no such layer")


def test_ray_trains_what_cannot_be_stacked_and_records_what_a_trial_raises(cluster):
    task = curve()
    methods = [make_method(task, "odd", model=Normalised), make_method(task, "broken", model=Broken)]
    found = run(job(task, methods, range(2)), "ray")
    broken = [result for key, result in found.items() if key.startswith("broken")]
    assert [result.status for result in broken] == ["crashed", "crashed"]
    assert all(result.error.startswith("KeyError: 'no such layer'") for result in broken)
    odd = {key: result for key, result in found.items() if key.startswith("odd")}
    assert_same_numbers(odd, run(job(task, methods[:1], range(2), workers=0), "process"))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    task = blobs()
    with pytest.raises(ImportError, match=r"engine 'ray' needs Ray: pip install 'minimand\[ray\]'"):
        run(job(task, [make_method(task, "m")], range(1)), "ray")
