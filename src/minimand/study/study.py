"""A study: every method gets the same number of candidates, and its winner is tested on fresh seeds.

1. Tuning: each method trains its candidates (:mod:`minimand.study.space`: its defaults, then quasi-random points,
   unless another :mod:`minimand.study.tuner` proposes some) with one seed, and the one with the best score on the
   validation split wins.
2. Final: each method's winner is trained with every final seed and scored once on the test split. All methods have
   the same seeds, and so the same initial weights and batch order: their scores are compared in pairs.

The way from here to a step: ``Study.run`` -> an engine's ``run`` (:mod:`minimand.study.engines`) -> a trial
(:mod:`minimand.study.training`) -> a rule's ``update`` (:mod:`minimand.optim`).
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from minimand._checks import check_choice, check_count
from minimand.study.choices import Value, find_method, grid
from minimand.study.consultation import Consultation, Holdout, check_holdout
from minimand.study.engines.job import DEFAULT_MEMORY, ENGINES, Compile, Job, engine
from minimand.study.findings import Findings
from minimand.study.method import Method
from minimand.study.progress import Hook, reporting
from minimand.study.provenance import digest, fingerprint, versions
from minimand.study.result import StudyResult
from minimand.study.store import Store
from minimand.study.task import Task
from minimand.study.training import Recipe, check, initial_model, on_device
from minimand.study.trial import Budget, Trial, TrialResult
from minimand.study.tuner import Tuner, Tuning

STORE_NAME = "study.sqlite"
SEEDS_APART = 1000  # between the seeds of one master seed and those of the next


class Study:
    """A comparison of methods on a task, ready to run.

    Args:
        task: the data, the model and the metric.
        methods: what to compare; see :func:`minimand.study.choices.grid` and ``make_method``.
        baseline: the name of the method that the others are held against; the first one unless given.
        budget: steps, batch size and candidates, the same for every method.
        seeds: how many final seeds. Six are the fewest with which two methods can be told apart.
        master_seed: what all seeds of the study follow from. The same one gives the same result.
        engine: "auto" or "batched", which stacks a method's trials and falls back to "process" for models that
            cannot be stacked; "process"; or "ray".
        device: where to train; "auto" takes an accelerator where there is one.
        compile: whether the batched engine compiles its steps: "auto" does so where the work is long enough.
        memory: bytes that a chunk of stacked trials may take, by estimate.
        workers: processes of the process engine (a core each unless given, 0 for none), or cores of a local Ray.
        tuner: how candidates are chosen, as many under each: "quasirandom", "random", "bayesian" or "direct"; see
            :class:`~minimand.study.tuner.Tuning`.
        holdout: how test scores are told. "plain" tells them, however often these rows have been asked before;
            "thresholdout" answers through :class:`~minimand.study.Thresholdout`, from a budget that all studies with
            the same test rows and the same parent directory share; see :mod:`minimand.study.consultation`.

    Raises:
        ModuleNotFoundError: for the tuner "bayesian" without the extra ``bo``.
        ValueError: for arguments that do not fit, among them a model or a loss that fails on the task's first rows.
    """

    def __init__(
        self,
        task: Task,
        methods: Sequence[Method],
        *,
        baseline: str | None = None,
        budget: Budget | None = None,
        seeds: int = 10,
        master_seed: int = 0,
        engine: str = "auto",
        device: str = "cpu",
        compile: Compile = "auto",
        memory: int = DEFAULT_MEMORY,
        workers: int | None = None,
        holdout: Holdout = "plain",
        tuner: Tuner = "quasirandom",
    ) -> None:
        self.budget = budget or Budget()
        for name, value in asdict(self.budget).items():
            check_count(f"budget.{name}", value)
        check_count("seeds", seeds)
        check_count("memory", memory)
        if workers is not None:
            check_count("workers", workers, least=0)
        check_count("master_seed", master_seed, least=0)
        check_choice("engine", engine, ENGINES)
        check_choice("compile", compile, ("auto", "always", "never"))
        check_holdout(holdout, task)
        self.methods = {method.name: method for method in methods}
        if not self.methods or len(self.methods) != len(methods):
            raise ValueError(f"methods must be one or more of different names; got {[m.name for m in methods]}")
        self.baseline = next(iter(self.methods)) if baseline is None else find_method(baseline, methods).name
        self.master_seed = master_seed
        self.tuning_seed = master_seed * SEEDS_APART
        self.seeds = tuple(self.tuning_seed + 1 + i for i in range(seeds))
        self.engine, self.memory, self.workers = engine, memory, workers
        self.compile: Compile = compile
        self.holdout: Holdout = holdout
        self.tuner: Tuner = tuner
        self.device = _device(device)
        self.task = on_device(task, self.device)
        for method in methods:
            Tuning(method, tuner, 1, master_seed)
            check(Recipe(self.task, method, self.budget))

    def tuning_trials(self) -> list[Trial]:
        """Every method's first round of candidates, all with the tuning seed: all there are, if they come at once."""
        return next(self.tuning_rounds({}))

    def tuning_rounds(self, results: Mapping[str, TrialResult]) -> Iterator[list[Trial]]:
        """Every method's candidates, round by round, all with the tuning seed.

        ``results``, by key, must hold those of a round before the next is asked for. A trial that has a result stays
        as it was run, though a search should propose another today.
        """
        tunings = self._tunings()
        while any(tuning.left for tuning in tunings.values()):
            trials = []
            for name, tuning in tunings.items():
                first = tuning.asked
                for i, hypers in enumerate(tuning.ask(), first):
                    trial = Trial(name, "tune", i, self.tuning_seed, hypers)
                    trials.append(results[trial.key].trial if trial.key in results else trial)
            yield trials
            for name, tuning in tunings.items():
                own = [results[trial.key] for trial in trials if trial.method == name]
                tuning.tell([result.trial.hypers for result in own], [self._merit(result) for result in own])

    @property
    def tuning_count(self) -> int:
        """How many tuning trials there are in all rounds."""
        return sum(tuning.left for tuning in self._tunings().values())

    def final_trials(self, results: Mapping[str, TrialResult]) -> list[Trial]:
        """Every method's winner, with every final seed; ``results`` are those of the tuning trials, by key."""
        found = []
        for name in self.methods:
            tuned = [r for r in results.values() if r.trial.method == name and r.trial.phase == "tune"]
            best = self._winner(sorted(tuned, key=lambda result: result.trial.candidate))
            found += [Trial(name, "final", best.candidate, seed, best.hypers) for seed in self.seeds]
        return found

    def run(
        self,
        out: str | Path | None = None,
        resume: bool = False,
        progress: Hook | bool | None = None,
        command: str | None = None,
    ) -> StudyResult:
        """Train whatever has no result yet, and say what was found.

        Args:
            out: a directory, made if need be, where every finished chunk of trials is stored at once in
                ``study.sqlite``; the uses of its test split are counted beside it, in ``holdout.sqlite``. Without it
                nothing is written.
            resume: go on from what is stored there; the result is that of a study that was never interrupted.
            progress: see :func:`minimand.study.progress.reporting`.
            command: what the report says was typed.

        Raises:
            StoreError: a store that cannot be made, written or resumed; it says what differs.
            RuntimeError: no trial finished and the metric cannot score a constant prediction either.
        """
        if resume and out is None:
            raise ValueError("resume needs out, the directory of the study to go on with; got None")
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        with ExitStack() as stack:
            store = None
            if out is not None:
                Path(out).mkdir(parents=True, exist_ok=True)
                store = stack.enter_context(Store.open(Path(out) / STORE_NAME, self.config(), resume))
            results = {} if store is None else store.results()
            hook = stack.enter_context(reporting(progress))
            consultation = Consultation(
                self.holdout, self.task, self.master_seed, None if out is None else Path(out), store
            )
            self._run_trials(results, store, hook, consultation)
            test_uses = 1 if store is None else store.test_uses
            found = Findings(self.task, self.methods, self.baseline, self.budget, self.seeds, results)
            found = replace(found, holdout=consultation.end(found.queries, self.config))
        return StudyResult(
            task=self.task,
            budget=self.budget,
            baseline=self.baseline,
            seeds=self.seeds,
            rows=found.rows(),
            started=started.isoformat(timespec="seconds"),
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - clock,
            engine=found.engine(),
            notes=found.notes(),
            versions=versions(),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,
            test_uses=test_uses,
            master_seed=self.master_seed,
            tuner=self.tuner,
            holdout=found.holdout,
        )

    def config(self) -> dict[str, Any]:
        """Everything that the stored trials depend on, for the store to hold a resumed study against."""
        return {
            "task": fingerprint(self.task),
            "methods": [self._described(method) for method in self.methods.values()],
            "budget": asdict(self.budget),
            "seeds": list(self.seeds),
            "tuning_seed": self.tuning_seed,
            "engine": "batched" if self.engine == "auto" else self.engine,
            "compile": self.compile,
            "memory": self.memory,
            "device": self.device.type,
            "versions": {name: version for name, version in versions().items() if name in ("minimand", "torch")},
            **({} if self.holdout == "plain" else {"holdout": self.holdout}),
            **({} if self.tuner == "quasirandom" else {"tuner": self.tuner}),
        }

    def _described(self, method: Method) -> dict[str, Any]:
        state = initial_model(Recipe(self.task, method, self.budget), self.tuning_seed).state_dict().values()
        return {
            "name": method.name,
            "choices": {axis: choice.name for axis, choice in method.choices.items()},
            "hypers": {name: [spec.default, str(spec.search)] for name, spec in method.hypers.items()},
            "fixed": dict(method.fixed),
            "initial weights": digest([value.cpu().double().numpy() for value in state]),  # NumPy has no bfloat16
        }

    def _run_trials(
        self, results: dict[str, TrialResult], store: Store | None, hook: Hook, consultation: Consultation
    ) -> None:
        """Both phases; every list of results is stored before the next one is computed."""
        total = self.tuning_count + len(self.methods) * len(self.seeds)
        done = float(len(results))

        def advance(what: str) -> Callable[[float], None]:
            def tell(trials: float) -> None:
                nonlocal done
                done += trials
                hook(what, done, total)

            tell(0.0)
            return tell

        def run(trials: list[Trial], what: str) -> None:
            job = Job(
                task=self.task,
                methods=self.methods,
                trials=trials,
                budget=self.budget,
                done=frozenset(results),
                compile=self.compile,
                memory=self.memory,
                workers=self.workers,
                advance=advance(what),
            )
            with closing(runner.run(job)) as chunks:  # type: ignore[type-var]
                for chunk in chunks:
                    if store is not None:
                        store.add(chunk)
                    results.update((result.trial.key, result) for result in chunk)

        with closing(engine(self.engine)) as runner:
            for trials in self.tuning_rounds(results):
                run(trials, "tuning")
            finals = self.final_trials(results)
            consultation.begin()
            run(finals, "final")

    def _winner(self, tuned: Sequence[TrialResult]) -> Trial:
        """The finished trial with the best validation score, the first of equals; the defaults if none finished."""
        finished = [result for result in tuned if result.status == "finished"]
        return max(finished, key=self._merit, default=tuned[0]).trial

    def _merit(self, result: TrialResult) -> float:
        """The validation score, turned so that higher is better; NaN where the trial did not finish."""
        if result.status != "finished":
            return math.nan
        return result.validation if self.task.metric.higher_is_better else -result.validation

    def _tunings(self) -> dict[str, Tuning]:
        count = self.budget.candidates
        return {name: Tuning(each, self.tuner, count, self.master_seed) for name, each in self.methods.items()}


def compare(
    data: Task | Any,
    try_: Mapping[str, Value | Sequence[Value]],
    *,
    baseline: str | None = None,
    budget: Budget | None = None,
    seeds: int = 10,
    engine: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    progress: Hook | bool | None = None,
    target: str | None = None,
    metric: str | None = None,
    model: Any = "mlp",
    protected: Sequence[str] = (),
    master_seed: int = 0,
    command: str | None = None,
    **options: Any,
) -> StudyResult:
    """Train several methods head to head and say which is better.

    Args:
        data: a :class:`Task`, or what :func:`minimand.study.data.read_task` takes, with ``target``, ``metric``,
            ``model`` and ``protected``: a table's path, a DataFrame, the name of an embedded set.
        try_: what to try on each axis, such as ``{"loss": ["cross_entropy", "ldr"]}``; several axes make a grid. See
            :mod:`minimand.study.choices`.
        out: a directory for the store of trials, and for the report once the study is done.
        options: ``device``, ``compile``, ``memory``, ``workers``, ``holdout``, ``tuner``, as for :class:`Study`.

    The other arguments are those of :class:`Study` and of :meth:`Study.run`; ``master_seed`` also decides the split
    of what is not a task yet.

    >>> from minimand.study import Budget
    >>> result = compare("iris", {"loss": ["cross_entropy", "focal"]}, budget=Budget(steps=20, candidates=2), seeds=2)
    >>> sorted(row.name for row in result.rows), result.notes[0][:39]
    (['cross_entropy', 'focal'], '2 seeds cannot resolve any difference: ')
    """
    if not isinstance(data, Task):
        from minimand.study.data import read_task

        data = read_task(data, target, metric, model, master_seed, protected=protected)
    study = Study(
        data,
        grid(data, try_),
        baseline=baseline,
        budget=budget,
        seeds=seeds,
        master_seed=master_seed,
        engine=engine,
        **options,
    )
    result = study.run(out=out, resume=resume, progress=progress, command=command)
    if out is not None:
        from minimand.study.report import write_report

        write_report(result, Path(out))
    return result


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a torch device; got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not available here; take 'auto' or 'cpu'")
    return device
