"""Task.from_arrays: splits that share no row, and nothing learnt from rows held out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimand.study.models import linear
from minimand.study.task import Task, split_rows


def numbered(rows: int) -> np.ndarray:
    """Inputs whose first column is the row number."""
    return np.stack([np.arange(rows), np.ones(rows)], axis=1).astype(np.float32)


def rows_of(task: Task) -> list[list[int]]:
    return [split.inputs[:, 0].int().tolist() for split in (task.train, task.validation, task.test)]


def test_every_row_is_in_one_split():
    parts = rows_of(Task.from_arrays(numbered(101), np.arange(101) % 3, model=linear))
    assert sorted(row for part in parts for row in part) == list(range(101))


def test_rows_keep_their_targets():
    target = np.arange(60) % 4
    task = Task.from_arrays(numbered(60), target, model=linear)
    for split in (task.train, task.validation, task.test):
        np.testing.assert_array_equal(split.target, target[split.inputs[:, 0].int()])


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6).filter(lambda counts: sum(counts) >= 12),
    validation=st.floats(0.1, 0.45),
    test=st.floats(0.1, 0.45),
    seed=st.integers(0, 9),
)
def test_every_class_gives_each_split_its_share_and_keeps_a_training_row(counts, validation, test, seed):
    target = np.repeat(np.arange(len(counts)), counts)
    parts = split_rows(target, "classification", validation, test, seed)
    train, validated, tested = (
        np.bincount(target[parts[split]], minlength=len(counts)) for split in ("train", "validation", "test")
    )
    assert train.min() >= 1
    assert np.all(np.abs(tested - test * np.array(counts)) <= 1)
    assert np.all((np.abs(validated - validation * np.array(counts)) <= 1) | (train == 1))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(target)))


def test_the_split_follows_from_the_seed():
    first, same, other = (
        rows_of(Task.from_arrays(numbered(50), np.arange(50) % 2, model=linear, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_a_regression_target_is_standardised_by_the_training_rows_alone():
    values = np.linspace(100.0, 300.0, 50)
    extreme = (numbered(5), np.full(5, 1e6))
    task = Task.from_arrays(numbered(50), values, model=linear, test=extreme, validation=0.2)
    known = values[task.train.inputs[:, 0].int()]
    assert task.scale == pytest.approx((known.mean(), known.std()))
    assert task.train.target.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert task.train.target.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(task.test.target * task.scale[1] + task.scale[0], 1e6, rtol=1e-6)


def test_splits_that_are_given_are_used_as_they_are():
    test, validation = (numbered(4) + 1000, [0, 1, 0, 1]), (numbered(3) + 500, [1, 1, 0])
    task = Task.from_arrays(numbered(20), np.arange(20) % 2, model=linear, test=test, validation=validation)
    assert [len(part) for part in rows_of(task)] == [20, 3, 4]
    assert task.test.inputs[:, 0].tolist() == [1000, 1001, 1002, 1003]
    assert task.validation.target.tolist() == [1, 1, 0]


def test_text_targets_become_classes_with_names():
    task = Task.from_arrays(numbered(20), ["no", "yes"] * 10, model=linear, test=(numbered(2), ["yes", "no"]))
    assert (task.labels, task.num_classes, task.kind) == (("no", "yes"), 2, "classification")
    assert task.test.target.tolist() == [1, 0]


def test_labels_name_whole_numbers_in_order():
    task = Task.from_arrays(
        numbered(20), np.arange(20) % 2, model=linear, labels=["cat", "dog"], test=(numbered(2), [1, 0])
    )
    assert task.labels == ("cat", "dog")
    assert task.test.target.tolist() == [1, 0]


def test_frames_tensors_and_arrays_make_the_same_task():
    x, y = numbered(30), np.arange(30) % 3
    tasks = [
        Task.from_arrays(x, y, model=linear),
        Task.from_arrays(torch.from_numpy(x), torch.from_numpy(y), model=linear),
        Task.from_arrays(pd.DataFrame(x), pd.Series(y), model=linear),
    ]
    for other in tasks[1:]:
        assert torch.equal(tasks[0].train.inputs, other.train.inputs)
        assert torch.equal(tasks[0].test.target, other.test.target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.arange(19)}, r"target must have shape \(20,\) to match its inputs; got \(19,\)"),
        ({"inputs": np.zeros(20)}, r"inputs must have shape \(N, features\) or \(N, \.\.\.\); got \(20,\)"),
        ({"inputs": np.full((20, 2), np.nan)}, "inputs must be finite in float32; row 0 is not"),
        ({"inputs": np.full((20, 2), 1e300)}, "inputs must be finite in float32; row 0 is not"),
        ({"target": np.zeros(20, dtype=int)}, "target must have at least two classes; got 0"),
        ({"target": np.zeros(20)}, "target must vary over the training split; it is 0 throughout"),
        ({"target": np.r_[np.zeros(19), np.nan]}, "target must be finite; got nan"),
        ({"target": ["a"] * 10 + ["b"] * 9 + [None]}, "target must have a class in every row; got None"),
        ({"target": [0] * 19 + [1]}, "every class must have at least two rows; class 1 has one"),
        ({"validation": 0.6, "test": 0.5}, "shares in .* that leave training rows; got 0.6 and 0.5"),
        ({"labels": ["only", "two"], "target": np.arange(20) % 3}, "target must hold the classes 0, 1; got '2'"),
        ({"test": (np.zeros((2, 3)), [0, 1])}, r"test's inputs must have shape \('N', 2\); got \(2, 3\)"),
        ({"test": (np.zeros((2, 2)), [0, 5])}, "test's target must hold the classes 0, 1; got '5'"),
        ({"kind": "ranking"}, "kind must be one of 'classification', 'regression'; got 'ranking'"),
        ({"model": "mpl"}, "model must be one of .* got 'mpl'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
    ],
)
def test_what_cannot_be_a_task_is_refused_by_name(change, message):
    arguments = {"inputs": numbered(20), "target": np.arange(20) % 2, "model": linear, **change}
    with pytest.raises(ValueError, match=message):
        Task.from_arrays(**arguments)


def test_text_columns_are_sent_to_the_table_reader():
    with pytest.raises(TypeError, match=r"inputs must be numbers; got dtype .*read_task"):
        Task.from_arrays(pd.DataFrame({"a": ["x", "y"] * 10}), np.arange(20) % 2, model=linear)
