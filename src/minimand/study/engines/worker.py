"""The worker of the process engine: one process that runs one trial after the other.

It is a plain child process that talks over its standard streams, and not ``multiprocessing``: that would run the
user's script again in every worker, which a script of ten lines without ``if __name__ == "__main__"`` cannot bear.
Messages are pickles that only the two of us write, each after its length.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from minimand.study.trial import Trial, TrialResult

LENGTH = struct.Struct("<Q")


class WorkerDied(Exception):
    """The process ended before it answered."""


class Worker:
    """The parent's end of a worker process. ValueError where it cannot load what it is given."""

    def __init__(self, payload: bytes) -> None:
        source = str(Path(__file__).resolve().parents[3])
        paths = [str(Path(entry).resolve()) for entry in (*sys.path, source)]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minimand.study.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        )
        failure = self._ask(payload)
        if failure is not None:
            self.kill()
            raise ValueError(failure)

    def run(self, trial: Trial) -> TrialResult:
        """The trial's result; WorkerDied, with what is known of why, if the process ends first."""
        return self._ask(pickle.dumps(trial))

    def kill(self) -> None:
        """End the process, whatever it is doing. A thread that waits for its answer gets WorkerDied."""
        self.process.kill()
        self.process.wait()

    def _ask(self, message: bytes) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            _send(self.process.stdin, message)
            return pickle.loads(_receive(self.process.stdout))
        except (EOFError, BrokenPipeError) as error:
            code = self.process.wait()
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            hint = ": out of memory?" if code == -signal.SIGKILL else ""
            raise WorkerDied(f"the worker process {how}{hint}") from error


def pack(value: Any) -> bytes:
    """``value`` for a worker, functions and classes of the user's script included."""
    import cloudpickle

    return cloudpickle.dumps(value)


def _send(pipe: BinaryIO | Any, message: bytes) -> None:
    pipe.write(LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> bytes:
    header = pipe.read(LENGTH.size)
    if len(header) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(header)
    message = pipe.read(length)
    if len(message) < length:
        raise EOFError
    return message


def _listen(pipe: BinaryIO, inbox: queue.SimpleQueue[bytes]) -> None:
    """Take in messages until the parent is gone, and then end at once, in the middle of a trial if need be."""
    try:
        while True:
            inbox.put(_receive(pipe))
    except EOFError:
        os._exit(0)


def main() -> None:
    """Load the job, say None or why not, then answer each trial with its result."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the user's code prints must not end up among the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; it is the parent that decides
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    try:
        import torch

        from minimand.study.training import Recipe, on_device, train

        torch.set_num_threads(1)
        task, methods, budget, device = pickle.loads(inbox.get())
        recipes = {name: Recipe(on_device(task, device), method, budget) for name, method in methods.items()}
    except Exception as error:
        _send(answers, pickle.dumps(f"{type(error).__name__}: {error}"))
        return
    _send(answers, pickle.dumps(None))
    while True:
        trial = pickle.loads(inbox.get())
        _send(answers, pickle.dumps(train(recipes[trial.method], trial)))


if __name__ == "__main__":
    main()
