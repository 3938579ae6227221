"""Candidates: the defaults, then evenly spread points that methods share."""

from __future__ import annotations

import math

import pytest

from minimand.hyper import HyperSpec, Uniform
from minimand.study.choices import Choice, pick
from minimand.study.method import Method
from minimand.study.space import candidates, searched


def made_of(name: str = "m", fixed=None, **choices: str) -> Method:
    return Method(name, {axis: pick(axis, value).choice for axis, value in choices.items()}, fixed or {})


def test_the_first_candidate_is_the_defaults():
    method = made_of(loss="focal", rule="adamw")
    defaults = {name: spec.default for name, spec in method.hypers.items()}
    assert candidates(method, 5, seed=3)[0] == {name: defaults[name] for name in searched(method)}


def test_sixteen_points_fall_into_sixteen_different_sixteenths_of_every_range():
    # A Sobol sequence's first 2^k points have one in each of 2^k equal slices of every axis; random ones do not.
    method = made_of(loss="ldr", rule="adamw")
    points = candidates(method, 17, seed=0)[1:]
    for name, range_ in searched(method).items():
        low, high = math.log(range_.low), math.log(range_.high)
        slices = {math.floor(16 * (math.log(point[name]) - low) / (high - low)) for point in points}
        assert slices == set(range(16)), name


def test_candidates_stay_inside_their_ranges():
    method = made_of(loss="hl_gauss", rule="muon")
    for point in candidates(method, 40, seed=1)[1:]:
        for name, range_ in searched(method).items():
            assert range_.low <= point[name] <= range_.high


def test_methods_that_differ_in_their_loss_try_the_same_learning_rates():
    plain, robust = (candidates(made_of(loss=loss, rule="adamw"), 8, seed=0) for loss in ("cross_entropy", "ldr"))
    assert [point["rule.lr"] for point in plain] == [point["rule.lr"] for point in robust]
    assert "loss.lam" in robust[0]


def test_a_longer_search_begins_with_the_shorter_one():
    method = made_of(loss="gce", rule="lion")
    assert candidates(method, 11, seed=4)[:5] == candidates(method, 5, seed=4)


def test_another_seed_gives_other_points():
    method = made_of(rule="sgd")
    assert candidates(method, 3, seed=0)[1:] != candidates(method, 3, seed=1)[1:]


def test_fixed_numbers_are_held_and_not_searched():
    method = made_of(rule="adamw", loss="ldr", fixed={"rule.lr": 0.5, "loss.margin": 1.0})
    found = candidates(method, 6, seed=0)
    assert {point["rule.lr"] for point in found} == {0.5}
    assert {point["loss.margin"] for point in found} == {1.0}
    assert len({point["loss.lam"] for point in found}) == 6


def test_a_method_with_nothing_to_tune_has_one_candidate():
    method = made_of(rule="sgd", fixed={"rule.lr": 0.1, "rule.weight_decay": 0.0})
    assert candidates(method, 8, seed=0) == [{"rule.lr": 0.1, "rule.weight_decay": 0.0}]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"rule.speed": 1.0}, r"fixed must name hypers of 'm' \(rule.lr, .*\); got 'rule.speed'"),
        ({"rule.lr": -1.0}, r"rule.lr must lie in \[0, inf\); got -1"),
    ],
)
def test_a_fixed_number_must_fit(fixed, message):
    with pytest.raises(ValueError, match=message):
        candidates(made_of(rule="sgd", fixed=fixed), 2, seed=0)


def test_too_many_dimensions_are_refused():
    hypers = {f"h{i}": HyperSpec(0.0, search=Uniform(0.0, 1.0)) for i in range(33)}
    with pytest.raises(ValueError, match="must tune at most 32 numbers; it has 33"):
        candidates(Method("m", {"rule": Choice("r", "rule", None, hypers)}), 2, seed=0)
