"""Tuners: as many candidates under each, in rounds that learn, and a resumed study like an unbroken one."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from itertools import chain

import pytest

from minimand.hyper import LogUniform, Uniform
from minimand.study import Budget, Study, compare, make_method
from minimand.study.page import page
from minimand.study.report import to_json
from minimand.study.space import candidates, searched
from minimand.study.store import Store, StoreRefused
from minimand.study.study import STORE_NAME
from minimand.study.trial import TrialResult
from minimand.study.tuner import TOGETHER, TUNERS, Tuning
from tests.study.examples import QUICK, blobs
from tests.study.test_study import essence

BUDGET = dataclasses.replace(QUICK, candidates=6)


@pytest.fixture
def method():
    return make_method(blobs(), "adamw", rule="adamw", loss="focal")


class Instant:
    """An engine without training: a trial's scores follow from its numbers."""

    def run(self, job):
        for trial in job.open():
            loss = (math.log10(trial.hypers["rule.lr"]) + 2.0) ** 2 + 0.01 * trial.seed % 0.1
            yield [TrialResult(trial, "finished", validation=loss, test=loss + 0.1)]

    def close(self):
        pass


@pytest.fixture
def instant(monkeypatch):
    monkeypatch.setattr("minimand.study.study.engine", lambda name: Instant())


def study(tuner: str, **options) -> Study:
    task = blobs()
    methods = [make_method(task, name, rule=name) for name in ("adamw", "sgd")]
    return Study(
        task, methods, **{"budget": BUDGET, "seeds": 2, "engine": "process", "workers": 0, "tuner": tuner, **options}
    )


def exhausted(tuning: Tuning, score) -> list[list[dict[str, float]]]:
    """All rounds of a tuner that is told ``score`` of every setting."""
    rounds = []
    while tuning.left:
        rounds.append(tuning.ask())
        tuning.tell(rounds[-1], [score(setting) for setting in rounds[-1]])
    return rounds


def learning_rate(best: float):
    """A score that is 0 at one learning rate and falls with the square of the distance in decades."""
    return lambda setting: -((math.log10(setting["rule.lr"]) - math.log10(best)) ** 2)


def test_by_default_all_candidates_come_in_one_round_and_are_the_quasi_random_ones(method):
    assert exhausted(Tuning(method, "quasirandom", 9, seed=3), learning_rate(1e-3)) == [candidates(method, 9, 3)]
    plain = study("quasirandom")
    assert "tuner" not in plain.config()  # so that stores of before can be resumed
    assert len(plain.tuning_trials()) == plain.tuning_count == 12


@pytest.mark.parametrize("tuner", ["random", "direct"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_tuner_spends_the_same_budget_and_begins_with_the_defaults(method, tuner, count):
    rounds = exhausted(Tuning(method, tuner, count, seed=0), learning_rate(1e-3))
    assert sum(map(len, rounds)) == count
    assert rounds[0][0] == candidates(method, 1, 0)[0]
    if tuner != "random":
        assert rounds[0] == candidates(method, math.ceil(count / 2), 0)
        assert all(len(later) <= TOGETHER for later in rounds[1:])


def test_candidates_of_every_tuner_stay_inside_their_ranges(method):
    for tuner in ("random", "direct"):
        for setting in [*chain(*exhausted(Tuning(method, tuner, 12, seed=1), learning_rate(1.0)))][1:]:
            for name, range_ in searched(method).items():
                assert range_.low * (1 - 1e-12) <= setting[name] <= range_.high * (1 + 1e-12)


@pytest.mark.parametrize(("tuner", "within"), [("bayesian", 0.15), ("direct", 0.4)])
def test_later_rounds_close_in_on_the_best_learning_rate(tuner, within):
    single = make_method(blobs(), "sgd", rule="sgd:weight_decay=0")
    assert list(searched(single)) == ["rule.lr"]
    score = learning_rate(0.05)
    settings = [*chain(*exhausted(Tuning(single, tuner, 10, seed=0), score))]
    assert len(settings) == 10
    assert math.sqrt(-max(map(score, settings))) < within  # decades


def test_scores_that_are_no_numbers_count_as_failures(method):
    tuning = Tuning(method, "direct", 8, seed=0)
    first = tuning.ask()
    tuning.tell(first, [math.nan, math.inf, -math.inf, -1.0])
    assert tuning._search is not None
    assert tuning._search.feasible[1].tolist() == [-1.0]


def test_a_method_that_tunes_nothing_has_one_candidate_under_every_tuner():
    fixed = make_method(blobs(), "sgd", rule="sgd:lr=0.1:weight_decay=0")
    for tuner in TUNERS:
        assert exhausted(Tuning(fixed, tuner, 5, seed=0), learning_rate(0.1)) == [[dict(fixed.fixed)]]


@pytest.mark.usefixtures("instant")
def test_a_study_runs_its_rounds_and_says_which_tuner_it_had():
    result = study("direct").run()
    assert [len(row.candidates) for row in result.rows] == [6, 6]
    assert result.tuner == to_json(result)["tuner"] == "direct"
    assert "around the best of them" in page(result)
    for row in result.rows:
        assert row.hypers == min(row.candidates, key=lambda c: c.validation).hypers  # log loss


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("kept", [1, 7, 9])
def test_a_resumed_study_is_like_an_unbroken_one(tmp_path, kept):
    whole = study("direct").run(out=tmp_path / "whole")
    with Store.read(tmp_path / "whole" / STORE_NAME) as store:
        stored = list(store.results().values())[:kept]
    (tmp_path / "part").mkdir()
    with Store.open(tmp_path / "part" / STORE_NAME, study("direct").config(), resume=False) as store:
        store.add(stored)
    assert essence(study("direct").run(out=tmp_path / "part", resume=True)) == essence(whole)


def test_a_trial_that_was_run_keeps_its_numbers_whatever_the_search_would_ask_for_now():
    planned, results = study("direct"), {}
    rounds = planned.tuning_rounds(results)
    trial = next(rounds)[0]
    stored = dataclasses.replace(trial, hypers={name: 2 * value for name, value in trial.hypers.items()})
    assert next(study("direct").tuning_rounds({trial.key: TrialResult(stored, "finished")}))[0] == stored


@pytest.mark.usefixtures("instant")
def test_a_store_of_another_tuner_is_refused(tmp_path):
    study("quasirandom").run(out=tmp_path)
    with pytest.raises(StoreRefused, match='tuner is absent there and "direct" here'):
        study("direct").run(out=tmp_path, resume=True)


def test_an_unknown_tuner_is_named(method):
    with pytest.raises(ValueError, match="tuner must be one of 'quasirandom', 'random', 'bayesian', 'direct'; got"):
        compare(blobs(), {"rule": "sgd"}, tuner="grid", budget=Budget(steps=1, candidates=1))


def test_the_bayesian_tuner_names_its_extra_where_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'minimand\[bo\]'"):
        study("bayesian")


@pytest.mark.parametrize("range_", [Uniform(-2.0, 3.0), LogUniform(1e-5, 10.0)])
def test_the_fraction_of_a_value_undoes_the_value_at_a_fraction(range_):
    for x in (0.0, 0.3, 1.0):
        assert range_.fraction(range_.at(x)) == pytest.approx(x, abs=1e-12)
    assert (range_.fraction(-9.0), range_.fraction(99.0)) == (0.0, 1.0)
