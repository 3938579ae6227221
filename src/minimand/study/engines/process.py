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

    def run(self, job: Job) -> Iterator[list[TrialResult]]:
        """Run every open trial once."""
        trials = job.open()
        count = min(_workers(job), len(trials))
        facts = {ENGINE: "process"}
        if count:
            try:
                crew = _Crew(_payload(job), count, trials)
            except Exception as error:  # pickling runs the user's code and may raise anything
                reason = " ".join(str(error).split())[:200]
                facts[WHY] = f"trials run in the study's own process: workers cannot take the model or loss ({reason})"
            else:
                yield from self._with(crew, job, facts)
                return
        for trial in trials:
            yield [with_facts(train(job.recipe(trial.method), trial, job.advance), **facts)]

    def _with(self, crew: _Crew, job: Job, facts: dict[str, str]) -> Iterator[list[TrialResult]]:
        try:
            for _ in range(crew.trials):
                result = crew.results.get()
                job.advance(1.0)
                yield [with_facts(result, **facts)]
        finally:
            crew.close()


def _workers(job: Job) -> int:
    """How many workers to use: what the job says, else a core each, or one on an accelerator."""
    if job.workers is not None:
        return job.workers
    if job.task.train.inputs.device.type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _payload(job: Job) -> bytes:
    """What a worker needs beside its trials."""
    methods = {name: job.methods[name] for name in job.by_method()}
    return pack((on_device(job.task, "cpu"), methods, job.budget, str(job.task.train.inputs.device)))


class _Crew:
    """Workers and a thread for each, which hands its worker the next trial. ValueError where they cannot start."""

    def __init__(self, payload: bytes, count: int, trials: Sequence[Trial]) -> None:
        self.results: queue.SimpleQueue[TrialResult] = queue.SimpleQueue()
        self.trials = len(trials)
        self._payload = payload
        self._waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        for trial in trials:
            self._waiting.put(trial)
        self._lock = threading.Lock()
        self._closed = False
        self._running: set[Worker] = set()
        first = self._hire()  # alone, so that what no worker can load is found out at once
        self._threads = [
            threading.Thread(target=self._serve, args=(first if i == 0 else None,), daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End all workers and wait for their threads."""
        with self._lock:
            self._closed = True
            for worker in self._running:
                worker.process.kill()
        for thread in self._threads:
            thread.join()

    def _hire(self) -> Worker:
        worker = Worker(self._payload)
        with self._lock:
            self._running.add(worker)
            if self._closed:
                worker.process.kill()
        return worker

    def _dismiss(self, worker: Worker) -> None:
        with self._lock:
            self._running.discard(worker)
        worker.kill()

    def _serve(self, worker: Worker | None) -> None:
        while not self._closed:
            try:
                trial = self._waiting.get_nowait()
            except queue.Empty:
                break
            started = time.perf_counter()
            try:
                worker = worker or self._hire()
                result = worker.run(trial)
            except Exception as error:  # a thread that ended without an answer would leave the study waiting
                result = crashed(trial, str(error), time.perf_counter() - started)
                if worker is not None:
                    self._dismiss(worker)
                worker = None
            self.results.put(result)
        if worker is not None:
            self._dismiss(worker)
