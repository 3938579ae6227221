"""``minimand compare``: from what was typed to a report."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from rich.console import Console
from rich.text import Text

from minimand.cli.parsing import parse_budget, parse_try
from minimand.cli.show import header, show
from minimand.cli.terminal import BAD_INPUT, FAILED, INTERRUPTED, bad_input, console, plain, stop, waiting
from minimand.study.names import nearest, unknown
from minimand.study.trial import Budget

if TYPE_CHECKING:
    from minimand.study import Study, StudyResult, Task
    from minimand.study.consultation import Holdout
    from minimand.study.engines.job import Compile
    from minimand.study.task import Kind
    from minimand.study.tuner import Tuner

STORE = "study.sqlite"
REPORT_FILES = ("report.html", "results.json", "results.csv")
SEEDS = 10

# Without DATA: a question that this study can answer on two cores within a minute.
QUESTION = "Which loss survives wrong labels?"
DATA = "digits-noisy"
LOSSES = {
    "classification": ["cross_entropy", "gce", "mae", "ldr", "focal", "sum_exponential"],
    "regression": ["mse", "l1", "huber", "hl_gauss"],
}


@dataclass(frozen=True)
class Request:
    """What was typed; see the options of ``minimand compare``."""

    data: str | None
    target: str | None
    metric: str | None
    try_: tuple[str, ...]
    baseline: str | None
    budget: str | None
    seeds: int
    model: str
    kind: str | None
    missing_target: str
    protected: tuple[str, ...]
    engine: str
    workers: int | None
    device: str
    compile: str
    holdout: str
    tuner: str
    seed: int
    out: Path | None
    resume: bool
    json: bool


def run(request: Request) -> None:
    """Run the study and show what it found, or say in one line why not."""
    with bad_input():
        budget, wanted = _parsed(request)
        study, task = _study(request, budget, wanted)
        out = _directory(request, task)
    screen = console()
    if not request.json:
        _introduce(request, study, out, screen)
    result, report = _run(request, study, out)
    if request.json:
        from minimand.study.report import to_json

        print(json.dumps({**to_json(result), "report": str(report)}, indent=1, allow_nan=False))
    else:
        show(result, screen)
        screen.print()
        screen.print(Text.assemble(("Report: ", "bold"), plain(report)), soft_wrap=True)
    if all(row.diverged + row.crashed == len(row.candidates) + len(row.scores) for row in result.rows):
        why = next((row.errors[0] for row in result.rows if row.errors), "all diverged")
        raise stop(f"no trial finished: {why}", FAILED)


def _parsed(request: Request) -> tuple[Budget, dict[str, list[str]]]:
    """All that can be found wrong before torch is imported and the data are read."""
    budget = parse_budget(request.budget) if request.budget is not None else Budget()
    wanted = parse_try(request.try_)
    for option, value, known in (
        ("--engine", request.engine, ("auto", "batched", "process", "ray")),
        ("--compile", request.compile, ("auto", "always", "never")),
        ("--holdout", request.holdout, ("plain", "thresholdout")),
        ("--tuner", request.tuner, ("quasirandom", "random", "bayesian", "direct")),
        ("--missing-target", request.missing_target, ("refuse", "drop")),
        ("--kind", request.kind, ("classification", "regression", None)),
    ):
        if value not in known:
            raise ValueError(unknown(option, str(value), [name for name in known if name]))
    for option, count, least in (
        ("--seeds", request.seeds, 1),
        ("--workers", request.workers, 0),
        ("--seed", request.seed, 0),
    ):
        if count is not None and count < least:
            raise ValueError(f"{option} must be at least {least}; got {count}")
    if request.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray needs the extra 'ray': pip install 'minimand[ray]'")
    if request.tuner == "bayesian" and importlib.util.find_spec("botorch") is None:
        raise ValueError("--tuner bayesian needs the extra 'bo': pip install 'minimand[bo]'")
    if request.data is None and request.target is not None:
        raise ValueError("--target names a column of DATA; without DATA the data are digits-noisy, which know theirs")
    _check_out(request.out, request.resume)
    return budget, wanted


def _check_out(out: Path | None, resume: bool) -> None:
    if resume and out is None:
        raise ValueError("--resume needs --out DIR, the directory of the study to go on with")
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory; {out} is a file")
    if resume and not (out / STORE).is_file():
        beside = [path.name for path in out.parent.iterdir() if (path / STORE).is_file()] if out.parent.is_dir() else []
        close = [str(out.parent / name) for name in nearest(out.name, beside)]
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"--resume: there is no study in {out}{hint}")
    if not resume and not (out / STORE).exists():
        strange = [name for name in REPORT_FILES if (out / name).exists()]
        if strange:
            raise ValueError(f"--out: {out} has a {strange[0]} that is no study's; choose another directory")


def _study(request: Request, budget: Budget, wanted: dict[str, list[str]]) -> tuple[Study, Task]:
    """Read the data and set up the study; nothing is written yet."""
    from minimand.study import Study, grid, read_task

    with waiting("Reading the data"):
        task = read_task(
            request.data if request.data is not None else DATA,
            request.target,
            request.metric,
            request.model,
            request.seed,
            kind=cast("Kind | None", request.kind),
            missing_target=cast("Literal['refuse', 'drop']", request.missing_target),
            protected=request.protected,
        )
        study = Study(
            task,
            grid(task, wanted or {"loss": LOSSES[task.kind]}),
            baseline=request.baseline,
            budget=budget,
            seeds=request.seeds,
            master_seed=request.seed,
            engine=request.engine,
            device=request.device,
            compile=cast("Compile", request.compile),
            workers=request.workers,
            holdout=cast("Holdout", request.holdout),
            tuner=cast("Tuner", request.tuner),
        )
    return study, task


def _directory(request: Request, task: Task) -> Path:
    """Make the directory that everything goes to; ValueError where nothing can be written."""
    name = re.sub(r"[^\w.-]+", "-", task.name).strip("-.") or "study"
    out = request.out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        trial = out / f".writable-{time.time_ns()}"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise ValueError(f"--out: cannot write to {out}: {error.strerror or error}") from error
    return out


def _introduce(request: Request, study: Study, out: Path, screen: Console) -> None:
    """What was read and decided, before anything is trained."""
    from minimand.study import metrics

    task, budget = study.task, study.budget
    if request.data is None:
        screen.print(Text(QUESTION, style="bold"))
    better = "higher is better" if task.metric.higher_is_better else "lower is better"
    names = [f"{name} (baseline)" if name == study.baseline else name for name in study.methods]
    tuned, final = study.tuning_count, len(study.methods) * len(study.seeds)
    decided = [
        ("Metric", f"{task.metric.name}, {better}: {metrics.summary(task.metric.name)}"),
        ("Methods", ", ".join(names)),
        ("Model", task.facts.get("Model", f"{request.model} (your own code)")),
        (
            "Budget",
            f"{budget.steps:,} steps of {min(budget.batch_size, len(task.train)):,} rows; "
            f"{budget.candidates} candidates and {len(study.seeds)} seeds a method",
        ),
        ("Trials", f"{tuned:,} to tune + {final:,} final = {tuned + final:,}"),
        *([("Tuner", study.tuner)] if study.tuner != "quasirandom" else []),
        *([("Test scores", "told by Thresholdout, from a budget")] if study.holdout == "thresholdout" else []),
        ("Trained on", f"{study.device}, engine {study.engine}"),
        ("Kept in", str(out)),
    ]
    screen.print(header(task, decided))


def _run(request: Request, study: Study, out: Path) -> tuple[StudyResult, Path]:
    """Train and write the report. However it ends early, say what is kept and how to go on."""
    from minimand.study.report import write_report
    from minimand.study.store import StoreError, StoreRefused

    try:
        result = study.run(out, request.resume, command=_command([]))
        return result, write_report(result, out)
    except KeyboardInterrupt:
        raise stop(f"interrupted; {_kept(study, out)}", INTERRUPTED) from None
    except StoreRefused as error:
        again = "" if request.resume else "; to go on with it: " + _command(_resuming(out))
        raise stop(f"{error}{again}", BAD_INPUT) from error
    except StoreError as error:
        raise stop(f"{error}; {_kept(study, out)}", FAILED) from error
    except OSError as error:
        full = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise stop(f"{full}; {_kept(study, out)}", FAILED) from error


def _kept(study: Study, out: Path) -> str:
    """What survives in ``out``, and the command that goes on from there."""
    from minimand.study.store import Store, StoreError

    total = study.tuning_count + len(study.methods) * len(study.seeds)
    try:
        with Store.read(out / STORE) as store:
            count = len(store.results())
    except StoreError:
        return "no trial was finished"
    if not count:
        return "no trial was finished"
    return f"{count} of {total} trials are kept in {out}; to go on: {_command(_resuming(out))}"


def _resuming(out: Path) -> list[str]:
    typed = sys.argv[1:]
    named = any(word == "--out" or word.startswith("--out=") for word in typed)
    return ([] if named else ["--out", str(out)]) + ([] if "--resume" in typed else ["--resume"])


def _command(more: list[str]) -> str:
    """The command as it was typed, with ``more``."""
    return shlex.join(["minimand", *sys.argv[1:], *more])
