"""The report of a study: one HTML page that needs nothing but itself, and the same numbers as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from minimand.study.page import page
from minimand.study.result import StudyResult

JSON_VERSION = 1


def write_report(result: StudyResult, directory: str | Path) -> Path:
    """Write ``report.html``, ``results.json`` and ``results.csv`` into ``directory``; returns the page's path.

    Each file is written aside and then put in place whole: one that was there before is replaced or, if anything
    fails, kept. ``directory`` is made if it is not there. OSError if it cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "results.json", json.dumps(to_json(result), indent=1, allow_nan=False) + "\n")
    _write(directory / "results.csv", to_csv(result))
    return _write(directory / "report.html", page(result))


def to_json(result: StudyResult) -> dict[str, Any]:
    """Everything the study found, as strict JSON can hold it: numbers that are not finite are None.

    The layout is versioned by ``"version"``: keys may be added under one version, not renamed or dropped.
    """
    task = result.task
    return _strict(
        {
            "format": "minimand study",
            "version": JSON_VERSION,
            "task": {
                "name": task.name,
                "kind": task.kind,
                "metric": {"name": task.metric.name, "higher_is_better": task.metric.higher_is_better},
                "rows": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
                "num_classes": task.num_classes,
                "labels": task.labels,
                "facts": task.facts,
            },
            "budget": result.budget,
            "tuner": result.tuner,
            "baseline": result.baseline,
            "seeds": result.seeds,
            "master_seed": result.master_seed,
            "methods": result.rows,
            "test_uses": result.test_uses,
            "holdout": result.holdout,
            "engine": result.engine,
            "notes": result.notes,
            "started": result.started,
            "finished": result.finished,
            "seconds": result.seconds,
            "versions": result.versions,
            "command": result.command,
        }
    )


def to_csv(result: StudyResult) -> str:
    """One line a final trial: its method, choices, seed, score and hyperparameters.

    A column is empty where a method has no such choice or number. Scores are written in full: reading them back
    gives the same floats. Where a reusable holdout told them, a further column says what they were scored on.
    """
    axes = _names(row.choices for row in result.rows)
    hypers = _names(row.hypers for row in result.rows)
    text = io.StringIO(newline="")
    table = csv.writer(text)
    told = any(row.scored_on != "test" for row in result.rows)
    table.writerow(["method", *axes, "seed", "score", *(["scored_on"] if told else []), *hypers])
    for row in result.rows:
        choices = [row.choices.get(axis, "") for axis in axes]
        numbers = [repr(float(row.hypers[name])) if name in row.hypers else "" for name in hypers]
        for seed, score in zip(result.seeds, row.scores, strict=True):
            on = [row.scored_on] if told else []
            table.writerow([row.name, *choices, seed, repr(float(score)), *on, *numbers])
    return text.getvalue()


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all ``mappings``, in the order they first appear."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _strict(value: Any) -> Any:
    """``value`` as strict JSON can hold it; what JSON has no type for becomes its text."""
    if is_dataclass(value):
        return {field.name: _strict(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)


def _write(path: Path, text: str) -> Path:
    """Put ``text`` at ``path``, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Names from the command line may hold bytes that are no UTF-8: they are shown as escapes.
        with open(aside, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
