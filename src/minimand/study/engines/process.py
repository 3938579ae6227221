"""The process engine: each trial by itself, in a plain loop, as many at once as there are cores."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence

from minimand.study.engines.job import ENGINE, WHY, Job, with_facts
from minimand.study.engines.worker import Worker, pack
from minimand.study.training import crashed, on_device, train
from minimand.study.trial import Trial, TrialResult


class ProcessEngine:
    """Runs any model. Results come as trials end, one at a time; their numbers do not depend on that order.

    A worker that dies, killed for taking too much memory for instance, costs the trial that it was at, which is
    recorded as crashed; another takes its place. What cannot be sent to a worker runs in this process, and the
    results' facts say why.
    """

    def __init__(self) -> None:
        self._crew: _Crew | None = None

    def run(self, job: Job) -> Iterator[list[TrialResult]]:
        """Run every open trial once."""
        trials = job.open()
        count = min(_workers(job), len(trials))
        facts = {ENGINE: "process"}
        if count:
            try:
                if self._crew is None or not self._crew.knows(job):
                    self.close()
                    self._crew = _Crew(job)
                results = self._crew.run(trials, count)
            except Exception as error:  # pickling runs the user's code and may raise anything
                reason = " ".join(str(error).split())[:200]
                facts[WHY] = f"trials run in the study's own process: workers cannot take the model or loss ({reason})"
            else:
                for result in results:
                    job.advance(1.0)
                    yield [with_facts(result, **facts)]
                return
        for trial in trials:
            yield [with_facts(train(job.recipe(trial.method), trial, job.advance), **facts)]

    def close(self) -> None:
        """End the workers; the engine may be used again."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None


def _workers(job: Job) -> int:
    """How many workers to use: what the job says, else a core each, or one on an accelerator."""
    if job.workers is not None:
        return job.workers
    if job.task.train.inputs.device.type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Crew:
    """Workers that know a study, and while they work a thread for each, which hands its worker the next trial.

    ValueError where no worker can be started with the study.
    """

    def __init__(self, job: Job) -> None:
        self._study = (job.task, job.methods, job.budget)
        device = job.task.train.inputs.device
        self._payload = pack((on_device(job.task, "cpu"), dict(job.methods), job.budget, str(device)))
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._alive: set[Worker] = set()
        self._idle.put(self._hire())  # one at once: what no worker can load is found out before anything runs

    def knows(self, job: Job) -> bool:
        """Whether the workers were given this job's task, methods and budget."""
        task, methods, budget = self._study
        return task is job.task and methods is job.methods and budget == job.budget

    def run(self, trials: Sequence[Trial], count: int) -> Iterator[TrialResult]:
        """Results as trials end, from ``count`` workers."""
        waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        results: queue.SimpleQueue[TrialResult] = queue.SimpleQueue()
        for trial in trials:
            waiting.put(trial)
        threads = [threading.Thread(target=self._serve, args=(waiting, results), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for _ in trials:
            yield results.get()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()

    def _hire(self) -> Worker:
        worker = Worker(self._payload)
        with self._lock:
            self._alive.add(worker)
            if self._closed:
                worker.kill()
        return worker

    def _serve(self, waiting: queue.SimpleQueue[Trial], results: queue.SimpleQueue[TrialResult]) -> None:
        worker = None
        while not self._closed:
            try:
                trial = waiting.get_nowait()
            except queue.Empty:
                break
            started = time.perf_counter()
            try:
                worker = worker or self._idle_or_new()
                result = worker.run(trial)
            except Exception as error:  # a thread that ended without an answer would leave the study waiting
                result = crashed(trial, str(error), time.perf_counter() - started)
                if worker is not None:
                    worker.kill()
                worker = None
            results.put(result)
        if worker is not None:
            self._idle.put(worker)

    def _idle_or_new(self) -> Worker:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._hire()
