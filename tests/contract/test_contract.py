"""The contract: every public part against every promise of the library, from the samples it declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest

from minimand import divergences, losses, optim
from minimand.optim import rules
from minimand.optim.rule import Rule

from . import exemptions, samples
from .checks import checks_of
from .rule_checks import rule_checks_of

ROOMS = (divergences, losses, optim)
CASES = [
    *((sample, check) for sample in samples.PARTS for check in checks_of(sample)),
    *((sample, check) for sample in samples.RULES for check in rule_checks_of(sample)),
]


def reason(name: str, check: str) -> str | None:
    """Why this check is not asked of this sample, if it is not."""
    found = (why for (who, what), why in exemptions.CHECKS.items() if fnmatchcase(name, who) and fnmatchcase(check, what))
    return next(found, None)


def contract() -> Iterator[Any]:
    for sample, check in CASES:
        why = reason(sample.name, check.__name__)
        marks = () if why is None else pytest.mark.xfail(strict=True, reason=why)
        yield pytest.param(sample, check, id=f"{sample.name}-{check.__name__}", marks=marks)


@pytest.mark.parametrize(("sample", "check"), list(contract()))
def test_contract(sample: Any, check: Callable[[Any], None]) -> None:
    check(sample)
