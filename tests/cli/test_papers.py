"""``minimand papers`` and ``minimand claims`` as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from minimand.claims import claim as claims
from minimand.cli.app import app


def minimand(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_a_question_is_ranked_and_a_filter_narrows():
    every = json.loads(minimand("papers", "--json").stdout)
    assert len(every) == 215
    losses = json.loads(minimand("papers", "imbalanced", "data", "--room", "losses", "--json").stdout)
    assert losses[0]["slug"] == "anyloss"
    assert {each["room"] for each in losses} == {"losses"}


def test_a_paper_is_shown_with_what_to_import_and_what_is_missing():
    shown = minimand("papers", "show", "anyloss").stdout
    assert "from minimand.losses import metric_loss" in shown
    assert "Claim" in shown
    planned = json.loads(minimand("papers", "show", "layer-norm", "--json").stdout)
    assert planned["missing"] == ["no part to import yet", "no claim to run yet"]
    assert planned["claim"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("papers", "show", "anylos"), "did you mean 'anyloss'?"),
        (("papers", "--room", "optm"), "did you mean 'optim'?"),
        (("papers", "--status", "hold"), "did you mean 'holds'?"),
        (("papers", "noise", "--by", "sound"), "by must be"),
        (("claims", "run", "anylos"), "did you mean 'anyloss'?"),
        (("claims", "run"), "give the slugs"),
        (("claims", "run", "anyloss", "--all"), "give the slugs"),
        (("claims", "run", "anyloss", "--scale", "tiny"), "--scale must be one of smoke, small, full"),
        (("claims", "list", "--verdict", "held"), "did you mean 'holds'?"),
    ],
)
def test_bad_input_is_named_with_exit_code_2(arguments, message):
    result = minimand(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_smoke_run_is_shown_and_not_recorded(tmp_path):
    result = minimand("claims", "run", "comp-sum", "--scale", "smoke", "--out", str(tmp_path), "--json")
    (found,) = json.loads(result.stdout)
    assert found["evidence"]["slug"] == "comp-sum"
    assert found["recorded"] is None
    assert list(tmp_path.iterdir()) == []


def test_all_claims_are_listed():
    found = json.loads(minimand("claims", "list", "--json").stdout)
    assert [each["slug"] for each in found] == claims.slugs()


def test_check_says_how_many_claims_are_fresh():
    result = minimand("claims", "check", "--json")
    found = json.loads(result.stdout)
    assert found["claims"] == len(claims.slugs())
    assert result.exit_code == (1 if found["stale"] or found["missing"] else 0)
