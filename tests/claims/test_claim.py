"""How claims are judged, recorded and guarded."""

import ast
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from minimand.claims import claim as claims
from minimand.claims import evidence as records
from minimand.claims import runner
from minimand.claims.claim import Claim, Effect, Measured, Table, Threshold, judge, overall
from minimand.papers import row
from minimand.source import source_of


def threshold(**bound):
    return {"effect": Threshold("the effect", **bound)}


@pytest.mark.parametrize(
    ("bound", "effect", "verdict"),
    [
        ({"above": 0.0}, (0.5, 0.1, 0.9), "holds"),
        ({"above": 0.0}, (0.5, -0.1, 0.9), "undecided"),
        ({"above": 0.0}, (-0.5, -0.9, -0.1), "fails"),
        ({"above": 0.0}, (0.0, 0.0, 0.0), "fails"),
        ({"below": 1.0}, (0.5, 0.1, 0.9), "holds"),
        ({"below": 1.0}, (1.5, 1.1, 1.9), "fails"),
        ({"below": 1.0}, (1.0, 0.9, 1.1), "undecided"),
        ({"above": 0.0}, (math.nan, math.nan, math.nan), "undecided"),
        ({"above": 0.0}, (0.5, -math.inf, math.inf), "undecided"),
    ],
)
def test_a_verdict_is_where_the_whole_interval_lies(bound, effect, verdict):
    assert judge(threshold(**bound), {"effect": Effect(*effect)}) == {"effect": verdict}


def test_effects_must_be_those_the_thresholds_name():
    with pytest.raises(ValueError, match="effects must be those of the thresholds"):
        judge(threshold(above=0.0), {"other": Effect.exact(1.0)})


def test_one_part_that_fails_fails_the_claim():
    assert overall({"a": "holds", "b": "fails", "c": "undecided"}) == "fails"
    assert overall({"a": "holds", "b": "holds"}) == "holds"


def test_a_threshold_has_one_bound():
    for bounds in ({}, {"above": 0.0, "below": 1.0}):
        with pytest.raises(ValueError, match="either above or below"):
            Threshold("x", **bounds)


def test_a_gain_is_oriented_so_that_positive_is_better():
    losses, base = [1.0, 1.1, 0.9, 1.0, 1.2, 1.1], [2.0, 2.1, 1.9, 2.0, 2.2, 2.1]
    gain = Effect.gain(losses, base, higher_is_better=False)
    assert gain.value == pytest.approx(1.0)
    assert gain.low > 0.9


def test_a_claim_may_not_be_recorded_with_a_seed_it_was_developed_with():
    with pytest.raises(ValueError, match="seed must not be one the claim was developed with"):
        toy(seed=0, developed_with=(0,))
    assert runner.recordable("anyloss", "small", claims.find("anyloss").developed_with[0])
    assert runner.recordable("anyloss", "smoke", None)
    assert not runner.recordable("anyloss", "small", None)


def toy(run=lambda scale, seed: toy_result(), **options):
    return Claim(
        statement="One is more than zero.",
        refuted_by="one being at most zero",
        thresholds=threshold(above=0.0),
        parts=(),
        run=run,
        **options,
    )


def toy_result():
    return Measured({"effect": Effect.exact(1.0)}, Table(("what", "value"), (("one", 1.0), ("none", math.nan))))


@pytest.fixture
def toy_claim(monkeypatch, tmp_path):
    """A claim called anyloss in the place of the real one; ``write`` changes its file."""
    file = tmp_path / "toy.py"
    file.write_text("first")
    found = {"claim": toy(), "write": file.write_text}
    monkeypatch.setattr(claims, "find", lambda slug: found["claim"])
    monkeypatch.setattr(records, "source_of", lambda slug: file.read_text())
    return found


def test_evidence_is_recorded_read_back_and_stale_once_the_claim_changes(toy_claim, tmp_path):
    (outcome,) = runner.run_many(["anyloss"], folder=tmp_path / "evidence")
    assert outcome.path == tmp_path / "evidence" / "anyloss.json"
    found = records.load("anyloss", outcome.path.parent)
    assert found is not None
    assert (found.verdict, found.headline["value"], found.seed, found.is_stale) == ("holds", 1.0, 1, False)
    assert found.table.rows == (("one", 1.0), ("none", None))
    toy_claim["write"]("second")
    assert found.is_stale
    assert not runner.is_fresh("anyloss", outcome.path.parent)


def test_a_claim_goes_stale_with_what_it_shares_with_others():
    assert claims.source_of("adabelief").endswith((Path(claims.__file__).parent / "_splits.py").read_text())
    assert "def over_splits" not in claims.source_of("lion-k")


def test_a_claim_that_breaks_is_an_error_and_leaves_no_evidence(toy_claim, tmp_path):
    def run(scale, seed):
        raise RuntimeError("no data")

    toy_claim["claim"] = toy(run)
    (outcome,) = runner.run_many(["anyloss"], folder=tmp_path)
    assert outcome.error == "RuntimeError: no data"
    assert not list(tmp_path.glob("*.json"))


def test_a_full_disk_leaves_the_old_evidence_whole(toy_claim, tmp_path, monkeypatch):
    folder = tmp_path / "evidence"
    list(runner.run_many(["anyloss"], folder=folder))
    before = (folder / "anyloss.json").read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    (outcome,) = runner.run_many(["anyloss"], folder=folder)
    assert "No space left" in outcome.error
    assert (folder / "anyloss.json").read_text() == before


def test_evidence_that_is_none_is_named(tmp_path):
    (tmp_path / "anyloss.json").write_text("{}")
    with pytest.raises(ValueError, match=r"anyloss\.json is no evidence"):
        records.load("anyloss", tmp_path)


@pytest.mark.parametrize("slug", claims.slugs())
def test_every_claim_belongs_to_a_paper_and_exercises_parts(slug):
    claim = claims.find(slug)
    assert row(slug).slug == slug
    assert claim.statement.endswith(".")
    assert claim.refuted_by
    assert (claims.module_of(slug).__doc__ or "").strip()
    assert claim.parts
    assert all(callable(part) or source_of(part) for part in claim.parts)


@pytest.mark.parametrize("slug", claims.slugs())
def test_no_claim_reads_evidence_or_files(slug):
    tree = ast.parse(claims.source_of(slug))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    modules = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert not names & {"open", "Path", "load", "__import__", "eval", "exec"}
    assert not [name for name in modules if "evidence" in name or name in ("json", "pathlib", "io", "os")]


@pytest.mark.parametrize("slug", claims.slugs())
def test_every_claim_runs_at_smoke_scale(slug):
    found = runner.run(slug, "smoke")
    assert set(found.effects) == set(claims.find(slug).thresholds)
    for effect in found.effects.values():
        value, low, high = (effect[name] for name in ("value", "low", "high"))
        assert np.isnan(value) or low <= value <= high
    assert found.table.rows
    assert records.Evidence.from_json(json.loads(json.dumps(found.as_json()))).slug == slug


@pytest.mark.parametrize("slug", claims.slugs())
def test_recorded_evidence_follows_from_the_thresholds(slug):
    found = records.load(slug)
    assert found is not None, f"record it: minimand claims run {slug}"
    claim = claims.find(slug)
    assert not found.is_stale, f"record it again: minimand claims run {slug}"
    assert found.scale in ("small", "full")
    assert found.seed not in claim.developed_with
    effects = {name: records.effect_of(effect) for name, effect in found.effects.items()}
    verdicts = judge(claim.thresholds, effects)
    assert {name: effect["verdict"] for name, effect in found.effects.items()} == verdicts
    assert found.verdict == overall(verdicts)
