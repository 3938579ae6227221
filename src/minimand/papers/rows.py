"""The catalogue's rows: one a paper, with a description in our own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from minimand.study.names import unknown


@dataclass(frozen=True)
class Row:
    """One paper. ``kind`` says what it contributes: a part and a claim ("both") or a claim alone."""

    id: str
    slug: str
    title: str
    authors: str | None
    year: int
    arxiv: str
    room: str
    kind: Literal["both", "claim"]
    description: str
    keywords: tuple[str, ...]

    @property
    def citation(self) -> str:
        """One line: authors where known, year, arXiv number."""
        return f"{self.authors or self.title} ({self.year}), arXiv:{self.arxiv}"


@lru_cache
def rows() -> tuple[Row, ...]:
    """All rows.

    >>> len(rows())
    215
    """
    found = json.loads(resources.files("minimand.papers").joinpath("rows.json").read_text(encoding="utf-8"))
    return tuple(Row(**{**each, "keywords": tuple(each["keywords"])}) for each in found)


def row(slug: str) -> Row:
    """The row of a slug. ValueError for one that is not there, with the nearest.

    >>> row("layer-norm").title
    'Layer Normalization'
    """
    for each in rows():
        if each.slug == slug:
            return each
    raise ValueError(unknown("slug", slug, [each.slug for each in rows()]))


def rooms() -> list[str]:
    """The rooms that have papers, in alphabetical order."""
    return sorted({each.room for each in rows()})
