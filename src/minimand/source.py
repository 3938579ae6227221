"""Where a part comes from: the paper, and the equation in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Public = TypeVar("Public")


@dataclass(frozen=True)
class Source:
    """The paper that a public part implements.

    >>> Source("AdaBelief Optimizer", "Zhuang et al.", 2020, "2010.07468", "algorithm 2").citation
    'Zhuang et al. (2020), arXiv:2010.07468, algorithm 2'
    """

    title: str
    authors: str
    year: int
    arxiv: str | None = None
    where: str = ""

    @property
    def citation(self) -> str:
        """One line: authors, year, arXiv number (the title where there is none) and place."""
        number = f"arXiv:{self.arxiv}" if self.arxiv else self.title
        return ", ".join(part for part in (f"{self.authors} ({self.year})", number, self.where) if part)


def from_paper(source: Source) -> Callable[[Public], Public]:
    """Declare where a function or class comes from, where no rule or loss declaration already says so."""

    def declare(public: Public) -> Public:
        public.source = source  # type: ignore[attr-defined]
        return public

    return declare


def source_of(public: Any) -> Source | None:
    """The source that a public name declares: its own, or its specification's.

    >>> source_of(from_paper(Source("A paper", "Somebody", 2020))(lambda: None)).year
    2020
    """
    found = getattr(public, "source", None) or getattr(getattr(public, "spec", None), "source", None)
    return found if isinstance(found, Source) else None
