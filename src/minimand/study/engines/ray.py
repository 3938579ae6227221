"""The Ray engine: each trial by itself as a task on a Ray cluster, on one machine or on many."""

from __future__ import annotations

import os
import pickle
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minimand.study.engines.job import ENGINE, Job, with_facts
from minimand.study.engines.worker import pack
from minimand.study.training import Recipe, crashed, describe, on_device, train
from minimand.study.trial import Trial, TrialResult

RETRIES = 3  # how often a trial is run again after losing its worker or its machine
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

_loaded: tuple[str, dict[str, Recipe]] | None = None  # a worker's recipes, kept from trial to trial


class RayEngine:
    """Runs any model on the cluster that ``RAY_ADDRESS`` names, the one already connected to, or a local one.

    Results come as trials end, one at a time; their numbers do not depend on that order. A trial whose worker or
    machine is lost is run again elsewhere, three times at most, and then recorded as crashed. Machines other than
    this one must have minimand and the user's own modules installed. No usage statistics are sent and no dashboard
    is started. Needs the extra ``minimand[ray]``.
    """

    def run(self, job: Job) -> Iterator[list[TrialResult]]:
        """Run every open trial once."""
        trials = job.open()
        if not trials:
            return
        ray = _connected(job.workers)
        device = job.task.train.inputs.device.type  # its number is Ray's business
        name, payload = (
            uuid.uuid4().hex,
            ray.put(pack((on_device(job.task, "cpu"), dict(job.methods), job.budget, device))),
        )
        remote = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_retries=RETRIES)(run_trial)
        running = {remote.remote(name, payload, trial): (trial, time.perf_counter()) for trial in trials}
        try:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                trial, asked = running.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayError as error:
                    result = crashed(trial, describe(error), time.perf_counter() - asked)
                job.advance(1.0)
                yield [with_facts(result, **{ENGINE: "ray"})]
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster as it is: it may be someone else's, and a local one ends with this process."""


def run_trial(name: str, payload: bytes, trial: Trial) -> TrialResult:
    """What a Ray worker does: load the job, unless it is that of last time by its name, and train."""
    global _loaded
    import torch

    torch.set_num_threads(1)
    try:
        if _loaded is None or _loaded[0] != name:
            task, methods, budget, device = pickle.loads(payload)
            task = on_device(task, device)
            _loaded = name, {method: Recipe(task, parts, budget) for method, parts in methods.items()}
    except Exception as error:
        return crashed(trial, f"the worker could not load the study: {describe(error)}")
    return train(_loaded[1][trial.method], trial)


def _connected(workers: int | None) -> Any:
    """The module ``ray``, connected to a cluster; ImportError that names the extra where there is none."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ImportError("engine 'ray' needs Ray: pip install 'minimand[ray]'") from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return ray
    paths = os.pathsep.join(dict.fromkeys(str(Path(entry).resolve()) for entry in sys.path))
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        runtime_env={"env_vars": variables},
        **quiet,
    )
    return ray
