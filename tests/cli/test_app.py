"""The command as a whole: help that answers at once, the version, ``python -m minimand``, and ``minimand parts``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import minimand
from minimand.cli.app import app
from minimand.cli.parts import all_parts, search
from minimand.study.choices import AXES, choices


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_help_imports_neither_torch_nor_pandas() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom minimand.cli.app import app\n"
        "for arguments in (['--help'], ['compare', '--help'], ['parts', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "print([name for name in ('torch', 'pandas', 'sklearn', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_version_from_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "minimand", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"minimand {minimand.__version__}\n"


def test_no_command_shows_the_help() -> None:
    assert "compare" in run().output


def test_unknown_command_ends_with_code_2() -> None:
    assert run("compar").exit_code == 2


def test_every_choice_of_every_axis_is_listed() -> None:
    listed = {(part.axis, part.name) for part in all_parts()}
    assert {(choice.axis, choice.name) for choice in choices()} <= listed
    assert {part.axis for part in all_parts()} == {*AXES, "metric", "data"}


def test_every_part_has_a_line_of_its_own() -> None:
    for part in all_parts():
        assert part.summary, part
        assert "\n" not in part.summary


@pytest.mark.parametrize(
    ("query", "axis", "found"),
    [
        ("focal", None, {"focal"}),
        ("lion_n", None, {"lion_nuclear"}),
        ("FOCAL", "loss", {"focal"}),
        ("digits", "data", {"digits", "digits-noisy"}),
        ("", "schedule", {"constant", "cosine", "linear", "inverse_sqrt", "step"}),
    ],
)
def test_parts_are_found_by_prefix(query: str, axis: str | None, found: set[str]) -> None:
    parts, asked = search(query, axis)
    assert ({part.name for part in parts}, asked) == (found, True)


@pytest.mark.parametrize(("typed", "meant"), [("foacl", "focal"), ("crossentrpy", "cross_entropy"), ("adamv", "adamw")])
def test_mistyped_part_gets_the_nearest(typed: str, meant: str) -> None:
    parts, asked = search(typed, None)
    assert not asked
    assert parts
    assert meant in {part.name for part in parts}
    result = run("parts", typed)
    assert result.exit_code == 0
    assert f"No name starts with '{typed}'; the nearest:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["zzzzz"], "no part is called anything like 'zzzzz'"), (["--axis", "lose"], "(did you mean 'loss'?)")],
)
def test_query_like_nothing_and_unknown_axis_end_with_code_2(arguments: list[str], said: str) -> None:
    result = run("parts", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_one_part_alone_shows_its_numbers_and_source() -> None:
    shown = run("parts", "focal").stdout
    assert "arXiv:1708.02002" in shown
    assert "gamma" in shown
    assert "[0, inf)" in shown


def test_json_holds_axis_name_line_source_and_numbers() -> None:
    (part,) = json.loads(run("parts", "gce", "--json").stdout)
    assert (part["axis"], part["name"], part["kinds"]) == ("loss", "gce", ["classification"])
    assert "1805.07836" in part["source"]
    assert set(part["hypers"]["q"]) == {"default", "range", "searched"}
    assert part["hypers"]["q"]["searched"][0] < part["hypers"]["q"]["searched"][1]
