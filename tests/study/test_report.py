"""The report's files against what they must hold, read back with other tools than those that wrote them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from minimand.study import report
from minimand.study.charts import Band, Plot, Scale
from minimand.study.page import View, page
from minimand.study.report import to_json, write_report
from minimand.study.result import MethodResult, StudyResult
from minimand.study.statistics import Interval
from minimand.study.trial import CurvePoint

MakeResult = Callable[..., StudyResult]
NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def result(make_result: MakeResult) -> StudyResult:
    return make_result()


class Reader(HTMLParser):
    """What a browser would make of the page: its tags, their attributes, and the text between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", "".join(Reader(html).text)).strip()


def headline(study: StudyResult) -> str:
    return text(View(study).headline)


def findings(study: StudyResult) -> list[str]:
    return [text(finding) for finding in View(study).findings]


def named(study: StudyResult, name: str) -> MethodResult:
    return next(row for row in study.rows if row.name == name)


def with_rows(study: StudyResult, **changes: dict) -> StudyResult:
    """The study with fields of some rows changed: ``with_rows(study, gce={"verdict": "better"})``."""
    return replace(study, rows=tuple(replace(row, **changes.get(row.name, {})) for row in study.rows))


# results.json


def strictly(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_json_is_strict(result: StudyResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    json.loads((tmp_path / "results.json").read_text(), parse_constant=strictly)


def test_json_holds_every_number_bit_for_bit_and_null_for_what_is_none(result: StudyResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    for row, written in zip(result.rows, found["methods"], strict=True):
        assert written["scores"] == list(row.scores)
        assert written["interval"] == {"low": row.interval.low, "high": row.interval.high}
        assert written["hypers"] == dict(row.hypers)
        for candidate, tried in zip(row.candidates, written["candidates"], strict=True):
            assert tried["validation"] == (None if math.isnan(candidate.validation) else candidate.validation)
        points = [point for curve in row.curves for point in curve]
        steps = [point["step"] for curve in written["curves"] for point in curve]
        assert steps == [point.step for point in points]
    assert any(point["loss"] is None for row in found["methods"] for curve in row["curves"] for point in curve)


def test_json_says_what_it_is_and_misses_no_field(result: StudyResult) -> None:
    found = to_json(result)
    assert (found["format"], found["version"]) == ("minimand study", 1)
    assert set(vars(result)) - {"rows"} <= set(found)
    assert set(vars(result.rows[0])) == set(found["methods"][0])
    assert found["task"]["rows"] == {"train": 1078, "validation": 359, "test": 360}


def test_json_takes_facts_of_any_type(result: StudyResult) -> None:
    facts = {"path": Path("data.csv"), "share": np.float64(0.5), "rows": np.int64(3), "missing": math.nan, 7: [1, "x"]}
    found = to_json(replace(result, task=replace(result.task, facts=facts)))
    assert found["task"]["facts"] == {"path": "data.csv", "share": 0.5, "rows": 3, "missing": None, "7": [1, "x"]}
    json.dumps(found, allow_nan=False)


# results.csv


def test_csv_has_one_line_a_final_trial(result: StudyResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    table = pd.read_csv(tmp_path / "results.csv")
    assert len(table) == 6 * 10
    for row in result.rows:
        own = table[table["method"] == row.name]
        assert own["score"].tolist() == pytest.approx(list(row.scores), rel=1e-15)
        assert own["seed"].tolist() == list(result.seeds)
        assert (own["rule.lr"] == row.hypers["rule.lr"]).all()
        assert (own["loss"] == row.choices["loss"]).all()


def test_csv_leaves_empty_what_a_method_does_not_have(result: StudyResult, tmp_path: Path) -> None:
    write_report(result, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [score for row in result.rows for score in row.scores]
    assert {row["loss.q"] == "" for row in rows if row["method"] != "gce"} == {True}
    assert {row["loss.q"] != "" for row in rows if row["method"] == "gce"} == {True}


# writing


def test_three_files_and_nothing_else_are_written(result: StudyResult, tmp_path: Path) -> None:
    path = write_report(result, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "results.csv", "results.json"]


def test_files_that_were_there_survive_a_failed_write(
    result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(result, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(result, command="another"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_writing_again_gives_the_same_bytes(result: StudyResult, tmp_path: Path) -> None:
    first, second = (write_report(result, tmp_path / name).parent for name in ("first", "second"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_command_with_bytes_that_are_no_text_is_written(result: StudyResult, tmp_path: Path) -> None:
    write_report(replace(result, command="minimand compare caf\udce9.csv"), tmp_path)
    assert "caf\\udce9.csv" in (tmp_path / "report.html").read_text()
    json.loads((tmp_path / "results.json").read_text())


# the page


def test_users_text_is_escaped_everywhere(result: StudyResult) -> None:
    html = page(result)
    assert html.count("<script>") == 1, "the page's own"
    assert NASTY not in html
    tags = Reader(html).tags
    assert not [tag for tag, _ in tags if tag == "img"]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert NASTY in text(html), "shown as text"


def test_every_text_of_a_study_is_escaped_one_by_one(result: StudyResult) -> None:
    """Each text field in turn holds markup; the page's tags stay those of the harmless study."""
    bad = "</script></title></style></pre><script>alert(1)</script><b onmouseover=alert(1) x='\">"
    clean = [tag for tag, _ in Reader(page(result)).tags]
    one = result.rows[1]
    metric, task = replace(result.task.metric, name=bad), result.task
    changed = {
        "task": replace(task, name=bad),
        "metric": replace(task, metric=metric),
        "label": replace(task, labels=(bad, *task.labels[1:])),
        "fact": replace(task, facts={bad: bad, **dict(list(task.facts.items())[1:])}),
    }
    studies = {name: replace(result, task=task) for name, task in changed.items()}
    for field in ("engine", "command", "started", "finished"):
        studies[field] = replace(result, **{field: bad})
    studies["note"] = replace(result, notes=(bad, *result.notes[1:]))
    studies["version"] = replace(result, versions={bad: bad, **dict(list(result.versions.items())[1:])})
    named_bad = {"name": bad, "choices": {**one.choices, "loss": bad}}
    studies["method"] = with_rows(result, gce=named_bad)
    studies["baseline"] = replace(with_rows(result, cross_entropy=named_bad), baseline=bad)
    tried = tuple(replace(c, hypers={bad: c.hypers["rule.lr"]}) for c in one.candidates)
    hypers = replace(one, hypers={bad: 0.9}, candidates=tried)
    studies["error"] = with_rows(result, mae={"errors": (bad,)})
    for name, study in studies.items():
        assert [tag for tag, _ in Reader(page(study)).tags] == clean, name
        assert NASTY not in page(study), name
    html = page(replace(result, rows=(result.rows[0], hypers, *result.rows[2:])))
    assert html.count("<script>") == 1


def test_page_asks_for_nothing_outside_itself(result: StudyResult) -> None:
    html = page(result)
    addresses = [
        value
        for _, attributes in Reader(html).tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data")
    ]
    assert sorted(set(addresses), key=str) == ["#ranking", "data:,"]
    assert not re.findall(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket", html)


def test_ranking_has_one_row_a_method_in_the_studys_order(result: StudyResult) -> None:
    body = page(result).split("<tbody>")[1].split("</tbody>")[0]
    names = [re.search(r'<bdi class="name">(.*?)</bdi>', row).group(1) for row in body.split("<tr")[1:]]  # type: ignore[union-attr]
    assert [text(name) for name in names] == [row.name for row in result.rows]


def test_command_is_shown_exactly(result: StudyResult) -> None:
    html = page(result)
    shown = html.split('<pre id="command" tabindex="0">')[1].split("</pre>")[0]
    assert "".join(Reader(shown).text) == result.command


def test_headings_descend_without_a_gap(result: StudyResult) -> None:
    levels = [int(tag[1]) for tag, _ in Reader(page(result)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_chart_has_a_label_or_is_hidden(result: StudyResult) -> None:
    charts = [attributes for tag, attributes in Reader(page(result)).tags if tag == "svg"]
    assert len(charts) > 20
    assert all(chart.get("aria-label") or chart.get("aria-hidden") == "true" for chart in charts)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_contrasts_with_what_is_behind_it(result: StudyResult) -> None:
    """WCAG 2.2, success criterion 1.4.3 (AA): 4.5 to 1, in every theme."""
    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in page(result).split("--paper")[1:]]
    papers = re.findall(r"--paper: (#\w+)", page(result))
    themes = [{"paper": paper, **theme} for paper, theme in zip(papers, themes, strict=False) if "ink" in theme]
    assert len(themes) >= 3
    pairs = [
        (front, back) for front in ("ink", "soft", "faint", "accent", "worse", "open") for back in ("paper", "panel")
    ]
    for theme in themes:
        for front, back in [*pairs, ("accent", "accent-soft"), ("worse", "worse-soft")]:
            light, dark = sorted((luminance(theme[front]), luminance(theme[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


# what it says


def test_headline_names_the_one_better_method(result: StudyResult) -> None:
    assert headline(result) == f"ldr_kl is better than cross_entropy on digits {NASTY}"


def test_headline_names_two_better_methods(result: StudyResult) -> None:
    assert headline(with_rows(result, gce={"verdict": "better"})).startswith("ldr_kl and gce are better than")


def test_headline_counts_many_better_methods(result: StudyResult) -> None:
    better = {"verdict": "better"}
    assert headline(with_rows(result, gce=better, focal=better)).startswith("Three of five others are better than")
    all_ = {row.name: better for row in result.rows if row.difference}
    assert headline(with_rows(result, **all_)).startswith("All five others are better than cross_entropy")


def test_headline_claims_nothing_where_nothing_is_resolved(result: StudyResult) -> None:
    open_ = {row.name: {"verdict": "undecided"} for row in result.rows if row.difference}
    assert headline(with_rows(result, **open_)) == f"No difference from cross_entropy is resolved on digits {NASTY}"
    none_better = with_rows(result, ldr_kl={"verdict": "undecided"})
    assert headline(none_better).startswith("Nothing is shown to be better than cross_entropy")


def test_headline_of_a_single_method_is_its_score(make_result: MakeResult) -> None:
    alone = make_result(only=1)
    assert headline(alone) == f"cross_entropy scores {alone.rows[0].mean:.3f} accuracy on digits {NASTY}"


def test_findings_give_size_interval_and_both_means(result: StudyResult) -> None:
    row, base = named(result, "ldr_kl"), named(result, "cross_entropy")
    assert row.difference
    low, high = row.difference.interval.low, row.difference.interval.high
    assert findings(result)[0] == (
        f"ldr_kl raises accuracy by {row.difference.mean:.3f} (95% interval {low:.3f} to {high:.3f}), "
        f"from {base.mean:.3f} to {row.mean:.3f}."
    )


def test_findings_say_that_the_worse_method_lowers_the_metric(result: StudyResult) -> None:
    assert findings(result)[1].startswith("mae lowers accuracy by 0.106 (95% interval 0.086 to 0.128)")


def test_where_less_is_better_the_better_method_lowers_the_metric(make_result: MakeResult) -> None:
    said = findings(make_result(higher_is_better=False))
    assert said[0].startswith("ldr_kl lowers log_loss by ")
    assert said[1].startswith("mae raises log_loss by ")


def test_findings_name_what_is_not_resolved_and_what_failed(result: StudyResult) -> None:
    assert findings(result)[2:] == [
        f"Not resolved: gce, any_loss {NASTY} and focal. Their differences from cross_entropy may be due to the "
        "training seeds alone.",
        "3 of 108 trials did not finish (gce 2 and mae 1); they count against their method.",
    ]


def test_findings_say_when_the_seeds_are_too_few_for_any_verdict(make_result: MakeResult) -> None:
    said = findings(make_result(seeds=4))
    assert said[0].endswith("No difference is, however large, with 4 seeds.")


def test_an_infinite_interval_is_called_none(make_result: MakeResult) -> None:
    said = text(page(make_result(seeds=1, only=2)))
    assert "no interval" in said
    assert "– to" not in said


def test_gains_are_written_to_the_digits_their_interval_has(result: StudyResult) -> None:
    """Pairing can make a gain a hundred times surer than a mean: its digits must not be rounded away."""
    row = named(result, "ldr_kl")
    assert row.difference
    sharp = replace(row.difference, mean=0.00312, interval=Interval(0.00298, 0.00326))
    few = replace(result, rows=(replace(row, difference=sharp), named(result, "cross_entropy")))
    assert "0.00312 (95% interval 0.00298 to 0.00326)" in findings(few)[0]


def test_a_trial_that_broke_off_is_told_from_one_that_finished(result: StudyResult) -> None:
    view = View(result)
    assert view.unfinished(named(result, "gce")) == [True] + [False] * 9
    assert not any(view.unfinished(named(result, "ldr_kl")))


# studies of unusual shape


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize(("seeds", "only"), [(1, 2), (2, 1), (3, 6), (1, 1)])
def test_small_studies_make_a_page(make_result: MakeResult, higher_is_better: bool, seeds: int, only: int) -> None:
    html = page(make_result(higher_is_better, seeds, only))
    assert "nan" not in re.findall(r"[\w%]+", html)
    assert "inf" not in re.findall(r"[\w%]+", html)
    assert "1 seeds" not in html


def test_a_study_without_curves_candidates_or_command_makes_a_page(result: StudyResult) -> None:
    bare = [replace(row, curves=(), candidates=(), hypers={}, errors=()) for row in result.rows]
    html = page(
        replace(result, rows=tuple(bare), command="", notes=(), versions={}, engine="", started="", finished="")
    )
    assert "Learning curves" not in html
    assert "Nothing to tune." in html
    assert "Run it again" not in html


def test_a_candidate_that_finished_without_a_score_makes_a_page(result: StudyResult) -> None:
    """A metric may be undefined on a validation split, such as the area under a curve with one class."""
    row = named(result, "ldr_kl")
    html = page(
        with_rows(result, ldr_kl={"candidates": tuple(replace(c, validation=math.nan) for c in row.candidates)})
    )
    assert "nan" not in re.findall(r"[\w%]+", html)


@pytest.mark.parametrize("size", [1e-12, 1e12, 1e305])
def test_scores_of_any_size_make_a_page(result: StudyResult, size: float) -> None:
    def scaled(row: MethodResult) -> MethodResult:
        def sized(interval: Interval) -> Interval:
            return Interval(size * interval.low, size * interval.high)

        gain = row.difference and replace(
            row.difference, mean=size * row.difference.mean, interval=sized(row.difference.interval)
        )
        return replace(
            row,
            scores=tuple(size * score for score in row.scores),
            mean=size * row.mean,
            interval=sized(row.interval),
            iqm=size * row.iqm,
            iqm_interval=sized(row.iqm_interval),
            difference=gain,
        )

    html = page(replace(result, rows=tuple(map(scaled, result.rows))))
    assert "nan" not in re.findall(r"[\w%]+", html)
    positions = [float(x) for x in re.findall(r'c?x[12]?="([\d.e+-]+)%"', html)]
    assert all(0.0 <= x <= 100.0 for x in positions)
    assert not re.findall(r"\d{12,}", text(html)), "numbers nobody could read"


def test_a_hundred_methods_make_a_page_of_bounded_size(result: StudyResult) -> None:
    row = named(result, "focal")
    many = tuple(replace(row, name=f"focal {i}") for i in range(99))
    html = page(replace(result, rows=(named(result, "cross_entropy"), *many)))
    assert len(html) < 6_000_000


# geometry


def test_axis_holds_its_values_with_room_at_both_ends() -> None:
    axis = Scale.of([0.2, 0.5, 0.9])
    assert 0.0 < axis.at(0.2) < axis.at(0.5) < axis.at(0.9) < 100.0
    assert axis.at(0.2) == pytest.approx(100.0 - axis.at(0.9))


def test_axis_of_differences_always_shows_zero() -> None:
    axis = Scale.of([5.0, 5.1, 5.2], always=[0.0])
    assert axis.side(0.0) == "on"
    assert 0.0 < axis.at(0.0) < 50.0


def test_a_value_beyond_all_proportion_falls_off_the_axis() -> None:
    axis = Scale.of([0.80, 0.81, 0.82, 0.83, 0.84, 1e6])
    assert axis.side(1e6) == "above"
    assert axis.at(1e6) == 100.0
    assert axis.at(0.84) - axis.at(0.80) > 50.0


def test_a_large_but_plain_difference_stays_on_the_axis() -> None:
    axis = Scale.of([0.65, 0.868, 0.87, 0.871, 0.872, 0.873])
    assert axis.side(0.65) == "on"


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0], [-2.0, -2.0], [math.inf, 1.0]])
def test_axis_of_little_is_still_an_axis(values: list[float]) -> None:
    axis = Scale.of(values)
    assert axis.low < axis.high
    assert all(axis.side(value) == "on" for value in values if math.isfinite(value))
    assert axis.ticks()


def test_logarithmic_axis_is_for_positive_values_far_apart() -> None:
    assert Scale.of([1e-4, 1e-1], log=True).log
    assert not Scale.of([0.5, 2.0], log=True).log
    assert not Scale.of([-1.0, 100.0], log=True).log


@pytest.mark.parametrize("low", [-3.0, 0.0, 0.013, 7e5])
@pytest.mark.parametrize("width", [1e-6, 0.37, 12.0, 9e8])
@pytest.mark.parametrize("about", [3, 5])
def test_ticks_are_few_even_and_on_the_axis(low: float, width: float, about: int) -> None:
    axis = Scale(low, low + width)
    ticks = axis.ticks(about)
    assert about / 2 <= len(ticks) <= 2 * about
    assert all(axis.side(tick.value) == "on" for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks)
    gaps = np.diff([tick.value for tick in ticks])
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-3)


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1e-1), (0.1, 5.0), (1e-20, 1e20), (3.0, 95.0)])
def test_ticks_of_a_logarithmic_axis_are_few_and_on_it(low: float, high: float) -> None:
    axis = Scale(low, high, log=True)
    ticks = axis.ticks(4)
    assert 2 <= len(ticks) <= 9
    assert all(axis.side(tick.value) == "on" for tick in ticks)


def test_band_is_the_quantiles_of_the_seeds_that_got_there() -> None:
    curves = [
        (CurvePoint(10, 1.0, 0.1), CurvePoint(20, 4.0, 0.2)),
        (CurvePoint(10, 2.0, 0.1), CurvePoint(20, math.nan, math.nan)),
        (CurvePoint(10, 3.0, 0.1),),
    ]
    band = Band.of(curves, "loss")
    assert band.steps == (10, 20)
    assert band.middle == (2.0, 4.0)
    assert band.low[0] == pytest.approx(np.percentile([1.0, 2.0, 3.0], 10))
    assert band.high[0] == pytest.approx(np.percentile([1.0, 2.0, 3.0], 90))
    assert band.low[1] == band.high[1] == 4.0


def test_paths_run_from_the_plots_left_and_up_for_more() -> None:
    plot = Plot(Scale(0.0, 10.0), Scale(0.0, 1.0), width=100.0, height=50.0)
    band = Band((0, 10), (0.0, 1.0), (0.0, 0.5), (0.5, 1.0))
    assert plot.line(band) == "M0 50L100 0"
    assert plot.area(band) == "M0 25L100 0L100 25L0 50Z"
    assert plot.area(Band((), (), (), ())) == ""
