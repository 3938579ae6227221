"""What is shown of a result: units, signs, words, and nothing that a file's text could do to a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from minimand.cli.show import View, header, show
from minimand.cli.terminal import plain
from minimand.study.result import StudyResult
from tests.cli.results import row, study, task

BETTER = row("ldr", 0.871, "better", gain=0.221)
WORSE = row("mae", 0.500, "worse", gain=-0.150)
OPEN = row("focal", 0.655, "undecided", gain=0.005)
BASELINE = row("cross_entropy", 0.650, "baseline")


def text(result: StudyResult, width: int = 140) -> str:
    out = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    show(result, out)
    return out.file.getvalue()  # type: ignore[attr-defined]


def lines(result: StudyResult) -> list[str]:
    return [line.plain for line in View(result).conclusions()]


def test_share_is_shown_in_percent_and_its_differences_in_points() -> None:
    assert lines(study([BETTER, BASELINE])) == [
        "Resolved: ldr is better than cross_entropy by 22.1 points [20.1, 24.1], p < 0.001."
    ]
    shown = text(study([BETTER, BASELINE]))
    assert "accuracy in %" in shown
    assert "87.1 [85.1, 89.1]" in shown
    assert "+22.1 [+20.1, +24.1]" in shown


def test_error_in_the_targets_units_is_shown_as_it_is() -> None:
    rows = [row("huber", 12.0, "better", gain=3.0, half=1.0), row("mse", 15.0, "baseline", half=1.0)]
    assert lines(study(rows, "rmse")) == ["Resolved: huber is better than mse by 3.0 [2.0, 4.0], p < 0.001."]
    assert "12.0 [11.0, 13.0]" in text(study(rows, "rmse"))


def test_worse_is_told_by_its_size() -> None:
    assert lines(study([BASELINE, WORSE])) == [
        "Resolved: mae is worse than cross_entropy by 15.0 points [13.0, 17.0], p < 0.001."
    ]


def test_what_is_open_is_said_with_its_interval() -> None:
    assert lines(study([OPEN, BASELINE])) == ["Not resolved: focal (+0.5 [−1.5, +2.5]) points."]


def test_rows_are_ranked_as_the_study_ranked_them() -> None:
    shown = text(study([BETTER, OPEN, BASELINE, WORSE])).splitlines()
    ranked = [line.split()[:2] for line in shown if line.strip()[:1].isdigit()]
    assert ranked == [["1", "ldr"], ["2", "focal"], ["3", "cross_entropy"], ["4", "mae"]]


def test_failed_trials_are_counted_only_where_there_are_any() -> None:
    failed = replace(WORSE, diverged=2, crashed=1, errors=("RuntimeError: out of luck",))
    assert "3" in next(line for line in text(study([BASELINE, failed])).splitlines() if " mae" in line)
    assert lines(study([BASELINE, failed]))[-1] == (
        "2 trials diverged and 1 trial crashed: mae; they count against it: RuntimeError: out of luck"
    )
    assert "did not" not in text(study([BASELINE, WORSE]))


def test_notes_are_shown() -> None:
    assert lines(study([BASELINE], notes=("4 seeds resolve nothing",))) == ["Note: 4 seeds resolve nothing"]


def test_80_columns_keep_what_decides_and_cut_no_number() -> None:
    shown = text(study([BETTER, BASELINE]), 80)
    assert max(map(len, shown.splitlines())) <= 80
    for piece in ("87.1 [85.1, 89.1]", "+22.1 [+20.1, +24.1]", "better", "baseline"):
        assert piece in shown
    assert "parameters" not in shown
    assert "…" not in shown


def test_a_wide_terminal_shows_time_parameters_and_p() -> None:
    shown = text(study([BETTER, BASELINE]), 120)
    for piece in ("parameters", "8\u202f970", "3.2 s", "p (Holm)", "< 0.001"):
        assert piece in shown


@pytest.mark.parametrize("width", [20, 40])
def test_the_narrowest_terminal_folds_and_loses_nothing(width: int) -> None:
    shown = "".join(text(study([BETTER, BASELINE]), width).split())
    assert "…" not in shown
    assert "ldr" in shown


def test_control_characters_of_a_file_never_reach_the_terminal() -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J[red]name[/red]"
    shown = text(study([replace(BETTER, name=evil), replace(BASELINE, name="base\x1b[8m")]))
    shown += "".join(str(cell) for cell in header(task(name=evil), [("Methods", evil)]).columns[1].cells)
    assert not any(sign in shown for sign in "\x1b\x07")
    assert "[red]name[/red]" in shown
    assert r"\x1b" in shown


def test_plain_text_is_left_alone() -> None:
    assert plain("Größe in µm – ok") == "Größe in µm – ok"
    assert plain("two\nlines") == r"two\nlines"


def test_metric_of_the_users_own_has_no_unit() -> None:
    result = study([BETTER, BASELINE])
    own = replace(result, task=replace(result.task, metric=replace(result.task.metric, name="profit")))
    assert lines(own) == ["Resolved: ldr is better than cross_entropy by 0.221 [0.201, 0.241], p < 0.001."]
