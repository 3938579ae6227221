"""What is written on the command line is taken apart as it was put together, or refused in one line."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minimand.cli.parsing import PRESETS, parse_budget, parse_try
from minimand.study.trial import Budget

KEYS = {"steps": "steps", "batch": "batch_size", "candidates": "candidates", "points": "curve_points"}
names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)
numbers = st.floats(-1e6, 1e6).map("{:g}".format)
choices = st.tuples(names, st.lists(st.tuples(names, numbers), max_size=3, unique_by=lambda pair: pair[0]))


def refused(parse, text) -> str:
    """The message of a refusal, "" where it was understood."""
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return ""


@given(
    st.none() | st.sampled_from(sorted(PRESETS)),
    st.dictionaries(st.sampled_from(sorted(KEYS)), st.integers(1, 10**9 - 1)),
)
def test_budget_is_the_preset_with_the_numbers_that_were_set(preset: str | None, values: dict[str, int]) -> None:
    text = ",".join([*([preset] if preset else []), *(f"{key} = {value}" for key, value in values.items())])
    if not text:
        return
    budget = parse_budget(text)
    base = PRESETS[preset or "standard"]
    for key, field in KEYS.items():
        assert getattr(budget, field) == values.get(key, getattr(base, field))


@given(st.text(max_size=40))
def test_any_budget_is_understood_or_refused_in_one_line_that_names_the_option(text: str) -> None:
    message = refused(parse_budget, text)
    assert not message or message.startswith("--budget")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quik", "--budget must be one of quick, standard, thorough, .*; got 'quik' .did you mean 'quick'"),
        ("step=5", "--budget: what is set must be one of steps, .*; got 'step' .did you mean 'steps'"),
        ("steps=0", "--budget: steps must be a whole number from 1 to 999999999; got '0'"),
        ("steps=1e3", "steps must be a whole number .*; got '1e3'"),
        ("steps=-5", "steps must be a whole number .*; got '-5'"),
        ("steps=" + "9" * 5000, "steps must be a whole number"),
        ("steps=1,steps=2", "--budget sets steps twice"),
        ("quick,thorough", "--budget takes one preset; got 'quick' and 'thorough'"),
        ("quick,", "--budget must have something between its commas; got 'quick,'"),
        ("", "--budget must have something between its commas; got ''"),
    ],
)
def test_budget_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_budget(text)


def test_standard_budget_is_the_studys_default() -> None:
    assert parse_budget("standard") == Budget()


@given(
    st.dictionaries(
        names, st.lists(choices, min_size=1, max_size=4, unique_by=lambda choice: choice[0]), min_size=1, max_size=3
    )
)
def test_try_comes_back_as_written_with_colons_and_with_parentheses(grid: dict) -> None:
    colons = {
        axis: [":".join([name, *(f"{k}={v}" for k, v in fixed)]) for name, fixed in each] for axis, each in grid.items()
    }
    brackets = [
        f"{axis}="
        + ", ".join(name + (f"({', '.join(f'{k}={v}' for k, v in fixed)})" if fixed else "") for name, fixed in each)
        for axis, each in grid.items()
    ]
    assert parse_try([f"{axis}={','.join(each)}" for axis, each in colons.items()]) == colons
    assert parse_try(brackets) == colons


@given(st.lists(st.text("ab=,:() \n", max_size=12), min_size=1, max_size=3))
def test_any_try_is_understood_or_refused_naming_the_option(texts: list[str]) -> None:
    message = refused(parse_try, texts)
    assert not message or message.startswith("--try")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["loss"], r"--try must be written AXIS=a,b,c, as in loss=cross_entropy,gce; got 'loss'"),
        (["=a"], r"--try must be written AXIS=a,b,c"),
        (["loss="], r"--try loss must have something between its commas; got ''"),
        (["loss=a,,b"], r"--try loss must have something between its commas; got 'a,,b'"),
        (["loss=ldr(lam=1"], r"--try loss must have matching parentheses; got 'ldr\(lam=1'"),
        (["loss=ldr)"], r"--try loss must have matching parentheses"),
        (
            ["loss=ldr(lam=1)x"],
            r"a choice is written name, name:hyper=value or name\(hyper=value\); got 'ldr\(lam=1\)x'",
        ),
        (["loss=a", "loss=b,a"], r"--try loss has 'a' twice"),
    ],
)
def test_try_that_makes_no_sense_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_try(texts)


def test_axis_that_comes_again_gets_more_choices() -> None:
    assert parse_try(["loss=a", "rule=x", "loss=b"]) == {"loss": ["a", "b"], "rule": ["x"]}
