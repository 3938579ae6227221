"""Tables to tasks: what is read, what is decided, what is refused, and that held-out rows shape nothing."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import StandardScaler

from minimand.study.data import read_task
from minimand.study.task import Task

ROWS = 120


def mixed_frame(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Every kind of column, each with missing entries, and a target that differs in every row: y = row number."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "number": rng.normal(10, 3, rows),
            "whole": rng.integers(0, 50, rows),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "flag": rng.random(rows) < 0.5,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 400, rows), unit="D"),
            "constant": 1.0,
            "name": [f"person {i}" for i in range(rows)],
            "y": np.arange(rows, dtype=float),
        }
    )
    frame.loc[::7, "number"] = np.nan
    frame.loc[::11, "colour"] = None
    return frame


def two_classes(rows: int = 40) -> pd.DataFrame:
    return pd.DataFrame({"a": np.arange(rows) * 0.37 % 5, "y": ["no", "yes"] * (rows // 2)})


# ---------------------------------------------------------------- no leakage


def held_out_rows(task: Task) -> np.ndarray:
    """Rows of ``mixed_frame`` outside training, read back from the target, which is the row number."""
    mean, deviation = task.scale
    held_out = torch.cat([task.validation.target, task.test.target]).double().numpy() * deviation + mean
    return np.round(held_out).astype(int)


def check_no_leak(read: Callable[[pd.DataFrame], Task], frame: pd.DataFrame) -> None:
    """AssertionError unless training inputs stay the same, bit for bit, whatever held-out rows hold."""
    clean = read(frame)
    planted = frame.astype(object)
    rows = held_out_rows(clean)
    planted.loc[rows, "number"] = 1e6
    planted.loc[rows, "whole"] = None
    planted.loc[rows, "colour"] = "never seen"
    planted.loc[rows, "flag"] = None
    planted.loc[rows, "day"] = pd.Timestamp("1901-12-24")
    planted.loc[rows, "constant"] = 77.0
    planted.loc[rows, "name"] = "all the same"
    planted = planted.infer_objects()
    after = read(planted)
    assert not torch.equal(after.test.inputs, clean.test.inputs), "nothing was planted"
    assert torch.equal(after.train.inputs, clean.train.inputs), "held-out rows changed training inputs"
    assert torch.equal(after.train.target, clean.train.target)


def test_held_out_rows_change_no_training_input() -> None:
    check_no_leak(lambda frame: read_task(frame, "y"), mixed_frame())


class PeekingScaler(TransformerMixin, BaseEstimator):
    """A planted leak: it scales by all rows, those it is not fitted on too."""

    def __init__(self, every_row: pd.DataFrame) -> None:
        self.every_row = every_row

    def fit(self, frame: pd.DataFrame, y: object = None) -> PeekingScaler:
        self.scaler_ = StandardScaler().fit(self._numbers(self.every_row))
        return self

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        return self.scaler_.transform(self._numbers(frame))

    def _numbers(self, frame: pd.DataFrame) -> np.ndarray:
        return frame[["number", "whole"]].astype(float).fillna(0).to_numpy()


def test_planted_leak_is_caught() -> None:
    with pytest.raises(AssertionError, match="held-out rows changed training inputs"):
        check_no_leak(lambda frame: read_task(frame, "y", transformer=PeekingScaler(frame)), mixed_frame())


def test_held_out_targets_change_neither_scale_nor_training_targets() -> None:
    frame = mixed_frame()
    clean = read_task(frame, "y")
    rows = held_out_rows(clean)
    frame.loc[rows, "y"] *= 1e6
    after = read_task(frame, "y")
    assert after.scale == clean.scale
    assert torch.equal(after.train.target, clean.train.target)


def test_text_in_a_held_out_row_of_a_number_column_is_missing_there_and_changes_nothing_else(tmp_path: Path) -> None:
    frame = mixed_frame()[["number", "whole", "y"]]
    clean = read_task(frame, "y")
    row = held_out_rows(clean)[-1]
    planted = frame.astype({"whole": object})
    planted.loc[row, "whole"] = "n/k"
    path = tmp_path / "planted.csv"
    planted.to_csv(path, index=False)
    after = read_task(path, "y")
    torch.testing.assert_close(after.train.inputs, clean.train.inputs, rtol=1e-6, atol=1e-6)


def test_pictures_are_scaled_by_training_rows_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((50, 4, 4)), np.arange(50.0)
    np.savez(tmp_path / "clean.npz", X=x, y=y)
    clean = read_task(tmp_path / "clean.npz")
    x[held_out_rows(clean)] = 1e3
    np.savez(tmp_path / "planted.npz", X=x, y=y)
    assert torch.equal(read_task(tmp_path / "planted.npz").train.inputs, clean.train.inputs)


# ---------------------------------------------------------------- what is read


def by_format(frame: pd.DataFrame, folder: Path) -> dict[str, Path]:
    paths = {suffix: folder / f"table.{suffix}" for suffix in ("csv", "tsv", "parquet", "feather", "arrow", "npz")}
    frame.to_csv(paths["csv"], index=False)
    frame.to_csv(paths["tsv"], index=False, sep="\t")
    frame.to_parquet(paths["parquet"])
    frame.to_feather(paths["feather"])
    import pyarrow as pa

    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(paths["arrow"]), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    np.savez(paths["npz"], X=frame.drop(columns="y").to_numpy(), y=frame["y"].to_numpy())
    return paths


def test_every_format_gives_the_same_task(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 3)).round(6), columns=["a", "b", "c"])
    frame["y"] = rng.integers(0, 3, 60)
    expected = read_task(frame, "y")
    for suffix, path in by_format(frame, tmp_path).items():
        task = read_task(path, "y")
        torch.testing.assert_close(task.train.inputs, expected.train.inputs, msg=suffix)
        assert torch.equal(task.test.target, expected.test.target), suffix


def test_semicolons_and_a_byte_order_mark_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    two_classes().to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    assert read_task(path, "y").num_features == 1


def test_question_mark_is_a_missing_value(tmp_path: Path) -> None:
    frame = two_classes().astype(object)
    frame.loc[::4, "a"] = "?"
    path = tmp_path / "old.csv"
    frame.to_csv(path, index=False)
    task = read_task(path, "y")
    assert task.num_features == 2  # the number, and whether it was there
    assert task.facts["Missing values"] == "'a' (10)"


@pytest.mark.parametrize(
    ("shape", "inputs"),
    [((30, 8, 8), (1, 8, 8)), ((30, 3, 4, 5), (3, 4, 5)), ((30, 6, 5, 3), (3, 6, 5))],
)
def test_pictures_reach_a_factory_of_the_user_channels_first_and_named_models_flat(
    tmp_path: Path, shape: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "p.npz", X=np.random.default_rng(0).random(shape), y=np.arange(30) % 2)

    def factory(num_features: int, num_outputs: int) -> torch.nn.Module:
        assert num_features == inputs[0]
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(num_outputs))

    assert read_task(tmp_path / "p.npz", model=factory).train.inputs.shape[1:] == inputs
    for name in ("mlp", "cnn"):
        assert read_task(tmp_path / "p.npz", model=name).num_features == int(np.prod(inputs))


def test_npz_target_is_found_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", pixels=np.random.default_rng(0).random((20, 3)), label=np.arange(20) % 2)
    assert read_task(tmp_path / "n.npz", "label").num_features == 3


def test_column_of_an_embedded_set_can_be_the_target() -> None:
    task = read_task("iris", "petal width (cm)")
    assert task.kind == "regression"
    assert task.num_features == 3 + 3  # the other measures, and the species


# ---------------------------------------------------------------- what is decided


@pytest.mark.parametrize(
    ("target", "kind", "outputs"),
    [
        (["a", "b"] * 20, "classification", 2),
        ([True, False] * 20, "classification", 2),
        ([0, 1, 2, 3] * 10, "classification", 4),
        ([0.0, 1.0] * 20, "classification", 2),
        (["0", "1"] * 20, "classification", 2),
        (pd.Categorical([7, 9] * 20), "classification", 2),
        (list(range(40)), "regression", 0),
        ([0.5, 1.5] * 20, "regression", 0),
        ([str(i / 3) for i in range(40)], "regression", 0),
    ],
)
def test_kind_is_inferred_and_said(target, kind: str, outputs: int) -> None:
    task = read_task(pd.DataFrame({"a": np.arange(40) * 0.1, "y": target}), "y")
    assert (task.kind, task.num_classes) == (kind, outputs)
    assert task.facts["Kind"].startswith(f"{kind} (inferred: ")


def test_kind_can_be_given() -> None:
    frame = pd.DataFrame({"a": np.arange(40) * 0.1, "y": [1, 2, 3, 4] * 10})
    task = read_task(frame, "y", kind="regression")
    assert (task.kind, task.metric.name, task.facts["Kind"]) == ("regression", "r2", "regression (as given)")


def test_columns_are_typed() -> None:
    task = read_task(mixed_frame(), "y")
    assert task.facts["Columns"] == "7: 2 numbers, 1 date, 2 categories, 2 dropped"
    assert task.facts["Dropped columns"] == "'constant' (constant), 'name' (a different text in nearly every row)"
    # number, whole, whether number is missing, days, month, weekday; 3 colours and none; 2 truths
    assert task.num_features == 6 + 4 + 2


def test_row_number_under_an_id_name_is_dropped() -> None:
    ids = {name: range(40) for name in ("Unnamed: 0", "customer_id", "PassengerId", "ID")}
    task = read_task(two_classes().assign(**ids, humid=range(40)), "y")
    assert task.num_features == 2  # "a" and "humid"
    assert task.facts["Dropped columns"].count("a number that names the row") == 4


def test_dates_become_days_and_the_parts_that_vary() -> None:
    days = pd.Timestamp("2024-03-04") + pd.to_timedelta(np.arange(40) * 7, unit="D")  # Mondays at midnight
    for column in (days, days.strftime("%Y-%m-%d"), [d.date() for d in days], days.tz_localize("Europe/Paris")):
        task = read_task(pd.DataFrame({"when": column, "y": [0, 1] * 20}), "y")
        assert task.facts["Columns"] == "1: 1 date"
    assert read_task(pd.DataFrame({"when": days, "y": [0, 1] * 20}), "y").num_features == 2  # days, month


def test_training_inputs_have_mean_0_and_deviation_1() -> None:
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(50, 9, 100), "y": [0, 1] * 50})
    inputs = read_task(frame, "y").train.inputs.double()
    assert inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert inputs.std(unbiased=False).item() == pytest.approx(1, abs=1e-6)


def test_regression_target_is_scaled_by_training_rows() -> None:
    frame = pd.DataFrame({"a": np.arange(100.0), "y": np.random.default_rng(0).normal(50, 9, 100)})
    task = read_task(frame, "y")
    assert task.train.target.double().mean().item() == pytest.approx(0, abs=1e-6)
    everything = torch.cat([s.target for s in (task.train, task.validation, task.test)]).double().numpy()
    back = np.sort(everything * task.scale[1] + task.scale[0])
    np.testing.assert_allclose(back, np.sort(frame["y"]), rtol=1e-5)


def test_unseen_category_counts_as_a_rare_one() -> None:
    colours = ["red"] * 60 + ["green"] * 50 + [f"rare{i % 4}" for i in range(10)]
    frame = pd.DataFrame({"colour": colours, "y": np.random.default_rng(0).permutation(np.arange(120.0))})
    clean = read_task(frame, "y")
    assert clean.num_features == 3  # red, green, rare
    frame.loc[frame["y"].isin(held_out_rows(clean)), "colour"] = "unseen"
    after = read_task(frame, "y")
    rare = torch.tensor([0.0, 0.0, 1.0])
    assert (after.test.inputs == rare).all()


def test_split_is_55_20_25_and_keeps_the_shares_of_classes() -> None:
    frame = pd.DataFrame({"a": np.arange(200.0), "y": ["a"] * 120 + ["b"] * 80})
    task = read_task(frame, "y")
    counts = [torch.bincount(s.target).tolist() for s in (task.train, task.validation, task.test)]
    np.testing.assert_allclose(counts, [[66, 44], [24, 16], [30, 20]], atol=1)
    assert [sum(c) for c in counts] == [110, 40, 50]


def test_every_row_lands_in_one_split() -> None:
    task = read_task(pd.DataFrame({"a": np.arange(101.0), "y": np.arange(101) % 2}), "y")
    inputs = torch.cat([s.inputs for s in (task.train, task.validation, task.test)]).squeeze(1)
    assert len(inputs.unique()) == 101


def test_class_of_two_rows_is_trained_on_and_said_where_it_is_not_tested() -> None:
    frame = pd.DataFrame({"a": np.arange(42.0), "y": ["often"] * 40 + ["rare"] * 2})
    for seed in range(6):
        task = read_task(frame, "y", seed=seed)
        assert (task.train.target == 1).any()
        assert ("Not in test" in task.facts) == (not (task.test.target == 1).any())


def test_seed_decides_the_split() -> None:
    frame = mixed_frame()
    first, again, other = (read_task(frame, "y", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.target, other.train.target)


def test_rows_without_target_are_dropped_when_asked_and_said() -> None:
    frame = two_classes()
    frame.loc[:3, "y"] = None
    task = read_task(frame, "y", missing_target="drop")
    assert sum(map(len, (task.train, task.validation, task.test))) == 36
    assert task.facts["Rows without target"] == "4 of 40 were left out"


def test_copies_across_splits_are_said() -> None:
    task = read_task(pd.DataFrame({"a": [1.0, 2.0] * 20, "y": [0, 1] * 20}), "y")
    assert task.facts["Copies"] == "10 of the test rows have the same inputs as a training row"


def test_task_travels_to_workers() -> None:
    task = pickle.loads(pickle.dumps(read_task("digits", model="cnn")))
    assert task.model(64, 10)(task.test.inputs[:2]).shape == (2, 10)


# ---------------------------------------------------------------- what is refused


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("t.csv", "", "DATA .* is empty"),
    "header only": ("t.csv", "a,y\n", "DATA t must have rows; it has none"),
    "ragged": ("t.csv", "a,y\n1,2\n1,2,3\n", "DATA .* is not a csv table: .*line 3"),
    "long rows": ("t.csv", "a,y\n1,2,3\n1,2,3\n", "DATA .* is not a csv table"),
    "binary": ("t.csv", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "DATA .* must be text in UTF-8"),
    "one column": ("t.csv", "y\n1\n2\n", "columns beside the target 'y'"),
    "suffix": ("t.xlsx", "hello", r"DATA must end in \.csv, \.tsv, .*; got 't.xlsx'"),
    "parquet": ("t.parquet", b"PAR1 nonsense", "DATA .* is not a parquet table"),
    "arrow": ("t.arrow", b"nonsense", "DATA .* is not a arrow table"),
    "npz": ("t.npz", b"nonsense", "DATA .* is not a npz table"),
    "infinite": ("t.csv", "a,y\n" + "1,0\ninf,1\n" * 9, "column 'a' must hold finite numbers of at most 1e\\+30"),
    "huge": ("t.csv", "a,y\n" + "1,0\n1e200,1\n" * 9, "column 'a' must hold finite numbers .* got 1e\\+200 in row"),
    "infinite target": (
        "t.csv",
        "a,y\n" + "1,0.5\n2,-inf\n" * 9,
        "target 'y' must be finite and .*; got -inf in row 1",
    ),
    "missing target": (
        "t.csv",
        "a,y\n" + "1,0\n2,1\n" * 9 + "3,\n",
        "target 'y' is missing in 1 of 19 rows, first in row 18",
    ),
    "no target": ("t.csv", "a,y\n" + "1,\n" * 9, "target 'y' must hold values; all 9 rows miss it"),
    "few rows": ("t.csv", "a,y\n" + "1,0\n2,1\n" * 4, "DATA must have at least 10 rows with a target; t has 8"),
    "constant target": ("t.csv", "a,y\n" + "1,3.5\n" * 12, "target 'y' must vary; every row holds 3.5"),
    "one class": ("t.csv", "a,y\n" + "1,no\n" * 12, "target 'y' must have at least two classes; every row holds 'no'"),
    "rare class": ("t.csv", "a,y\n" + "1,no\n" * 12 + "1,yes\n", "at least 2 rows a class; class 'yes' has 1"),
    "nothing to tell rows apart": (
        "t.csv",
        "a,y\n" + "1,no\n1,yes\n" * 12,
        "a column that tells rows apart; .*a: constant",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, content, said = BAD_FILES[case]
    with pytest.raises(ValueError, match=said) as caught:
        read_task(write(tmp_path / name, content), "y")
    assert "\n" not in str(caught.value)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "flowers.csv", "a,y\n")
    with pytest.raises(FileNotFoundError, match=r"no file .*flower\.csv.*did you mean '.*flowers\.csv'"):
        read_task(tmp_path / "flower.csv", "y")
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        read_task("digit", "y")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, r"target must name the column to predict; DataFrame has a, y"),
        ({"target": "Y2"}, r"target must be one of a, y; got 'Y2'"),
        ({"target": "y", "metric": "acuracy"}, r"did you mean 'accuracy'"),
        ({"target": "y", "metric": "r2"}, r"'r2' is for regression, this task is classification"),
        ({"target": "y", "model": "mpl"}, r"model must be one of mlp, .*did you mean 'mlp'"),
        ({"target": "y", "model": "cnn"}, r"model 'cnn' takes pictures"),
        ({"target": "y", "kind": "regression"}, r"target 'y' must hold numbers for regression; got text such as 'no'"),
        ({"target": "y", "kind": "ranking"}, r"kind must be one of 'classification', 'regression'"),
    ],
)
def test_bad_argument_is_named(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_task(two_classes(), **arguments)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([[1, 2]] * 40, "column 'odd' must hold numbers, text, true/false or dates; got a list"),
        ([1j] * 40, "column 'odd' must hold .*; got complex numbers"),
    ],
)
def test_column_that_is_no_number_text_or_date_is_named(column: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_task(two_classes().assign(odd=column), "y")


@pytest.mark.parametrize(
    "target",
    [pd.date_range("2024-01-01", periods=40), [datetime.date(2024, 1, 1 + i % 9) for i in range(40)], [1j] * 40],
)
def test_target_that_is_neither_number_nor_label_is_refused(target) -> None:
    with pytest.raises(ValueError, match="target 'y' must hold"):
        read_task(pd.DataFrame({"a": np.arange(40.0), "y": target}), "y")


def test_repeated_column_names_of_a_frame_are_refused() -> None:
    frame = pd.DataFrame(np.zeros((20, 3)), columns=["a", "a", "y"])
    with pytest.raises(ValueError, match="columns must have distinct names; DataFrame has 'a' twice"):
        read_task(frame, "y")


def test_a_10_gb_file_is_refused_with_the_limit_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)  # a hole: it takes no disk
    with pytest.raises(
        ValueError, match=r"large.csv is 10\.0 GB and would take about 40\.0 GB of memory; at most 1\.0 GB"
    ):
        read_task(path, "y", max_bytes=1_000_000_000)


def test_archive_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", X=np.zeros((1000, 1000)), y=np.zeros(1000))
    assert (tmp_path / "bomb.npz").stat().st_size < 50_000
    with pytest.raises(ValueError, match=r"would take about 20\.0 MB of memory; at most 1\.0 MB"):
        read_task(tmp_path / "bomb.npz", max_bytes=1_000_000)


class Shout:
    """What a pickle can do: run anything."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("pwned"),))


def test_pickles_in_an_archive_are_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", X=np.array([Shout()] * 20, dtype=object), y=np.zeros(20))
    with pytest.raises(ValueError, match="holds pickled objects, which are never loaded"):
        read_task("objects.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Shout()))
    with pytest.raises(ValueError, match=r"is not a npz table|pickled objects"):
        read_task("pickle.npz")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": np.zeros((9, 2))}, "target must be one of X; got 'y'"),
        ({"y": np.zeros(9)}, "must hold one array of inputs, or one called 'X'; got none"),
        ({"a": np.zeros(9), "b": np.zeros(9), "y": np.zeros(9)}, "one called 'X'; got a, b"),
        ({"X": np.zeros((8, 2)), "y": np.zeros(9)}, r"X must have shape \(9, features\), .* got \(8, 2\)"),
        ({"X": np.zeros((9, 2)), "y": np.zeros((9, 2))}, r"y must have shape \(N,\); got \(9, 2\)"),
        ({"X": np.full((9, 2, 2), "a"), "y": np.zeros(9)}, "pictures X must be real numbers"),
    ],
)
def test_archive_without_matching_arrays_is_refused(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        read_task(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("metric", "target", "said"),
    [
        ("f1", ["no"] * 40 + ["yes"] * 2, "metric 'f1' is undefined on the (validation|test) split, .* the classes no"),
        ("roc_auc", ["no"] * 40 + ["yes"] * 2, "metric 'roc_auc' is undefined"),
        ("r2", [1.5] * 40 + [2.5, 3.5], "metric 'r2' is undefined on the (validation|test) split, .* one value"),
    ],
)
def test_metric_that_a_split_leaves_undefined_is_refused(metric: str, target: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_task(pd.DataFrame({"a": np.arange(42.0), "y": target}), "y", metric)


def test_pictures_with_nan_are_refused(tmp_path: Path) -> None:
    x = np.zeros((20, 4, 4))
    x[3, 1, 2] = np.nan
    np.savez(tmp_path / "t.npz", X=x, y=np.arange(20) % 2)
    with pytest.raises(ValueError, match="must hold finite pixels; got nan"):
        read_task(tmp_path / "t.npz")


columns = st.one_of(
    hnp.arrays(np.float64, 24, elements=st.floats(-1e9, 1e9, width=32) | st.just(np.nan)),
    hnp.arrays(np.int64, 24, elements=st.integers(-5, 5)),
    st.lists(st.none() | st.text(max_size=3), min_size=24, max_size=24),
    st.lists(st.none() | st.booleans(), min_size=24, max_size=24),
    st.lists(st.none() | st.integers(0, 3) | st.sampled_from(["a", "2024-01-01"]), min_size=24, max_size=24),
    st.lists(
        st.none() | st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)), min_size=24, max_size=24
    ),
)


def message_or_task(frame: pd.DataFrame) -> str | Task:
    try:
        return read_task(frame, "y", missing_target="drop")
    except ValueError as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(columns, min_size=1, max_size=3), columns)
def test_any_table_gives_finite_inputs_or_one_line(inputs: list, target) -> None:
    found = message_or_task(pd.DataFrame({f"c{i}": column for i, column in enumerate(inputs)} | {"y": target}))
    if isinstance(found, str):
        assert "\n" not in found
        assert any(word in found for word in ("target", "column", "DATA"))
        return
    for split in (found.train, found.validation, found.test):
        assert len(split) >= 1
        assert torch.isfinite(split.inputs).all()
        assert torch.isfinite(split.target.double()).all()
