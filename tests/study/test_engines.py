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
from minimand.study.engines.worker import Worker, WorkerDied, pack
from minimand.study.objective import ClassLoss
from minimand.study.task import Task
from minimand.study.trial import Trial
from tests.study.examples import QUICK, Normalised, blobs, curve, job, run, small_mlp


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


def test_a_killed_worker_costs_the_trial_that_it_was_at():
    task = blobs()
    method = make_method(task, "m", loss=DEADLY)
    trials = [Trial("m", "final", 0, seed, {"loss.deadly": float(seed == 1)}) for seed in range(4)]
    found = list(run(dataclasses.replace(job(task, [method], workers=1), trials=trials), "process").values())
    assert [result.status for result in found] == ["finished", "crashed", "finished", "finished"]
    assert found[1].error == "the worker process was killed by SIGKILL: out of memory?"


def test_what_a_model_prints_does_not_disturb_the_results():
    class Chatty(nn.Linear):
        def forward(self, x):
            print("hello from the model")
            os.write(1, b"\x00\xff raw bytes")
            return super().forward(x)

    task = blobs(model=Chatty)
    found = run(job(task, [make_method(task, "m")], range(2), workers=1), "process")
    assert [result.status for result in found.values()] == ["finished", "finished"]


def test_what_no_worker_can_be_given_runs_in_the_studys_process_and_says_why():
    lock = threading.Lock()

    def guarded(features: int, outputs: int) -> nn.Module:
        with lock:
            return small_mlp(features, outputs)

    task = blobs(model=guarded)
    for result in run(job(task, [make_method(task, "m")], range(2), workers=2), "process").values():
        assert result.status == "finished"
        assert "trials run in the study's own process" in result.facts["why"]
        assert "lock" in result.facts["why"]


def test_stopping_early_ends_the_workers():
    task = blobs()
    slow = dataclasses.replace(QUICK, steps=200_000)
    results = ProcessEngine().run(job(task, [make_method(task, "m")], range(3), workers=2, budget=slow))
    before = set(psutil.Process().children())
    thread = threading.Thread(target=lambda: next(results, None), daemon=True)
    thread.start()
    children = wait_for(lambda: [c for c in set(psutil.Process().children()) - before if c.cpu_times().user > 1])
    for child in children:
        assert "minimand.study.engines.worker" in child.cmdline()
        child.kill()  # each trial then ends as crashed, and the generator can be closed
    thread.join(60)
    results.close()
    gone, alive = psutil.wait_procs(set(psutil.Process().children()) - before, timeout=10)
    assert not alive


def wait_for(condition, seconds: float = 60.0):
    """What ``condition`` returns once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    task = blobs()
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from minimand.study.engines.worker import Worker, pack\n"
        "worker = Worker(pack((None, {}, None, 'cpu')))\n"
        "print(worker.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    code = script.read_text().replace("(None, {}, None, 'cpu')", "('task', {}, None, 'cpu')")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    worker.wait(timeout=30)
    assert task is not None


def test_a_worker_that_cannot_load_the_task_says_so():
    class Unloadable:
        def __reduce__(self):
            return (int, ("not a number",))

    with pytest.raises(ValueError, match="invalid literal for int"):
        Worker(pack(Unloadable()))


def test_a_dead_worker_is_told_from_an_answer():
    task = blobs()
    worker = Worker(pack((task, {"m": make_method(task, "m")}, QUICK, "cpu")))
    worker.process.kill()
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        worker.run(Trial("m", "final", 0, 0, {}))
    worker.kill()


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
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, root)  # the workers import the functions of this file by its name
    from minimand.study.engines.ray import _connected

    _connected(workers=2)
    yield ray
    ray.shutdown()
    sys.path.remove(root)


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


def test_ray_records_what_a_trial_raises(cluster):
    class Broken(nn.Linear):
        def forward(self, x):
            raise KeyError("no such layer")

    task = blobs(model=Broken)
    for result in run(job(task, [make_method(task, "m")], range(2)), "ray").values():
        assert result.status == "crashed"
        assert result.error.startswith("KeyError: 'no such layer'")


def test_ray_trains_what_cannot_be_stacked(cluster):
    task = curve(model=Normalised)
    asked = job(task, [make_method(task, "m")], range(2), workers=0)
    assert_same_numbers(run(asked, "ray"), run(asked, "process"))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    task = blobs()
    with pytest.raises(ImportError, match=r"engine 'ray' needs Ray: pip install 'minimand\[ray\]'"):
        run(job(task, [make_method(task, "m")], range(1)), "ray")
