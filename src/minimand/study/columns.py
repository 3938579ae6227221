"""Columns to numbers: what each column is, and how it enters a network. Everything is learnt from training rows."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

MAX_CATEGORIES = 32  # one input each; what is rarer shares the last one
MIN_CATEGORY_ROWS = 5  # a category seen in fewer training rows shares an input with the other rare ones
DISTINCT_SHARE = 0.95  # text that differs in more than this share of the training rows names rows, not groups
LARGEST = 1e30  # numbers beyond it leave no room in float32

_MISSING = "(missing)"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?")
_ID_NAME = re.compile(r"(?i:(.*[_ .-])?(id|idx|index|rowid|uuid)|unnamed: 0)|.*[a-z0-9]I[dD]")
_SCALARS = (str, bool, int, float, np.generic, decimal.Decimal, datetime.date, datetime.time)


class TypedColumns(TransformerMixin, BaseEstimator):
    """A frame of any columns to one of float and text columns, the types decided by the rows it was fitted on.

    - numbers, durations (seconds) and text that is a number in every row: a float column;
    - dates, also as text (2024-05-31, with or without a time): days since 1970 and, where they vary, month, weekday
      and hour, as floats;
    - true/false, categories and other text: a text column;
    - columns that are empty or constant, text that differs in nearly every row, and whole numbers that differ in
      every row under a name like ``id``: dropped.

    In other rows an entry that does not fit its column's type is missing.

    After ``fit``: ``kinds_`` maps columns to "number", "date" or "category", ``dropped_`` columns to the reason.

    >>> frame = pd.DataFrame({"a": [1, 2, 4], "b": ["x", "x", "y"], "c": 7})
    >>> typed = TypedColumns().fit(frame)
    >>> typed.kinds_, typed.dropped_
    ({'a': 'number', 'b': 'category'}, {'c': 'constant'})
    """

    def fit(self, frame: pd.DataFrame, y: object = None) -> TypedColumns:
        """Decide every column's type from ``frame``, the training rows; ValueError if none is left."""
        self.kinds_: dict[str, str] = {}
        self.dropped_: dict[str, str] = {}
        self.date_parts_: dict[str, list[str]] = {}
        for name in frame.columns:
            kind, reason = _kind(str(name), frame[name])
            if reason:
                self.dropped_[name] = reason
                continue
            self.kinds_[name] = kind
            if kind == "date":
                parts = _date_parts(frame[name])
                self.date_parts_[name] = [p for p, values in parts.items() if p == "days" or values.nunique() > 1]
        if not self.kinds_:
            gone = "; ".join(f"{name}: {reason}" for name, reason in self.dropped_.items())
            raise ValueError(f"DATA must have a column that tells rows apart; all are dropped ({gone})")
        return self

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Float and text columns of ``frame``."""
        columns: dict[str, pd.Series] = {}
        for name, kind in self.kinds_.items():
            if kind == "category":
                columns[name] = _as_text(frame[name])
            elif kind == "number":
                columns[name] = _checked(name, _as_number(frame[name]))
            else:
                parts = _date_parts(frame[name])
                columns |= {f"{name} ({part})": parts[part] for part in self.date_parts_[name]}
        return pd.DataFrame(columns, index=frame.index)


def column_encoder() -> Pipeline:
    """Typed columns to standardised, imputed and one-hot inputs.

    Numbers: less the mean over the standard deviation; a missing one becomes the median, with one more input that
    says so. Categories: one input each, rare ones sharing one; unseen ones count as rare. Fit it on training rows.
    """
    numbers = make_pipeline(StandardScaler(), SimpleImputer(strategy="median", add_indicator=True))
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=_MISSING),
        OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=MIN_CATEGORY_ROWS,
            max_categories=MAX_CATEGORIES,
            sparse_output=False,
        ),
    )
    columns = ColumnTransformer([("number", numbers, _numbers), ("category", categories, _categories)])
    return Pipeline([("types", TypedColumns()), ("columns", columns)])


def _numbers(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if frame[name].dtype == np.float64]


def _categories(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if frame[name].dtype == object]


def _kind(name: str, column: pd.Series) -> tuple[str, str]:
    """What a column is by these rows, and why it is dropped if it is."""
    present = column.dropna()
    if present.empty:
        return "", "empty"
    kind = _kind_of_values(name, column.dtype, present)
    distinct = _as_text(present).nunique() if kind == "category" else present.nunique()
    if distinct == 1 and len(present) == len(column):
        return kind, "constant"
    texts = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
    if kind == "category" and texts and distinct > max(2, DISTINCT_SHARE * len(present)):
        return kind, "a different text in nearly every row"
    whole = pd.api.types.is_integer_dtype(column.dtype)
    if kind == "number" and whole and distinct == len(present) > 2 and _ID_NAME.fullmatch(name):
        return kind, "a number that names the row"
    return kind, ""


def _kind_of_values(name: str, dtype: Any, present: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"column {name!r} must hold numbers, text, true/false or dates; got complex numbers")
    if pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "date"
    values = pd.Series(_distinct(name, present))
    if any(isinstance(value, (bool, np.bool_)) for value in values):
        return "category"
    if pd.to_numeric(values, errors="coerce").notna().all():
        return "number"
    if all(_DATE.fullmatch(str(value)) for value in values) and _as_date(values).notna().all():
        return "date"
    return "category"


def _distinct(name: str, present: pd.Series) -> list[Any]:
    """The distinct entries of a column of text or of Python objects; ValueError for objects that are no values."""
    if isinstance(present.dtype, pd.StringDtype) or pd.api.types.infer_dtype(present) == "string":
        return list(present.unique())
    for value in present:
        if not isinstance(value, _SCALARS):
            got = type(value).__name__
            raise ValueError(f"column {name!r} must hold numbers, text, true/false or dates; got a {got}")
    return list({(type(value), value): value for value in present}.values())  # True is not 1 here


def _as_number(column: pd.Series) -> pd.Series:
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds()
    return pd.to_numeric(column, errors="coerce").astype("float64")


def _as_text(column: pd.Series) -> pd.Series:
    """Text, NaN where missing, in an object column."""
    text = column.astype(object)
    if not isinstance(column.dtype, pd.StringDtype):
        text = text.map(str, na_action="ignore").astype(object)
    return text.where(text.notna(), np.nan)


def _as_date(column: pd.Series) -> pd.Series:
    """Moments in UTC; those without a time zone are taken as UTC."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.dt.tz_localize("UTC") if column.dt.tz is None else column.dt.tz_convert("UTC")
    return pd.to_datetime(
        column.astype(object).map(str, na_action="ignore"), errors="coerce", format="ISO8601", utc=True
    )


def _date_parts(column: pd.Series) -> dict[str, pd.Series]:
    moment = _as_date(column)
    epoch = pd.Timestamp(0, tz="UTC")
    parts = {
        "days": (moment - epoch) / pd.Timedelta(days=1),
        "month": moment.dt.month,
        "weekday": moment.dt.day_of_week,
        "hour": moment.dt.hour,
    }
    return {part: values.astype("float64") for part, values in parts.items()}


def _checked(name: str, column: pd.Series) -> pd.Series:
    bad = column[column.abs() > LARGEST]
    if len(bad):
        raise ValueError(
            f"column {name!r} must hold finite numbers of at most {LARGEST:g} in size; "
            f"got {bad.iloc[0]:g} in row {bad.index[0]}"
        )
    return column
