"""The contract: every public part against every promise of the library, from the samples it declares.

``pytest tests/contract -k focal_loss`` runs one part's, ``-k gradcheck`` one promise for all.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import minimand
from minimand import losses, optim
from minimand.optim import rules
from minimand.optim.rule import Rule

from . import exemptions, samples
from .checks import checks_of
from .rule_checks import rule_checks_of

ROOMS = [importlib.import_module(f"minimand.{room}") for room in minimand.ROOMS if room != "study"]
CASES = [
    *((sample, check) for sample in samples.PARTS for check in checks_of(sample)),
    *((sample, check) for sample in samples.RULES for check in rule_checks_of(sample)),
]
SAMPLED = {name for sample in (*samples.PARTS, *samples.RULES) for name in sample.covers}


def why_not(table: Mapping[tuple[str, str], str], name: str, check: str) -> str | None:
    """The reason that an exemption gives for this sample and check."""
    reasons = (why for (who, what), why in table.items() if fnmatchcase(name, who) and fnmatchcase(check, what))
    return next(reasons, None)


def contract() -> Iterator[Any]:
    """Every sample with every check that applies to it, exempted where an exemption says so."""
    for sample, check in CASES:
        marks = []
        if reason := why_not(exemptions.CHECKS, sample.name, check.__name__):
            marks = [pytest.mark.xfail(strict=True, reason=reason)]  # one that holds after all fails the suite
        elif reason := why_not(exemptions.TOO_LONG, sample.name, check.__name__):
            marks = [pytest.mark.skip(reason=reason)]
        yield pytest.param(sample, check, id=f"{sample.name}-{check.__name__}", marks=marks)


TRACED = ("AdaBelief", "AdamP", "Muon")  # under the traced driver, as in longer runs: one rule of each kind


@pytest.mark.parametrize(("sample", "check"), list(contract()))
def test_contract(sample: Any, check: Callable[[Any], None], request: pytest.FixtureRequest) -> None:
    if sample.name in TRACED:
        request.getfixturevalue("traced")
    check(sample)


def public_methods(kind: type) -> list[str]:
    """What a class of the library offers to call, each method under its first name."""
    first: dict[Any, str] = {}
    for name, member in vars(kind).items():
        if not name.startswith("_") and inspect.isroutine(member):
            first.setdefault(member, f"{kind.__name__}.{name}")
    return list(first.values())


def public_names(room: ModuleType) -> Iterator[str]:
    """Every name that a room hands on, and every method of the classes that are neither modules nor optimizers."""
    for name in room.__all__:
        member = getattr(room, name)
        yield name
        known = (nn.Module, optim.RuleOptimizer, optim.BatchedTrainer, Rule, tuple, losses.LossSpec)
        if isinstance(member, type) and not issubclass(member, known):
            yield from public_methods(member)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__.split(".")[-1])
def test_every_public_name_has_a_sample_or_an_exemption(room: ModuleType) -> None:
    missing = [name for name in public_names(room) if name not in SAMPLED and name not in exemptions.NAMES]
    assert not missing, f"declare samples of {', '.join(missing)} in tests/contract/samples"


def test_every_rule_is_listed_and_sampled() -> None:
    found = {member for member in vars(rules).values() if isinstance(member, type) and issubclass(member, Rule)}
    assert found == set(rules.RULES)
    assert found == {type(sample.rule) for sample in samples.RULES}


def test_no_exemption_is_left_over() -> None:
    names = {name for room in ROOMS for name in public_names(room)}
    assert set(exemptions.NAMES) <= names
    assert not set(exemptions.NAMES) & SAMPLED
    for who, what in (*exemptions.CHECKS, *exemptions.TOO_LONG):
        assert any(fnmatchcase(s.name, who) and fnmatchcase(c.__name__, what) for s, c in CASES), (who, what)


def test_every_exemption_gives_its_reason_in_a_line() -> None:
    for reason in (*exemptions.NAMES.values(), *exemptions.CHECKS.values(), *exemptions.TOO_LONG.values()):
        assert 10 < len(reason) < 110
        assert "\n" not in reason


def test_samples_have_names_of_their_own() -> None:
    names = [sample.name for sample in (*samples.PARTS, *samples.RULES)]
    assert len(set(names)) == len(names)


def test_what_is_traced_in_place_of_another_is_itself_traced() -> None:
    traced = {sample.name for sample in samples.PARTS if not sample.repeats}
    assert {sample.repeats for sample in samples.PARTS if sample.repeats} <= traced
