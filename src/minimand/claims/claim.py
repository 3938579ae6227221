"""A claim: one falsifiable sentence about a paper, the experiment that could refute it, and how it is judged.

Each paper's file in this package defines a ``CLAIM`` and nothing else that others use. Thresholds stand in the file
before anything is measured; one function here, :func:`judge`, turns measurements into a verdict, so that no file can
be kinder to its paper than another. A claim that fails is reported as failing.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from minimand import claims
from minimand.study.names import unknown
from minimand.study.statistics import interval, paired_comparison

Verdict = Literal["holds", "fails", "undecided"]
Scale = Literal["smoke", "small", "full"]

SCALES: tuple[Scale, ...] = ("smoke", "small", "full")
NOT_PAPERS = ("claim", "evidence", "runner")  # the modules of this package that are no claims


@dataclass(frozen=True)
class Threshold:
    """What a measured effect must exceed (``above``) or stay under (``below``) for the claim to hold.

    >>> Threshold("gain in test F1", above=0.0).text
    'gain in test F1 above 0'
    """

    what: str
    above: float = -inf
    below: float = inf

    def __post_init__(self) -> None:
        if isfinite(self.above) == isfinite(self.below):
            raise ValueError(f"a threshold must have either above or below; got {self.above} and {self.below}")

    @property
    def text(self) -> str:
        """The threshold in words."""
        return f"{self.what} {f'above {self.above:g}' if isfinite(self.above) else f'below {self.below:g}'}"


@dataclass(frozen=True)
class Effect:
    """A measured number and the 95% interval it lies in; an exact number is its own interval."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Effect:
        """A number without sampling error: a closed form, the worst case over a stated set."""
        return cls(float(value), float(value), float(value))

    @classmethod
    def mean(cls, values: Sequence[float]) -> Effect:
        """The mean of one value a seed, with its bootstrap interval."""
        found = interval(values)
        return cls(float(sum(values) / len(values)), found.low, found.high)

    @classmethod
    def gain(cls, values: Sequence[float], baseline: Sequence[float], higher_is_better: bool = True) -> Effect:
        """The mean gain over a baseline with the same seeds in the same order; positive is better."""
        found = paired_comparison(values, baseline, higher_is_better)
        return cls(found.mean, found.interval.low, found.interval.high)


@dataclass(frozen=True)
class Table:
    """What was measured, row by row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class Figure:
    """Lines over a common axis: {name: ((x, y), ...)}."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Measured:
    """What one run of a claim's experiment found: an effect for each of the claim's thresholds."""

    effects: Mapping[str, Effect]
    table: Table
    figure: Figure | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's headline claim, in our words, and the smallest honest experiment that could refute it.

    Args:
        statement: the claim in one falsifiable sentence.
        refuted_by: what outcome would refute it.
        thresholds: {name: what the effect of that name must be}, the first of them the headline.
        parts: the public parts of minimand that the experiment exercises.
        run: ``(scale, seed) -> Measured``: "smoke" takes seconds, "small" about a minute on two cores.
        seed: what the recorded run starts from.
        developed_with: the seeds that the experiment was built and tried with, none of which may be recorded.
        full: what "full" needs and adds, where it differs from "small".
    """

    statement: str
    refuted_by: str
    thresholds: Mapping[str, Threshold]
    parts: tuple[Any, ...]
    run: Callable[[Scale, int], Measured] = field(repr=False)
    seed: int = 1
    developed_with: tuple[int, ...] = (0,)
    full: str = ""

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError("thresholds must name at least one effect; got none")
        if self.seed in self.developed_with:
            raise ValueError(f"seed must not be one the claim was developed with; got {self.seed}")


def judge(thresholds: Mapping[str, Threshold], effects: Mapping[str, Effect]) -> dict[str, Verdict]:
    """The verdict on each threshold: by the whole interval, on one side or on the other, else undecided.

    >>> judge({"gain": Threshold("gain", above=0.0)}, {"gain": Effect(0.4, -0.1, 0.9)})
    {'gain': 'undecided'}
    """
    if set(effects) != set(thresholds):
        raise ValueError(f"effects must be those of the thresholds, {sorted(thresholds)}; got {sorted(effects)}")
    verdicts: dict[str, Verdict] = {}
    for name, threshold in thresholds.items():
        low, high = effects[name].low, effects[name].high
        if low > threshold.above and high < threshold.below:
            verdicts[name] = "holds"
        elif high <= threshold.above or low >= threshold.below:
            verdicts[name] = "fails"
        else:  # the interval straddles the threshold, or is not a number
            verdicts[name] = "undecided"
    return verdicts


def overall(verdicts: Mapping[str, Verdict]) -> Verdict:
    """The claim's verdict: it fails where any part fails, and holds where all do.

    >>> overall({"a": "holds", "b": "undecided"})
    'undecided'
    """
    found = set(verdicts.values())
    return "fails" if "fails" in found else "holds" if found == {"holds"} else "undecided"


def slugs() -> list[str]:
    """The papers that have a claim, by slug."""
    return sorted(
        module.name.replace("_", "-") for module in pkgutil.iter_modules(claims.__path__) if _is_claim(module.name)
    )


@lru_cache
def find(slug: str) -> Claim:
    """A paper's claim. ValueError for a slug that has none, with the nearest that do."""
    if slug not in slugs():
        raise ValueError(unknown("slug", slug, slugs()))
    found = module_of(slug).CLAIM
    assert isinstance(found, Claim)
    return found


def module_of(slug: str) -> ModuleType:
    """The module of a paper's claim."""
    return importlib.import_module(f"minimand.claims.{slug.replace('-', '_')}")


def source_of(slug: str) -> str:
    """What a claim's evidence belongs to: the text of its file, and of what it shares with other claims."""
    own = Path(inspect.getfile(module_of(slug)))
    text = own.read_text(encoding="utf-8")
    shared = [path for path in sorted(own.parent.glob("_[a-z]*.py")) if f"minimand.claims.{path.stem} " in text]
    return "\n".join([text, *(path.read_text(encoding="utf-8") for path in shared)])


def _is_claim(module: str) -> bool:
    return module not in NOT_PAPERS and not module.startswith("_")
