"""The reusable holdout: its mechanisms against distributions in closed form, and its budget across studies."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import multiprocessing
import re
import sqlite3
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from minimand.cli.show import show
from minimand.study import (
    BudgetExhausted,
    EmpiricalHoldout,
    GaussianHoldout,
    Metric,
    Study,
    StudyResult,
    Thresholdout,
    compare,
    grid,
    holdout,
    metric,
)
from minimand.study.consultation import THRESHOLD, Consultation, budget_of
from minimand.study.findings import Findings
from minimand.study.ledger import LEDGER_NAME, Ledger, LedgerError
from minimand.study.page import View, page
from minimand.study.report import write_report
from minimand.study.result import HoldoutAnswer, HoldoutUse
from minimand.study.store import Store
from minimand.study.study import STORE_NAME
from minimand.study.trial import TrialResult
from tests.study.examples import QUICK, blobs

# Means of a query over the training rows and the holdout, for mechanisms with the "rows" 0 and 1.
NEAR, FAR = (0.50, 0.53), (0.50, 0.60)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# the mechanism without noise


def test_training_mean_is_told_exactly_where_the_gap_is_within_the_threshold():
    asked = Thresholdout(0, 1, threshold=0.04, sigma=0.0, budget=5)
    assert asked.answer(NEAR.__getitem__) == 0.50
    assert asked.remaining == 5


def test_holdout_mean_is_told_exactly_where_the_gap_is_wider_and_costs_one_answer():
    asked = Thresholdout(0, 1, threshold=0.04, sigma=0.0, budget=5)
    assert asked.answer(FAR.__getitem__) == 0.60
    assert asked.answer((0.6, 0.5).__getitem__) == 0.5
    assert asked.remaining == 3


def test_a_query_is_averaged_over_rows():
    rows = torch.tensor([[0.0, 1.0], [0.0, 0.5], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    asked = Thresholdout(*rows, threshold=1.0, sigma=0.0)
    assert asked.answer(lambda x: x[:, 1]) == 0.5
    assert asked.answer(lambda x: x[:, 0].numpy() > 0.5) == pytest.approx(1 / 3)


def test_identical_sets_never_spend_budget():
    rows = torch.rand(50, 20, generator=generator())
    asked = Thresholdout(rows, rows.clone(), threshold=0.0, sigma=0.0, budget=1)
    for column in range(20):
        assert asked.answer(lambda x, j=column: x[:, j]) == float(rows[:, column].double().mean())
    assert asked.remaining == 1


# budgets


def test_no_budget_answers_nothing_not_even_from_the_training_rows():
    asked = Thresholdout(0, 1, sigma=0.0, budget=0)
    with pytest.raises(BudgetExhausted):
        asked.answer(NEAR.__getitem__)


def test_the_last_answer_of_a_budget_is_given_and_then_no_more():
    asked = Thresholdout(0, 1, sigma=0.0, budget=2)
    assert [asked.answer(FAR.__getitem__) for _ in range(2)] == [0.60, 0.60]
    with pytest.raises(BudgetExhausted):
        asked.answer(FAR.__getitem__)


def test_without_a_budget_there_is_no_end():
    asked = Thresholdout(0, 1, sigma=0.0)
    assert [asked.answer(FAR.__getitem__) for _ in range(100)] == [0.60] * 100
    assert asked.remaining is None


def test_gaussian_answers_are_counted_whatever_they_say():
    asked = GaussianHoldout(0.5, sigma=0.1, max_queries=2, generator=generator())
    for left in (1, 0):
        asked.answer(lambda value: value)
        assert asked.remaining == left
    with pytest.raises(BudgetExhausted):
        asked.answer(lambda value: value)


# the noise


def test_laplace_draws_have_the_scale_and_not_the_standard_deviation():
    drawn = holdout.laplace(0.01, (100_000,), generator())
    assert stats.kstest(drawn.numpy(), stats.laplace(scale=0.01).cdf).pvalue > 0.01
    assert stats.kstest(drawn.numpy(), stats.laplace(scale=0.01 / math.sqrt(2)).cdf).pvalue < 1e-6


def test_noise_of_an_answer_from_the_holdout_is_laplace_of_scale_sigma():
    asked = Thresholdout(0, 1, threshold=0.0, sigma=0.01, generator=generator())
    told = np.array([asked.answer((0.0, 1.0).__getitem__) for _ in range(20_000)])  # gamma + eta never reach 1
    assert stats.kstest(told - 1.0, stats.laplace(scale=0.01).cdf).pvalue > 0.01


def test_noise_of_a_gaussian_answer_is_normal_of_standard_deviation_sigma():
    asked = GaussianHoldout(0.5, sigma=0.1, max_queries=20_000, generator=generator())
    told = np.array([asked.answer(lambda value: value) for _ in range(20_000)])
    assert stats.kstest(told, stats.norm(0.5, 0.1).cdf).pvalue > 0.01


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.04, 0.08, 0.15])
def test_fresh_mechanisms_draw_on_the_holdout_as_often_as_the_noisy_threshold_is_below_the_gap(gap):
    sigma, threshold, count = 0.01, 0.04, 4000
    drawn = generator()
    spent = 0
    for _ in range(count):
        asked = Thresholdout(0, 1, threshold, sigma, budget=1, generator=drawn)
        asked.answer((0.0, gap).__getitem__)
        spent += asked.remaining == 0
    # P(gamma + eta < gap - T) by integrating one density against the other's distribution function
    x = np.linspace(-2.0, 2.0, 400_001)
    below = stats.laplace.pdf(x, scale=2 * sigma) * stats.laplace.cdf(gap - threshold - x, scale=4 * sigma)
    expected = np.trapezoid(below, x)
    assert spent / count == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


def test_gamma_is_drawn_again_after_a_spent_answer_and_only_then():
    asked = Thresholdout(0, 1, threshold=10.0, sigma=0.01, generator=generator(), bounds=(-100, 100))
    before = asked.state_dict()["gamma"]
    for _ in range(50):
        asked.answer(FAR.__getitem__)
    assert asked.state_dict()["gamma"] == before
    asked.answer((0.0, 90.0).__getitem__)
    assert asked.state_dict()["gamma"] != before


def test_gamma_follows_laplace_of_twice_the_scale():
    drawn = generator()
    found = [Thresholdout(0, 1, sigma=0.01, generator=drawn).state_dict()["gamma"] for _ in range(5000)]
    assert stats.kstest(found, stats.laplace(scale=0.02).cdf).pvalue > 0.01


def test_gaussian_noise_is_that_of_the_published_program():
    asked = Thresholdout(0, 1, threshold=0.04, sigma=0.01, noise="gaussian", generator=generator())
    told = np.array([asked.answer((0.0, 1.0).__getitem__) for _ in range(20_000)])
    assert stats.kstest(told - 1.0, stats.norm(scale=0.01).cdf).pvalue > 0.01
    assert asked.state_dict()["gamma"] == 0.0
    at_the_threshold = np.array([asked.answer((0.0, 0.05).__getitem__) for _ in range(4000)])
    assert np.mean(at_the_threshold != 0.0) == pytest.approx(stats.norm.cdf(1.0), abs=0.025)


def test_a_generator_makes_answers_repeatable():
    told = [
        [asked.answer(FAR.__getitem__) for _ in range(20)]
        for asked in (Thresholdout(0, 1, generator=generator(seed)) for seed in (3, 3, 4))
    ]
    assert told[0] == told[1] != told[2]


def test_state_is_carried_on():
    first = Thresholdout(0, 1, budget=30, generator=generator(5))
    for _ in range(7):
        first.answer(FAR.__getitem__)
    second = Thresholdout(0, 1, budget=1, generator=generator(9))
    second.load_state_dict(first.state_dict())
    assert second.remaining == first.remaining
    assert [first.answer(FAR.__getitem__) for _ in range(9)] == [second.answer(FAR.__getitem__) for _ in range(9)]


def test_state_with_a_generator_needs_one():
    with pytest.raises(ValueError, match="state must come from a mechanism that has a generator"):
        Thresholdout(0, 1).load_state_dict(Thresholdout(0, 1, generator=generator()).state_dict())


# bad input


@pytest.mark.parametrize("make", [EmpiricalHoldout, lambda x, **k: GaussianHoldout(x, 0.1, 1, **k)])
@pytest.mark.parametrize(("values", "got"), [([0.5, 1.5], "1.5"), ([-0.1], "-0.1"), ([math.nan], "nan")])
def test_values_out_of_bounds_are_refused_and_cost_nothing(make, values, got):
    asked = make(torch.tensor(values, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"query must return values in \[0, 1\]; got {got}"):
        asked.answer(lambda x: x)
    assert asked.remaining in (None, 1)


def test_declared_bounds_admit_other_values():
    assert EmpiricalHoldout(torch.tensor([3.0, -1.0]), bounds=(-3, 3)).answer(lambda x: x) == 1.0


def test_a_query_without_values_is_refused():
    with pytest.raises(ValueError, match="query must return a value a row; got none"):
        EmpiricalHoldout(torch.zeros(0)).answer(lambda x: x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold must be a finite number of at least 0; got -0.1"),
        ({"sigma": math.inf}, "sigma must be a finite number of at least 0; got inf"),
        ({"budget": -1}, "budget must be at least 0; got -1"),
        ({"budget": 1.5}, "budget must be an integer of at least 0; got float"),
        ({"noise": "cauchy"}, "noise must be one of 'laplace', 'gaussian'; got 'cauchy'"),
        ({"bounds": (1, 0)}, r"bounds must be \(low, high\) with low < high; got \(1, 0\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Thresholdout(0, 1, **options)


# the ledger


def test_a_split_is_counted_once_a_study_and_apart_from_other_splits(tmp_path):
    ledger = Ledger(tmp_path / LEDGER_NAME)
    assert [ledger.count("x", study) for study in ("one", "two", "one")] == [1, 2, 2]
    assert Ledger(tmp_path / LEDGER_NAME).count("y", "one") == 1


def test_a_query_is_answered_once_and_then_told_again(tmp_path):
    first = Ledger(tmp_path / LEDGER_NAME).ask("x", {"a": (0.1, 0.9)}, budget=3)
    again = Ledger(tmp_path / LEDGER_NAME).ask("x", {"a": (0.1, 0.2), "b": (0.1, 0.9)}, budget=100)
    assert (first.budget, first.remaining) == (3, 2)
    assert again.answers["a"] == first.answers["a"]  # even if the test score came out otherwise this time
    assert (again.budget, again.remaining) == (3, 1)


def test_answers_go_on_as_those_of_one_mechanism(tmp_path):
    queries = {f"{i}": (0.1, 0.9) for i in range(6)}
    whole = Ledger(":memory:").ask("x", queries, budget=6).answers
    ledger = Ledger(tmp_path / LEDGER_NAME)
    parts = [ledger.ask("x", {key: scores}, budget=6).answers[key] for key, scores in queries.items()]
    assert parts == list(whole.values())
    assert len({answer.value for answer in parts}) == 6


def test_an_exhausted_budget_gives_no_value_and_stores_none(tmp_path):
    ledger = Ledger(tmp_path / LEDGER_NAME)
    ledger.ask("x", {"a": (0.1, 0.9)}, budget=1)
    account = ledger.ask("x", {"b": (0.1, 0.9), "a": (0.1, 0.9), "c": (0.5, 0.5)}, budget=1)
    assert [answer.source for answer in account.answers.values()] == ["none", "test", "none"]
    assert account.remaining == 0
    with sqlite3.connect(tmp_path / LEDGER_NAME) as connection:
        assert connection.execute("SELECT query FROM answers").fetchall() == [("a",)]


def test_another_programs_file_is_not_touched(tmp_path):
    path = tmp_path / LEDGER_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bills (amount)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is not a ledger of version 1"):
        Ledger(path).count("x", "one")
    assert path.read_bytes() == before


def spend(path: Path, worker: int) -> list[str]:
    ledger = Ledger(path)
    sources = []
    for i in range(10):
        ledger.count("x", f"{worker}-{i}")
        account = ledger.ask("x", {f"{worker}-{i}": (0.1, 0.9)}, budget=25)
        sources += [answer.source for answer in account.answers.values()]
    return sources


def test_processes_share_one_budget_and_lose_no_count(tmp_path):
    path = tmp_path / LEDGER_NAME
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        sources = [source for found in pool.starmap(spend, [(path, i) for i in range(4)]) for source in found]
    assert sources.count("test") == 25
    assert sources.count("none") == 15
    assert Ledger(path).count("x", "last") == 41
    with sqlite3.connect(path) as connection:
        values = [value for (value,) in connection.execute("SELECT value FROM answers")]
    assert len(set(values)) == 25  # no draw was given out twice


# studies


def study(methods=("cross_entropy", "ldr"), task=None, **options) -> Study:
    task = task or blobs(scored="accuracy", spread=3.0)
    found = {"budget": QUICK, "seeds": 3, "engine": "process", "workers": 0, "holdout": "thresholdout", **options}
    return Study(task, grid(task, {"loss": list(methods)}), **found)


def told(result: StudyResult) -> list:
    return [(row.name, row.scores, row.verdict, row.scored_on) for row in result.rows]


def used(result: StudyResult) -> HoldoutUse:
    assert result.holdout is not None
    return result.holdout


def with_scores(planned: Study, scores: dict[str, tuple[float, float]], spread: float = 0.001) -> dict:
    """Results of the study's trials: {method: (validation, test)}, a little apart from seed to seed."""
    results = {}
    for trial in planned.tuning_trials():
        results[trial.key] = TrialResult(trial, "finished", validation=0.5, seconds=1.0)
    for trial in planned.final_trials(results):
        validation, test = scores[trial.method]
        apart = spread * ((trial.seed % 2) - 0.5) * (1 if trial.method == "ldr" else 2)
        results[trial.key] = TrialResult(trial, "finished", validation + apart, test - apart, seconds=1.0)
    return results


def findings(planned: Study, results: dict, **use) -> Findings:
    answers = {name: HoldoutAnswer(*answer) for name, answer in use.pop("answers").items()}
    holdout = HoldoutUse("thresholdout", "x", 1, threshold=THRESHOLD, sigma=0.01, answers=answers, **use)
    return Findings(
        planned.task, planned.methods, planned.baseline, planned.budget, planned.seeds, results, holdout=holdout
    )


def test_a_query_is_a_methods_mean_over_the_final_seeds_the_baseline_first():
    planned = study(baseline="ldr", seeds=2)
    results = with_scores(planned, {"cross_entropy": (0.7, 0.6), "ldr": (0.8, 0.9)})
    queries = Findings(planned.task, planned.methods, "ldr", QUICK, planned.seeds, results).queries()
    assert list(queries) == ["ldr", "cross_entropy"]
    assert queries["ldr"] == (pytest.approx(0.8), pytest.approx(0.9))
    assert queries["cross_entropy"] == (pytest.approx(0.7), pytest.approx(0.6))


def test_scores_have_the_answers_level_and_the_validation_rows_spread():
    planned = study(seeds=8)
    results = with_scores(planned, {"cross_entropy": (0.5, 0.9), "ldr": (0.7, 0.9)}, spread=0.02)
    found = findings(planned, results, answers={"cross_entropy": (0.62, "test"), "ldr": (0.7, "validation")})
    rows = {row.name: row for row in found.rows()}
    assert rows["cross_entropy"].mean == pytest.approx(0.62)
    assert sorted(set(np.round(rows["cross_entropy"].scores, 12))) == [0.6, 0.64]
    assert rows["ldr"].mean == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.07, "undecided"), (0.09, "better"), (-0.07, "undecided"), (-0.09, "worse")]
)
def test_a_gain_counts_only_beyond_what_both_answers_may_be_off_by(gain, verdict):
    planned = study(seeds=10)
    results = with_scores(planned, {"cross_entropy": (0.5, 0.5), "ldr": (0.5 + gain, 0.5)})
    found = findings(
        planned, results, answers={"cross_entropy": (0.5, "validation"), "ldr": (0.5 + gain, "validation")}
    )
    row = next(row for row in found.rows() if row.name == "ldr")
    assert row.corrected_p < 0.05
    assert row.verdict == verdict


@pytest.mark.parametrize("silent", ["cross_entropy", "ldr"])
def test_nothing_is_decided_against_a_method_without_an_answer(silent):
    planned = study(seeds=10)
    results = with_scores(planned, {"cross_entropy": (0.5, 0.1), "ldr": (0.9, 0.1)})
    answers = {"cross_entropy": (0.5, "validation"), "ldr": (0.9, "validation"), silent: (None, "none")}
    found = findings(planned, results, answers=answers, budget=7, remaining=0)
    rows = {row.name: row for row in found.rows()}
    assert rows["ldr"].verdict == "undecided"
    assert rows[silent].scored_on == "validation"
    assert rows[silent].mean == pytest.approx({"cross_entropy": 0.5, "ldr": 0.9}[silent])
    assert any(f"budget of 7 answers is exhausted: {silent} is shown by validation scores" in n for n in found.notes())


def test_a_trial_that_broke_off_counts_as_the_worst_on_each_side():
    planned = study(seeds=2, task=blobs(scored="accuracy", rows=60))
    results = with_scores(planned, {"cross_entropy": (0.1, 0.3), "ldr": (0.8, 0.9)}, spread=0.0)
    key = next(key for key in results if key.startswith("ldr|final"))
    results[key] = TrialResult(results[key].trial, "diverged")
    queries = Findings(planned.task, planned.methods, planned.baseline, QUICK, planned.seeds, results).queries()
    assert queries["ldr"] == (pytest.approx(0.45), pytest.approx(0.6))


def test_answers_are_those_of_the_mechanism_for_the_scores_a_plain_study_gets(tmp_path):
    plain = study(holdout="plain").run()
    found = study().run(tmp_path / "a")
    for row in found.rows:
        answer = used(found).answers[row.name]
        if answer.source == "test":  # noise of scale 0.01
            assert answer.value == pytest.approx(next(r.mean for r in plain.rows if r.name == row.name), abs=0.1)
        assert row.mean == pytest.approx(answer.value)
        assert row.scored_on == "thresholdout"


def test_without_a_directory_answers_repeat_and_the_budget_is_forgotten():
    first, second = study().run(), study().run()
    assert told(first) == told(second)
    assert (used(first).uses, used(first).budget) == (1, budget_of(40))
    assert "Without a directory the budget of the test split is forgotten after this study." in first.notes


def test_two_studies_share_a_budget_and_the_second_is_told_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("minimand.study.consultation.THRESHOLD", 0.0)
    first = study().run(tmp_path / "a")
    other = study(methods=("cross_entropy", "gce", "focal")).run(tmp_path / "b")
    assert (used(first).uses, used(other).uses) == (1, 2)
    assert used(first).split == used(other).split
    spent = [sum(answer.source == "test" for answer in used(each).answers.values()) for each in (first, other)]
    assert used(first).remaining == 4 - spent[0]
    assert used(other).remaining == max(0, 4 - sum(spent))
    assert (tmp_path / LEDGER_NAME).is_file()


def test_the_same_study_elsewhere_gets_the_same_answers_for_nothing(tmp_path):
    first, second = study().run(tmp_path / "a"), study().run(tmp_path / "b")
    assert told(first) == told(second)
    assert used(first).remaining == used(second).remaining


def test_another_test_split_has_a_budget_of_its_own(tmp_path):
    study().run(tmp_path / "a")
    other = study(task=blobs(scored="accuracy", rows=120)).run(tmp_path / "b")
    assert (used(other).uses, used(other).budget) == (1, budget_of(30))


def exhausted(out: Path) -> None:
    """Spend the budget of the study's test split."""
    planned = study()
    consultation = Consultation("thresholdout", planned.task, 0)
    Ledger(out.parent / LEDGER_NAME).ask(consultation.split, {f"{i}": (0.0, 1.0) for i in range(9)}, budget=4)


def test_an_exhausted_budget_is_said_and_validation_scores_are_marked_as_such(tmp_path):
    out = tmp_path / "a"
    exhausted(out)
    result = study().run(out)
    write_report(result, out)
    assert used(result).remaining == 0
    assert {row.scored_on for row in result.rows} == {"validation"}
    assert {row.verdict for row in result.rows} == {"baseline", "undecided"}
    (note,) = [note for note in result.notes if "exhausted" in note]
    assert "cross_entropy, ldr are shown by validation scores" in note
    read = text(out)
    assert note in read
    assert read.count("validation score ") >= 2
    found = json.loads((out / "results.json").read_text())
    assert found["holdout"]["answers"]["ldr"] == {"value": None, "source": "none"}
    assert [row["scored_on"] for row in found["methods"]] == ["validation", "validation"]
    with (out / "results.csv").open() as file:
        assert {row["scored_on"] for row in csv.DictReader(file)} == {"validation"}
    assert terminal(result).count("(validation score)") == 2


def text(out: Path) -> str:
    """The report as it reads."""
    body = re.sub(r"<(script|style)>.*?</\1>", " ", (out / "report.html").read_text(), flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def terminal(result: StudyResult) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    show(result, console)
    return console.export_text()


def test_the_report_says_how_often_and_through_what_the_test_split_was_asked(tmp_path):
    study(holdout="plain").run(tmp_path / "a")
    result = study().run(tmp_path / "b")
    write_report(result, tmp_path / "b")
    read = text(tmp_path / "b")
    use = used(result)
    assert f"consulted 2 times, through Thresholdout: {use.remaining} of {use.budget} answers remain" in read
    assert "on the test split, through Thresholdout, higher is better" in read
    assert "passed through a reusable holdout (Dwork et al. 2015)" in read
    shown = terminal(result)
    assert f"{use.remaining} of {use.budget} answers remain" in shown
    found = json.loads((tmp_path / "b" / "results.json").read_text())["holdout"]
    assert (found["kind"], found["uses"], found["remaining"]) == ("thresholdout", 2, use.remaining)


def test_plain_studies_count_too_and_the_second_says_so(tmp_path):
    first, second = (study(holdout="plain").run(tmp_path / name) for name in "ab")
    assert (used(first).uses, used(second).uses) == (1, 2)
    assert (first.test_uses, second.test_uses) == (1, 1)
    assert not any("very test split" in note for note in first.notes)
    assert any(note.startswith("2 studies in this place have scored this very test split") for note in second.notes)
    assert View(first).test_split == "scored once"
    assert "scored 2 times: each further look makes its scores less fresh" in page(second)


def test_resuming_counts_once_and_tells_the_same(tmp_path):
    first = study().run(tmp_path / "a")
    study(methods=("gce", "focal")).run(tmp_path / "b")
    again = study().run(tmp_path / "a", resume=True)
    assert told(again) == told(first)
    assert used(again).answers == used(first).answers
    assert used(again).uses == 2


def test_a_lost_ledger_does_not_change_what_a_resumed_study_was_told(tmp_path):
    first = study().run(tmp_path / "a")
    (tmp_path / LEDGER_NAME).unlink()
    assert told(study().run(tmp_path / "a", resume=True)) == told(first)


def test_a_study_interrupted_between_ledger_and_store_is_told_the_same(tmp_path, monkeypatch):
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study().run(tmp_path / "a")
    remaining = Ledger(tmp_path / LEDGER_NAME).ask(split(), {}, budget=4).remaining
    resumed = study().run(tmp_path / "a", resume=True)
    assert used(resumed).remaining == remaining
    assert told(resumed) == told(study().run(tmp_path / "b"))


def split() -> str:
    return Consultation("thresholdout", study().task, 0).split


def test_the_store_drops_the_test_scores_once_they_are_answered(tmp_path):
    study().run(tmp_path / "a")
    with Store.read(tmp_path / "a" / STORE_NAME) as store:
        results = store.results().values()
    assert all(math.isnan(result.test) for result in results)
    assert all(math.isfinite(result.validation) for result in results)


@pytest.mark.parametrize("kind", ["plain", "thresholdout"])
def test_a_ledger_that_cannot_be_written_loses_no_study(tmp_path, kind):
    (tmp_path / LEDGER_NAME).mkdir()
    result = study(holdout=kind).run(tmp_path / "a")
    assert len(result.rows) == 2
    assert used(result).uses == 1
    assert sum("counted for this study alone" in note for note in result.notes) == 1
    again = study(holdout=kind).run(tmp_path / "a", resume=True)
    assert told(again) == told(result)


def test_scores_without_bounds_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="needs scores with bounds, and log_loss has none; take accuracy, "):
        compare(blobs(scored="log_loss"), {"loss": "cross_entropy"}, holdout="thresholdout", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_metric_of_ones_own_may_declare_its_bounds():
    own = Metric("hits", "classification", True, lambda t, p: 100.0 * float(np.mean(p.argmax(1) == t)), (0.0, 100.0))
    task = dataclasses.replace(blobs(scored="accuracy", spread=3.0), metric=own)
    use = used(study(task=task).run())
    assert use.threshold == pytest.approx(4.0)
    shares = used(study().run()).answers
    for name, answer in use.answers.items():  # the same draws in the metric's own units
        assert answer.value == pytest.approx(100.0 * shares[name].value)


def test_scores_beyond_the_declared_bounds_are_refused():
    own = Metric("hits", "classification", True, lambda t, p: 100.0, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"hits must give scores within its bounds, \[0, 1\]; got 100"):
        study(task=dataclasses.replace(blobs(scored="accuracy"), metric=own)).run()


@pytest.mark.parametrize(
    ("name", "bounds"), [("accuracy", (0, 1)), ("mcc", (-1, 1)), ("roc_auc", (0, 1)), ("log_loss", None)]
)
def test_metrics_know_their_bounds(name, bounds):
    assert metric(name).bounds == bounds


def test_holdouts_are_named():
    with pytest.raises(ValueError, match="holdout must be one of 'plain', 'thresholdout'; got 'fresh'"):
        study(holdout="fresh")
