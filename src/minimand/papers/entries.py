"""A row with what the code has for it: the parts that name the paper as their source, the claim and its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from minimand.claims import claim as claims
from minimand.claims.claim import Claim
from minimand.claims.evidence import Evidence, load
from minimand.papers.parts import Part, parts_by_paper
from minimand.papers.rows import Row, row, rows

STATUSES = ("holds", "fails", "undecided", "stale", "unmeasured", "part", "planned")


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
        """The program of the first of its parts that has one; empty where none has."""
        return next((part.snippet for part in self.parts if part.snippet), "")

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


def entry(slug: str) -> Entry:
    """The entry of a slug. ValueError for one that is not there, with the nearest."""
    return _entry(row(slug))


def entries() -> list[Entry]:
    """All entries, in the catalogue's order."""
    return [_entry(each) for each in rows()]


def _entry(each: Row) -> Entry:
    has_claim = each.slug in claims.slugs()
    return Entry(
        each,
        parts_by_paper().get(each.arxiv, ()),
        claims.find(each.slug) if has_claim else None,
        load(each.slug) if has_claim else None,
    )
