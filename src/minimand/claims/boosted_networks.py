"""Boosted networks: trained a few units at a time they keep up, and a quarter of their units can be left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from minimand import optim
from minimand.claims.claim import Claim, Effect, Measured, Scale, Table, Threshold

SPLITS = {"smoke": 2, "small": 8, "full": 50}
DIGITS_UNITS = {"smoke": 10, "small": 100, "full": 100}
DIABETES_UNITS = {"smoke": 10, "small": 50, "full": 50}
EPOCHS = {"smoke": 20, "small": 300, "full": 300}  # of the networks that are trained whole, at most
BLOCK, LATE = 5, 0.25  # hidden units a round; the share of rounds that is left out
DIGITS_SHRINKAGE, DIABETES_SHRINKAGE = 0.5, 0.1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Half of a data set to train on and half to test on, inputs standardised by the former."""

    train: tuple[Array, Array]
    test: tuple[Array, Array]

    @classmethod
    def drawn(cls, x: Array, y: Array, seed: int, classes: bool) -> Split:
        """Halves at random, class by class where there are classes."""
        parts: Any = train_test_split(x, y, test_size=0.5, random_state=seed, stratify=y if classes else None)
        scaler: Any = StandardScaler().fit(parts[0])
        return cls((scaler.transform(parts[0]), parts[2]), (scaler.transform(parts[1]), parts[3]))


def run(scale: Scale, seed: int) -> Measured:
    """Both tasks on several splits."""
    images, digits = cast(Any, load_digits(return_X_y=True))
    inputs, progress = cast(Any, load_diabetes(return_X_y=True))
    target = (progress - progress.mean()) / progress.std()
    found: dict[str, list[float]] = {}
    for i in range(SPLITS[scale]):
        own = 1000 * seed + i
        pixels, body = Split.drawn(images, digits, own, True), Split.drawn(inputs, target, own, False)
        scores = {
            **classified(pixels, DIGITS_UNITS[scale], EPOCHS[scale], own),
            **regressed(body, DIABETES_UNITS[scale], EPOCHS[scale], own),
        }
        for name, value in scores.items():
            found.setdefault(name, []).append(value)
    best = [min(pair) for pair in zip(found["RMSE, Adam"], found["RMSE, L-BFGS"], strict=True)]
    shares = [boosted / other for boosted, other in zip(found["RMSE, boosted"], best, strict=True)]
    return Measured(
        {
            "drop": Effect.gain(found["accuracy, three quarters"], found["accuracy, boosted"]),
            "accuracy": Effect.gain(found["accuracy, boosted"], found["accuracy, Adam"]),
            "error": Effect.mean(shares),
        },
        Table(
            ("on the test half", "mean", "lowest", "highest"),
            tuple((name, float(np.mean(values)), min(values), max(values)) for name, values in found.items()),
        ),
    )


def classified(split: Split, units: int, epochs: int, seed: int) -> dict[str, float]:
    """Accuracy on digits: boosted, without its late rounds, and a network of as many units trained whole."""
    x, y = (torch.from_numpy(part) for part in split.train)
    model = optim.BoostedNetwork(units, BLOCK, DIGITS_SHRINKAGE, loss="softmax", seed=seed).fit(x, y)
    test, truth = torch.from_numpy(split.test[0]), torch.from_numpy(split.test[1])
    kept = max(1, round((1 - LATE) * units / BLOCK))
    whole: Any = MLPClassifier(hidden_layer_sizes=(units,), activation="logistic", max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole.fit(*split.train)
    return {
        "accuracy, boosted": float((model.predict(test) == truth).double().mean()),
        "accuracy, three quarters": float((model.predict(test, kept) == truth).double().mean()),
        "accuracy, Adam": float(whole.score(*split.test)),
    }


def regressed(split: Split, units: int, epochs: int, seed: int) -> dict[str, float]:
    """Root mean squared error on diabetes, in deviations of the target: boosted, and trained whole by two methods."""
    x, y = (torch.from_numpy(part) for part in split.train)
    model = optim.BoostedNetwork(units, BLOCK, DIABETES_SHRINKAGE, seed=seed).fit(x, y)
    found = {"RMSE, boosted": root_mean_square(model.predict(torch.from_numpy(split.test[0])).numpy() - split.test[1])}
    for name, solver in (("Adam", "adam"), ("L-BFGS", "lbfgs")):
        whole: Any = MLPRegressor(
            hidden_layer_sizes=(units,), activation="logistic", solver=solver, max_iter=epochs, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            whole.fit(*split.train)
        found[f"RMSE, {name}"] = root_mean_square(whole.predict(split.test[0]) - split.test[1])
    return found


def root_mean_square(errors: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(errors**2)))


CLAIM = Claim(
    statement="A network boosted five hidden units at a time is within 3 points of one of as many units trained whole "
    "by Adam on handwritten digits, loses at most a point without its last quarter of units, and on the diabetes data "
    "has at most 1.15 times the error of the better of two networks trained whole.",
    refuted_by="a 95% interval beyond one of these bounds",
    thresholds={
        "drop": Threshold("change of accuracy without the last quarter of units", above=-0.01),
        "accuracy": Threshold("accuracy on digits less that of a network trained whole", above=-0.03),
        "error": Threshold("error on diabetes over the least of networks trained whole", below=1.15),
    },
    parts=(optim.BoostedNetwork,),
    run=run,
    full="50 splits; some ten minutes",
)
