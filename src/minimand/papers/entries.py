"""A row with what the code has for it: the parts that name the paper as their source, the claim and its evidence."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any

import minimand
from minimand.claims import claim as claims
from minimand.claims.claim import Claim
from minimand.claims.evidence import Evidence, load
from minimand.papers.rows import Row, row, rows
from minimand.source import Source, source_of

USUAL = {"math": "import math", "torch": "import torch", "nn": "from torch import nn"}
STATUSES = ("holds", "fails", "undecided", "stale", "unmeasured", "part", "planned")


@dataclass(frozen=True)
class Part:
    """A public name that implements a paper, such as ``minimand.losses.comp_sum_loss``."""

    module: str
    name: str
    what: Any

    @property
    def path(self) -> str:
        """Where it is imported from."""
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.what) or "").partition("\n")[0]

    @property
    def example(self) -> str:
        """The example in its docstring, as Python; empty where there is none."""
        lines = (inspect.getdoc(self.what) or "").splitlines()
        return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ")))


@dataclass(frozen=True)
class Entry:
    """A row, its parts, its claim, and the evidence recorded for that."""

    row: Row
    parts: tuple[Part, ...]
    claim: Claim | None
    evidence: Evidence | None

    @property
    def status(self) -> str:
        """The verdict where there is fresh evidence; else how far the paper has come, one of STATUSES."""
        if self.evidence is not None:
            return "stale" if self.evidence.is_stale else self.evidence.verdict
        return "unmeasured" if self.claim is not None else "part" if self.parts else "planned"

    @property
    def snippet(self) -> str:
        """Python that imports the first of its parts that has an example, and runs that; empty where none has."""
        for part in self.parts:
            if part.example:
                own = f"from {part.module} import {part.name}"
                return "\n".join([*_imports(part.example), own, "", _printing(part.example)])
        return ""

    @property
    def missing(self) -> list[str]:
        """What the paper still lacks here, in words."""
        found = []
        if self.row.kind == "both" and not self.parts:
            found.append("no part to import yet")
        if self.claim is None:
            found.append("no claim to run yet")
        elif self.evidence is None:
            found.append("its claim has not been measured yet")
        elif self.evidence.is_stale:
            found.append("its claim has changed since it was measured")
        return found

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON can hold it."""
        return {
            "slug": self.row.slug,
            "title": self.row.title,
            "arxiv": self.row.arxiv,
            "room": self.row.room,
            "kind": self.row.kind,
            "year": self.row.year,
            "authors": self.row.authors,
            "description": self.row.description,
            "status": self.status,
            "parts": [part.path for part in self.parts],
            "claim": None if self.claim is None else self._claim_json(self.claim),
        }

    def _claim_json(self, claim: Claim) -> dict[str, Any]:
        headline = next(iter(claim.thresholds.values()))
        bound = headline.above if isfinite(headline.above) else headline.below
        found: dict[str, Any] = {"statement": claim.statement, "verdict": None, "effect": None, "interval": None}
        if self.evidence is not None:
            effect = self.evidence.headline
            found |= {"verdict": self.evidence.verdict, "effect": effect["value"]}
            found |= {"interval": [effect["low"], effect["high"]]}
        stale = self.evidence is not None and self.evidence.is_stale
        return {**found, "threshold": bound, "threshold_text": headline.text, "stale": stale}


@lru_cache
def parts_by_paper() -> dict[str, tuple[Part, ...]]:
    """{arXiv number: the public names that declare it as their source}, in their rooms' order."""
    found: dict[str, list[Part]] = {}
    for room in minimand.ROOMS:
        module = importlib.import_module(f"minimand.{room}")
        for name in module.__all__:
            source = source_of(getattr(module, name))
            if isinstance(source, Source) and source.arxiv:
                found.setdefault(source.arxiv, []).append(Part(module.__name__, name, getattr(module, name)))
    return {arxiv: tuple(parts) for arxiv, parts in found.items()}


def entry(slug: str) -> Entry:
    """The entry of a slug. ValueError for one that is not there, with the nearest."""
    return _entry(row(slug))


def entries() -> list[Entry]:
    """All entries, in the catalogue's order."""
    return [_entry(each) for each in rows()]


def _imports(example: str) -> list[str]:
    """The imports that an example in a docstring takes from its module."""
    free = {node.id for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Name)}
    made = {name.id for name in ast.walk(ast.parse(example)) if isinstance(name, ast.Name) and _is_stored(name)}
    imported = [line for line in example.splitlines() if line.startswith(("import ", "from "))]
    return [line for name, line in USUAL.items() if name in free - made and line not in imported]


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _printing(example: str) -> str:
    """An example whose last line, where it is an expression, is printed."""
    last = ast.parse(example).body[-1]
    if not isinstance(last, ast.Expr):
        return example
    lines = example.splitlines()
    return "\n".join([*lines[: last.lineno - 1], f"print({ast.unparse(last.value)})"])


def _entry(each: Row) -> Entry:
    has_claim = each.slug in claims.slugs()
    return Entry(
        each,
        parts_by_paper().get(each.arxiv, ()),
        claims.find(each.slug) if has_claim else None,
        load(each.slug) if has_claim else None,
    )
