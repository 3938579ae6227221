"""The embedded sets are real, need no network, and digits-noisy is wrong exactly where it says."""

from __future__ import annotations

import socket

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from minimand.study import embedded
from minimand.study.data import read_task


@pytest.mark.parametrize("name", embedded.names())
def test_every_set_becomes_a_task_without_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an embedded set opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    task = read_task(name)
    assert task.name == name
    assert torch.isfinite(task.train.inputs).all()
    assert embedded.summary(name)
    assert embedded.source(name)


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    # the sizes in the UCI repository's descriptions
    [("digits", 1797, 64, 10), ("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2)],
)
def test_sizes_are_the_published_ones(name: str, rows: int, features: int, classes: int) -> None:
    task = read_task(name)
    assert sum(map(len, (task.train, task.validation, task.test))) == rows
    assert (task.num_features, task.num_classes) == (features, classes)


def test_noisy_digits_differ_from_digits_in_60_percent_of_training_and_validation_labels_only() -> None:
    clean, noisy = read_task("digits", seed=3), read_task("digits-noisy", seed=3)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(clean, part).inputs, getattr(noisy, part).inputs)
    wrong = {
        part: getattr(clean, part).target != getattr(noisy, part).target for part in ("train", "validation", "test")
    }
    assert wrong["train"].sum().item() == round(0.6 * len(clean.train))
    assert wrong["validation"].sum().item() == round(0.6 * len(clean.validation))
    assert not wrong["test"].any()
    assert "60%" in noisy.facts["Label noise"]
    assert "test labels are right" in noisy.facts["Label noise"]


def test_wrong_labels_are_even_over_the_other_classes() -> None:
    clean = np.zeros(90_000, dtype=np.int64)
    noisy = embedded.corrupt(clean, 10, 1.0, seed=0)
    counts = np.bincount(noisy, minlength=10)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 10_000).max() < 5 * np.sqrt(10_000 * 8 / 9)  # five standard deviations


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(2, 12), st.floats(0, 1), st.integers(0, 2**31))
def test_corrupt_makes_exactly_that_share_wrong_and_keeps_its_argument(
    n: int, classes: int, share: float, seed: int
) -> None:
    clean = np.arange(n) % classes
    before = clean.copy()
    noisy = embedded.corrupt(clean, classes, share, seed)
    assert (noisy != clean).sum() == round(share * n)
    assert np.array_equal(clean, before)
    assert ((noisy >= 0) & (noisy < classes)).all()


def test_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\]; got 60"):
        embedded.corrupt(np.zeros(3, dtype=np.int64), 2, 60, 0)


def test_unknown_set_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"embedded set must be one of .*; got 'irsi' \(did you mean 'iris'\?\)"):
        embedded.load("irsi")


def test_the_default_is_listed_first() -> None:
    assert embedded.names()[0] == embedded.DEFAULT == "digits-noisy"
