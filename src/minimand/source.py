"""Where a part comes from: the paper, and the equation in it."""

from __future__ import annotations

from dataclasses import dataclass


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
