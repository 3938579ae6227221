"""Real data sets that come with scikit-learn, and digits with wrong labels: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets

from minimand.study.names import unknown
from minimand.study.task import Kind


@dataclass(frozen=True)
class Embedded:
    """A table that a package ships.

    ``picture`` is (channels, height, width) where the columns are pixels of one picture, which share one scale.
    ``label_noise`` is the share of the training and validation rows whose label ``corrupt`` makes wrong.
    """

    name: str
    kind: Kind
    inputs: pd.DataFrame
    target: pd.Series
    summary: str
    source: str
    picture: tuple[int, int, int] | None = None
    label_noise: float = 0.0


@dataclass(frozen=True)
class _Entry:
    loader: Callable[..., Any]
    kind: Kind
    summary: str
    source: str
    picture: tuple[int, int, int] | None = None
    label_noise: float = 0.0


_DIGITS = "Alpaydin & Kaynak (1998), UCI Optical Recognition of Handwritten Digits, test part; scikit-learn's copy"
_TABLE: dict[str, _Entry] = {
    "digits-noisy": _Entry(
        datasets.load_digits,
        "classification",
        "digits with 60% of the training and validation labels wrong; the test labels are right",
        _DIGITS,
        (1, 8, 8),
        0.6,
    ),
    "digits": _Entry(
        datasets.load_digits,
        "classification",
        "1,797 handwritten digits of 8 x 8 pixels: which of ten is it?",
        _DIGITS,
        (1, 8, 8),
    ),
    "iris": _Entry(
        datasets.load_iris,
        "classification",
        "150 flowers, 4 measures: which of three irises is it?",
        "Fisher (1936), Annals of Eugenics 7(2); scikit-learn's copy",
    ),
    "wine": _Entry(
        datasets.load_wine,
        "classification",
        "178 wines, 13 chemical measures: which of three growers made it?",
        "Forina et al. (1991), UCI Wine; scikit-learn's copy",
    ),
    "breast_cancer": _Entry(
        datasets.load_breast_cancer,
        "classification",
        "569 needle biopsies, 30 measures of cell nuclei: malignant or benign?",
        "Wolberg, Street & Mangasarian (1995), UCI Breast Cancer Wisconsin (Diagnostic); scikit-learn's copy",
    ),
    "diabetes": _Entry(
        datasets.load_diabetes,
        "regression",
        "442 patients, 10 measures: how far will the disease have gone in a year?",
        "Efron, Hastie, Johnstone & Tibshirani (2004), Annals of Statistics 32(2); scikit-learn's copy",
    ),
}

DEFAULT = "digits-noisy"


def names() -> tuple[str, ...]:
    """The names of all embedded sets; the default first."""
    return tuple(_TABLE)


def summary(name: str) -> str:
    """What an embedded set holds, in one line."""
    return _TABLE[name].summary


def source(name: str) -> str:
    """Who collected an embedded set."""
    return _TABLE[name].source


def load(name: str) -> Embedded:
    """The embedded set called ``name``; ValueError with the nearest name for one that isn't there.

    >>> iris = load("iris")
    >>> iris.inputs.shape, iris.kind, list(iris.target.unique())
    ((150, 4), 'classification', ['setosa', 'versicolor', 'virginica'])
    """
    if name not in _TABLE:
        raise ValueError(unknown("embedded set", name, names()))
    entry = _TABLE[name]
    raw = entry.loader(as_frame=True)
    target = raw.target.rename(str(raw.target.name))
    if entry.kind == "classification":
        target = target.map(dict(enumerate(map(str, raw.target_names)))).astype(object)
    return Embedded(name, entry.kind, raw.data, target, entry.summary, entry.source, entry.picture, entry.label_noise)


def corrupt(target: np.ndarray, num_classes: int, share: float, seed: int) -> np.ndarray:
    """``target`` with ``share`` of its labels, at random, replaced by another class drawn evenly from the others.

    Every replaced label is wrong: round(share * N) of them, no fewer by chance.

    >>> clean = np.arange(1000) % 10
    >>> int((corrupt(clean, 10, 0.6, seed=0) != clean).sum())
    600
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1]; got {share:g}")
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(target))[: round(share * len(target))]
    noisy = np.array(target, copy=True)
    noisy[wrong] = (noisy[wrong] + rng.integers(1, num_classes, len(wrong))) % num_classes
    return noisy
