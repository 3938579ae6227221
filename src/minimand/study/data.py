"""A task from a table: what is predicted, who is held out, and inputs that only the training rows have shaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from minimand._checks import check_choice
from minimand.study.columns import LARGEST, TypedColumns, column_encoder
from minimand.study.embedded import corrupt
from minimand.study.metrics import metric as metric_named
from minimand.study.models import MODELS, check_model
from minimand.study.models import model as model_named
from minimand.study.models import summary as model_summary
from minimand.study.names import unknown
from minimand.study.protected import Protected, encode
from minimand.study.tables import Table, read_table
from minimand.study.task import Factory, Kind, Metric, Split, Task, split_rows

VALIDATION_SHARE = 0.2
TEST_SHARE = 0.25
MIN_ROWS = 10
MIN_CLASS_ROWS = 2
MAX_INFERRED_CLASSES = 20  # whole numbers with more distinct values are taken for quantities

DEFAULT_LOSS: dict[Kind, str] = {"classification": "cross_entropy", "regression": "mse"}


def read_task(
    source: str | Path | pd.DataFrame,
    target: str | None = None,
    metric: str | None = None,
    model: str | Factory = "mlp",
    seed: int = 0,
    *,
    kind: Kind | None = None,
    missing_target: Literal["refuse", "drop"] = "refuse",
    transformer: Any = None,
    max_bytes: int | None = None,
    protected: Sequence[str] = (),
) -> Task:
    """A task from a CSV, TSV, Parquet, Arrow or ``.npz`` file, a DataFrame, or the name of an embedded set.

    Rows are split at random into 55% to train, 20% to validate and 25% to test, class by class for
    classification; every class keeps at least one row to train. Columns are typed, scaled, imputed and
    one-hot encoded by the training rows alone; what was decided is told in the task's ``facts``.

    - ``target``: the column to predict (in an ``.npz`` the array, "y" by default); embedded sets know theirs.
    - ``metric``: a name of :func:`minimand.study.metrics.metrics`; accuracy or r2 by default.
    - ``model``: "mlp", "linear", "cnn", "module:factory", or a factory(num_features, num_outputs). Pictures,
      (N, H, W) or (N, C, H, W), reach a factory of yours as they are and the named models flat.
    - ``kind``: "classification" or "regression"; inferred where None. Text, true/false, categories and up to 20
      distinct whole numbers are classes.
    - ``missing_target``: "refuse" rows without a target, or "drop" them.
    - ``transformer``: a scikit-learn transformer of the input columns, in place of the one described; it is fitted
      on the training rows.
    - ``max_bytes``: memory that reading may take; half of what is free by default.
    - ``protected``: columns that predictions should not depend on. They are no inputs; penalties and the metrics that
      compare groups read them.

    Raises ValueError or FileNotFoundError, naming the argument, for what cannot be made a task.

    >>> task = read_task("iris")
    >>> len(task.train), len(task.validation), len(task.test), task.num_features, task.labels
    (82, 30, 38, 4, ('setosa', 'versicolor', 'virginica'))
    """
    if kind is not None:
        check_choice("kind", kind, ("classification", "regression"))
    check_choice("missing_target", missing_target, ("refuse", "drop"))
    factory = model_named(model)  # before a read that may be long
    table = read_table(source, target, max_bytes)
    facts: dict[str, str] = {"Source": table.source}
    table = _with_known_target(table, missing_target, facts)
    table, columns = _without_protected(table, protected)
    known = kind is None and table.kind is not None  # an embedded set says what it is
    values, kind, labels, why = _target_values(table.target, kind or table.kind)
    facts["Kind"] = kind if known else f"{kind} ({why})"
    chosen_metric = metric_named(metric, kind)
    if chosen_metric.needs_groups and not columns:
        raise ValueError(
            f"metric {chosen_metric.name!r} compares groups; protected (--protected) must name their columns"
        )
    if len(values) < MIN_ROWS:
        raise ValueError(f"DATA must have at least {MIN_ROWS} rows with a target; {table.name} has {len(values)}")

    parts = split_rows(values, kind, VALIDATION_SHARE, TEST_SHARE, seed)
    rows = (parts["train"], parts["validation"], parts["test"])
    facts["Rows"] = _row_fact(rows, kind, seed)
    name = str(table.target.name)
    scale = _scale(values[rows[0]], name) if kind == "regression" else (0.0, 1.0)
    facts["Target"] = _target_fact(name, values, labels, scale)
    untested = [label for c, label in enumerate(labels) if not (values[parts["test"]] == c).any()]
    if untested:
        facts["Not in test"] = _listed(untested) + " (too few rows)"
    inputs = _inputs(table, rows, transformer, facts)
    targets = [((values - scale[0]) / scale[1])[part] if kind == "regression" else values[part] for part in rows]
    if table.label_noise:
        targets[:2] = [corrupt(part, len(labels), table.label_noise, seed + i) for i, part in enumerate(targets[:2])]
        facts["Label noise"] = (
            f"{table.label_noise:.0%} of the training and of the validation labels are wrong, "
            "evenly over the other classes; the test labels are right"
        )

    if isinstance(model, str) and model in MODELS:
        factory = model_named(model, table.picture)
        inputs = [part.reshape(len(part), -1) for part in inputs]
        facts["Model"] = f"{model}: {model_summary(model)}"
    attributes = encode(columns, rows[0]) if columns else None
    if attributes is not None:
        facts["Protected"] = _protected_fact(attributes)
    _check_metric(chosen_metric, values, rows, labels, attributes)
    train, validation, test = (
        _as_split(x, y, kind, attributes and attributes.rows(part))
        for x, y, part in zip(inputs, targets, rows, strict=True)
    )
    task = Task(
        name=table.name,
        kind=kind,
        train=train,
        validation=validation,
        test=test,
        model=factory,
        metric=chosen_metric,
        num_classes=len(labels),
        labels=labels,
        scale=scale,
        default_loss=DEFAULT_LOSS[kind],
        facts=facts,
    )
    check_model(factory, train.inputs, task.num_features, len(labels) or 1)
    return task


def _without_protected(table: Table, protected: Sequence[str]) -> tuple[Table, dict[str, pd.Series]]:
    """The table without its protected columns, and those."""
    if not protected:
        return table, {}
    if isinstance(table.inputs, np.ndarray) or table.picture is not None:
        raise ValueError(f"protected must name columns of a table; {table.name} holds pictures")
    known = [str(column) for column in table.inputs.columns]
    for name in protected:
        if name == str(table.target.name):
            raise ValueError(f"protected must not name the target; got {name!r}")
        if name not in known:
            raise ValueError(unknown("protected", name, known))
    names = list(dict.fromkeys(protected))
    left = table.inputs.drop(columns=[column for column in table.inputs.columns if str(column) in names])
    if not left.shape[1]:
        raise ValueError(f"protected must leave columns to predict from; got all {len(known)}")
    columns = {name: table.inputs[column] for name in names for column in table.inputs.columns if str(column) == name}
    return replace(table, inputs=left), columns


def infer_kind(target: pd.Series) -> tuple[Kind, str]:
    """Whether ``target``, without missing entries, holds classes or quantities, and why.

    >>> infer_kind(pd.Series([0, 1, 1])), infer_kind(pd.Series([0.5, 1.0]))
    (('classification', 'inferred: 2 distinct whole numbers'), ('regression', 'inferred: numbers'))
    """
    if _is_text(target):
        return "classification", "inferred: labels, not numbers"
    distinct = target.nunique()
    if distinct <= MAX_INFERRED_CLASSES and (target % 1 == 0).all():
        return "classification", f"inferred: {distinct} distinct whole numbers"
    return "regression", "inferred: numbers"


def _is_text(target: pd.Series) -> bool:
    dtype = target.dtype
    return not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)


def _with_known_target(table: Table, missing: str, facts: dict[str, str]) -> Table:
    """The table without rows whose target is missing, or ValueError."""
    if not len(table.target):
        raise ValueError(f"DATA {table.name} must have rows; it has none")
    name, target = str(table.target.name), _plain_target(table.target)
    gone = target.isna().to_numpy()
    if gone.all():
        raise ValueError(f"target {name!r} must hold values; all {len(target):,} rows miss it")
    if gone.any() and missing == "refuse":
        raise ValueError(
            f"target {name!r} is missing in {gone.sum():,} of {len(target):,} rows, first in row {int(gone.argmax())}; "
            "fill them in, or leave those rows out with missing_target='drop' (--missing-target drop)"
        )
    if gone.any():
        facts["Rows without target"] = f"{gone.sum():,} of {len(target):,} were left out"
    inputs = table.inputs
    inputs = inputs[~gone] if isinstance(inputs, np.ndarray) else inputs.loc[~gone].reset_index(drop=True)
    target = target[~gone].reset_index(drop=True)
    return Table(table.name, inputs, target, table.source, table.picture, table.kind, table.label_noise)


def _plain_target(target: pd.Series) -> pd.Series:
    """The target as float64 where it holds numbers, also as text; as it is where it holds labels."""
    name, types = target.name, pd.api.types
    if types.is_datetime64_any_dtype(target.dtype) or types.is_timedelta64_dtype(target.dtype):
        raise ValueError(f"target {name!r} must hold numbers or labels; got dates or durations ({target.dtype})")
    if types.is_complex_dtype(target.dtype):
        raise ValueError(f"target {name!r} must hold real numbers or labels; got complex numbers")
    if isinstance(target.dtype, pd.CategoricalDtype):
        return target.astype(object).map(str, na_action="ignore")
    present = target.dropna()
    if types.is_object_dtype(target.dtype):
        odd = [value for value in present if not isinstance(value, (str, bool, int, float, np.generic))]
        if odd:
            raise ValueError(f"target {name!r} must hold numbers, text or true/false; got a {type(odd[0]).__name__}")
    numeric = types.is_numeric_dtype(target.dtype) and not types.is_bool_dtype(target.dtype)
    if not numeric:
        truths = types.is_bool_dtype(target.dtype) or any(isinstance(value, (bool, np.bool_)) for value in present)
        if truths or pd.to_numeric(present.astype(object), errors="coerce").isna().any():
            return target
    numbers = pd.to_numeric(target.astype(object), errors="coerce").astype("float64")
    large = numbers[numbers.abs() > LARGEST]
    if len(large):
        got = f"{large.iloc[0]:g} in row {large.index[0]}"
        raise ValueError(f"target {name!r} must be finite and at most {LARGEST:g} in size; got {got}")
    return numbers


def _target_values(target: pd.Series, kind: Kind | None) -> tuple[np.ndarray, Kind, tuple[str, ...], str]:
    """Class indices or values in float64, the kind, the labels, and why it is that kind."""
    name = str(target.name)
    why = "as given"
    if kind is None:
        kind, why = infer_kind(target)
    if kind == "regression":
        if _is_text(target) and not pd.api.types.is_bool_dtype(target.dtype):
            raise ValueError(
                f"target {name!r} must hold numbers for regression; got text such as {str(target.iloc[0])!r}"
            )
        values = target.astype("float64").to_numpy()
        if len(np.unique(values)) == 1:
            raise ValueError(f"target {name!r} must vary; every row holds {values[0]:g}")
        return values, kind, (), why
    values = target.astype(str) if _is_text(target) else target
    indices, found = pd.factorize(values, sort=True)
    labels = tuple(str(int(v)) if not _is_text(target) and float(v).is_integer() else str(v) for v in found)
    if len(labels) == 1:
        raise ValueError(f"target {name!r} must have at least two classes; every row holds {labels[0]!r}")
    counts = np.bincount(indices)
    rare = np.flatnonzero(counts < MIN_CLASS_ROWS)
    if len(rare):
        more = f" (and {len(rare) - 1} more)" if len(rare) > 1 else ""
        hint = "; for quantities take kind='regression' (--kind regression)" if not _is_text(target) else ""
        raise ValueError(
            f"target {name!r} must have at least {MIN_CLASS_ROWS} rows a class; "
            f"class {labels[rare[0]]!r} has {counts[rare[0]]}{more}{hint}"
        )
    return indices.astype(np.int64), kind, labels, why


def _check_metric(
    chosen: Metric,
    values: np.ndarray,
    rows: tuple[np.ndarray, ...],
    labels: tuple[str, ...],
    attributes: Protected | None,
) -> None:
    """ValueError where a held-out split is such that the metric cannot score even a constant prediction."""
    for split, part in (("validation", rows[1]), ("test", rows[2])):
        if labels:
            shares = np.bincount(values[rows[0]], minlength=len(labels)) / len(rows[0])
            constant = np.tile(shares, (len(part), 1))
        else:
            constant = np.full(len(part), values[rows[0]].mean())
        groups = (attributes.group[part],) if attributes is not None and chosen.needs_groups else ()
        if not np.isfinite(chosen.score(values[part], constant, *groups)):
            what = f"the classes {', '.join(labels[c] for c in np.unique(values[part]))}" if labels else "one value"
            where = f"the {split} split, where the target takes only {what}"
            raise ValueError(f"metric {chosen.name!r} is undefined on {where}")


def _scale(training: np.ndarray, name: str) -> tuple[float, float]:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = float(training.mean()), float(training.std())
    if deviation == 0:
        raise ValueError(f"target {name!r} must vary; every training row holds {training[0]:g}")
    if not np.isfinite(deviation):
        raise ValueError(
            f"target {name!r} must have a finite deviation; its largest size is {np.abs(training).max():g}"
        )
    return mean, deviation


def _inputs(table: Table, rows: tuple[np.ndarray, ...], transformer: Any, facts: dict[str, str]) -> list[np.ndarray]:
    """Inputs of the three splits in float32, shaped by the training rows alone."""
    if isinstance(table.inputs, np.ndarray):
        if transformer is not None:
            raise ValueError("transformer is for tables; pictures are scaled by one mean and one deviation")
        return _pixels(table.name, table.inputs, rows, facts)
    facts |= _copies(table.inputs, rows)
    if table.picture is not None and transformer is None:
        return _pixels(table.name, table.inputs.to_numpy(), rows, facts)
    return _columns(table.inputs, rows, transformer, facts)


def _pixels(name: str, inputs: np.ndarray, rows: tuple[np.ndarray, ...], facts: dict[str, str]) -> list[np.ndarray]:
    """Pictures less one mean over one deviation, those of the training rows: pixels share their scale."""
    pixels = inputs.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"pictures of {name} must hold finite pixels; got {pixels[~np.isfinite(pixels)][0]}")
    mean = pixels[rows[0]].mean(dtype=np.float64)
    deviation = pixels[rows[0]].std(dtype=np.float64) or 1.0
    shape = " x ".join(f"{size:,}" for size in inputs.shape[1:])
    facts["Inputs"] = f"{shape} pixels, less one mean over one deviation of the training rows"
    return [((pixels[part] - mean) / deviation).astype(np.float32) for part in rows]


def _columns(
    frame: pd.DataFrame, rows: tuple[np.ndarray, ...], transformer: Any, facts: dict[str, str]
) -> list[np.ndarray]:
    """Inputs of all splits by a transformer that has seen the training rows only."""
    train = frame.iloc[rows[0]]
    encoder = transformer if transformer is not None else column_encoder()
    encoder.fit(train)
    if transformer is None:
        _column_facts(frame, encoder.named_steps["types"], facts)
    parts = []
    with np.errstate(over="ignore"):
        for part in rows:
            encoded = encoder.transform(frame.iloc[part])
            encoded = encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)
            parts.append(encoded.astype(np.float32))
    for part in parts:
        if not np.isfinite(part).all():
            raise ValueError("DATA must hold numbers that stay finite in float32 once scaled by the training rows")
    facts["Inputs"] = f"{parts[0].shape[1]:,} numbers a row, scaled, imputed and encoded by the training rows alone"
    return parts


def _column_facts(frame: pd.DataFrame, types: TypedColumns, facts: dict[str, str]) -> None:
    """What the columns were taken for, what was dropped and what was missing."""
    plural = {"number": "numbers", "date": "dates", "category": "categories"}
    counts = {kind: sum(k == kind for k in types.kinds_.values()) for kind in plural}
    typed = ", ".join(f"{count:,} {plural[kind] if count > 1 else kind}" for kind, count in counts.items() if count)
    facts["Columns"] = f"{frame.shape[1]:,}: {typed}" + (f", {len(types.dropped_)} dropped" if types.dropped_ else "")
    if types.dropped_:
        facts["Dropped columns"] = _listed([f"{name!r} ({reason})" for name, reason in types.dropped_.items()])
    missing = frame[list(types.kinds_)].isna().sum()
    missing = missing[missing > 0]
    if len(missing):
        facts["Missing values"] = _listed([f"{name!r} ({count:,})" for name, count in missing.items()])


def _copies(frame: pd.DataFrame, rows: tuple[np.ndarray, ...]) -> dict[str, str]:
    """How many test rows have the very inputs of a training row: those can be remembered."""
    try:
        keys = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    except TypeError:  # entries that cannot be hashed; typing the columns refuses them by name
        return {}
    copies = int(np.isin(keys[rows[2]], keys[rows[0]]).sum())
    return {"Copies": f"{copies:,} of the test rows have the same inputs as a training row"} if copies else {}


def _target_fact(name: str, values: np.ndarray, labels: tuple[str, ...], scale: tuple[float, float]) -> str:
    if not labels:
        return f"{name!r}, mean {scale[0]:.4g}, standard deviation {scale[1]:.4g} in training"
    counts = np.bincount(values, minlength=len(labels))
    listed = _listed([f"{label} ({count:,})" for label, count in zip(labels, counts, strict=True)])
    positive = f"; the positive one is {labels[1]}" if len(labels) == 2 else ""
    return f"{name!r}, {len(labels)} classes: {listed}{positive}"


def _protected_fact(attributes: Protected) -> str:
    counts = zip(attributes.groups, np.bincount(attributes.group), strict=True)
    groups = _listed([f"{name} ({count:,})" for name, count in counts])
    return f"{', '.join(attributes.names)}; not among the inputs; {len(attributes.groups)} groups: {groups}"


def _row_fact(rows: tuple[np.ndarray, ...], kind: Kind, seed: int) -> str:
    train, validation, test = (f"{len(part):,}" for part in rows)
    how = "at random class by class" if kind == "classification" else "at random"
    return (
        f"{sum(map(len, rows)):,}: {train} to train, {validation} to validate, {test} to test; split {how}, seed {seed}"
    )


def _listed(items: list[str], most: int = 12) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _as_split(inputs: np.ndarray, target: np.ndarray, kind: Kind, protected: Protected | None) -> Split:
    target = target.astype(np.int64 if kind == "classification" else np.float32)
    return Split(torch.from_numpy(np.ascontiguousarray(inputs)), torch.from_numpy(target), protected)
