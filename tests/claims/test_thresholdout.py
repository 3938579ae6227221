"""The pieces of the reusable holdout's experiment, each against what it must do by construction."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from minimand.claims.thresholdout import CLAIM, COINS, HOLDOUTS, Rows, analyse, selection, sign_sum, worst_answer
from minimand.study import EmpiricalHoldout, Thresholdout


def drawn(rows: int, variables: int, seed: int) -> Rows:
    return Rows.drawn(rows, variables, torch.Generator().manual_seed(seed))


def test_labels_are_fair_coins_that_know_nothing_of_the_variables():
    rows = drawn(4000, 50, 0)
    assert set(rows.labels.tolist()) == {-1.0, 1.0}
    correlations = rows.labels @ rows.variables / len(rows.labels) * math.sqrt(len(rows.labels))
    assert stats.kstest(correlations.numpy(), stats.norm.cdf).pvalue > 0.01


def test_the_analyst_finds_a_variable_that_is_the_label():
    train, holdout, fresh = (drawn(500, 30, seed) for seed in range(3))
    for rows in (train, holdout, fresh):
        rows.variables[:, 7] = rows.labels * 20.0
    report = analyse(train, fresh, EmpiricalHoldout(holdout, bounds=(-100, 100)).answer)
    assert report.fresh[-1] == pytest.approx(1.0, abs=0.01)
    assert report.error < 0.01


def test_a_variable_on_which_the_holdout_disagrees_is_not_chosen():
    train, holdout, fresh = (drawn(500, 1, seed) for seed in range(3))
    train.variables[:, 0] = train.labels
    for rows in (holdout, fresh):
        rows.variables[:, 0] = -rows.labels
    report = analyse(train, fresh, EmpiricalHoldout(holdout, bounds=(-10, 10)).answer)
    assert report.reported == report.fresh == (0.0,) * 4  # nothing votes, so nothing is right


def test_the_plain_holdout_is_overfitted_and_an_untouched_one_is_not():
    train, holdout, fresh, untouched = (drawn(1000, 500, seed) for seed in range(4))
    plain = EmpiricalHoldout(holdout, bounds=(-10, 10))
    assert analyse(train, fresh, plain.answer).error > 0.06
    asked = []

    def honest(query):
        asked.append(query)
        return (plain if len(asked) <= 500 else EmpiricalHoldout(untouched)).answer(query)

    assert analyse(train, fresh, honest).error < 0.06


def test_thresholdout_without_noise_and_with_a_wide_threshold_tells_the_training_accuracy():
    train, holdout, fresh = (drawn(300, 200, seed) for seed in range(3))
    through = Thresholdout(train, holdout, threshold=10.0, sigma=0.0, bounds=(-10, 10))
    own = EmpiricalHoldout(train, bounds=(-10, 10))
    assert analyse(train, fresh, through.answer) == analyse(train, fresh, own.answer)


def test_all_holdouts_are_tried_on_the_same_rows():
    reports = selection(300, 100, seed=5)
    assert tuple(reports) == HOLDOUTS
    assert reports == selection(300, 100, seed=5)
    assert reports["plain holdout"] != selection(300, 100, seed=6)["plain holdout"]


def test_the_sum_of_signs_is_off_by_what_the_normal_approximation_says():
    rows, queries = 1000, 4000
    plain, _ = sign_sum(rows, queries, seed=3)
    # Of every coin the sign of its mean is told; a row's sum of signs then has mean sqrt(2 m^2 / pi n), variance m.
    expected = 2 * stats.norm.cdf(math.sqrt(2 * queries / (math.pi * rows))) - 1
    assert plain == pytest.approx(expected, abs=0.05)


def test_answers_that_are_right_have_no_error():
    assert worst_answer(10, lambda query: 0.0) == 0.0


def test_the_worst_answer_is_the_worst_of_all_and_not_the_last():
    told = iter([0.1, -0.7, 0.2, 0.3])
    assert worst_answer(3, lambda query: next(told)) == pytest.approx(0.7)


def test_the_experiment_runs_and_is_well_formed():
    measured = CLAIM.run("smoke", 0)
    assert set(measured.effects) == set(CLAIM.thresholds)
    assert all(len(row) == len(measured.table.columns) for row in measured.table.rows)
    assert all(effect.low <= effect.value <= effect.high for effect in measured.effects.values())
    assert measured.figure is not None
    assert all(0.0 <= y <= 1.1 for line in measured.figure.lines.values() for _, y in line)
    assert COINS["small"] == (1000, 4000)
