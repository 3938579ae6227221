"""The page of one paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

from generator import figures
from generator.docstrings import markdown
from generator.public import link_to
from generator.text import number, plain, status, title
from minimand.claims.claim import Claim
from minimand.claims.evidence import Evidence
from minimand.papers.entries import Entry
from minimand.papers.parts import public_path
from minimand.study.numerals import duration

IMPORTABLE = 3


def page(entry: Entry) -> str:
    """The page as Markdown."""
    return "\n".join(_lines(entry)) + "\n"


def figure(entry: Entry) -> str:
    """The evidence's figure as HTML; empty where there is none."""
    found = entry.evidence.figure if entry.evidence else None
    return figures.draw(found) if found else ""


def _lines(entry: Entry) -> Iterator[str]:
    row = entry.row
    yield from ("---", f"title: {json.dumps(title(row.title))}", f"description: {json.dumps(row.description)}")
    boost = IMPORTABLE if entry.parts else 1  # the reader looks for something to use
    yield from ("hide: [navigation]", f"search: {{ boost: {boost} }}", "---", "")
    yield from ("", f"# {plain(title(row.title))}", "")
    link = f'<a href="https://arxiv.org/abs/{escape(row.arxiv)}">arXiv:{plain(row.arxiv)}</a>'
    yield f'<p class="citation">{plain(f"{row.authors} ({row.year})" if row.authors else row.year)}, {link}'
    yield f'<span class="crumbs">in <a href="../catalogue.html">papers</a> / {_room(row.room)}</span>'
    yield f"{status(entry.status)}</p>"
    yield from ("", plain(row.description), "{ .lead }", "")
    if row.keywords:
        yield from (f'<p class="keywords">{plain(", ".join(row.keywords))}</p>', "")
    yield from _parts(entry)
    if entry.claim is not None:
        yield from _claim(entry, entry.claim)
    yield from _missing(entry)


def _parts(entry: Entry) -> Iterator[str]:
    if not entry.parts:
        return
    yield from ("## Import", "")
    for part in entry.parts:
        yield f"- [`{part.path}`]({link_to(part.path)}): {markdown(part.summary)}"
    yield ""
    for part in entry.parts:
        if program := part.snippet:
            yield from ("```python", program.rstrip("\n"), "```", "")


def _claim(entry: Entry, claim: Claim) -> Iterator[str]:
    evidence = entry.evidence
    yield from ("## Claim", "", plain(claim.statement), "{ .statement }", "")
    yield from (f"It would be refuted by {plain(claim.refuted_by)}.", "")
    if paths := list(filter(None, map(public_path, claim.parts))):
        yield from (f"It exercises {', '.join(f'[`{path}`]({link_to(path)})' for path in paths)}.", "")
    yield from _judged(claim, evidence)
    if evidence is not None:
        yield from _evidence(evidence)
    yield from ("```sh", f"minimand claims run {entry.row.slug}", "```", "")
    if claim.full:
        yield from (f"`--scale full`: {plain(claim.full)}.", "")


def _judged(claim: Claim, evidence: Evidence | None) -> Iterator[str]:
    """Each threshold with what was measured against it."""
    if evidence is None:
        yield from _table(("What is wanted",), [(plain(each.text),) for each in claim.thresholds.values()])
        return
    stale = " (of an earlier version of the claim)" if evidence.is_stale else ""
    yield from ("### Verdict", "", f"{status(evidence.verdict)}{stale}", "")
    rows = []
    for found in evidence.effects.values():
        exact = found["low"] == found["high"]
        between = "exact" if exact else f"{number(found['low'], 3)} to {number(found['high'], 3)}"
        rows.append((plain(found["threshold"]), number(found["value"], 3), between, status(found["verdict"])))
    yield from _table(("What is wanted", "Measured", "95% interval", "Verdict"), rows, numeric=(1, 2))


def _evidence(evidence: Evidence) -> Iterator[str]:
    yield from ("### Evidence", "")
    if evidence.figure is not None:
        yield from ("<!-- figure -->", "")
    cells = [tuple(number(cell) for cell in row) for row in evidence.table.rows]
    numeric = tuple(
        i for i in range(len(evidence.table.columns))
        if evidence.table.rows and all(not isinstance(row[i], str) for row in evidence.table.rows)
    )  # fmt: skip
    yield from _table(tuple(map(plain, evidence.table.columns)), cells, numeric)
    for note in evidence.notes:
        yield from (f"- {plain(note)}",)
    versions = ", ".join(f"{name} {version}" for name, version in evidence.versions.items())
    yield from ("", f'<p class="facts">Scale {plain(evidence.scale)}, seed {evidence.seed},')
    yield f"{plain(duration(evidence.seconds))}, recorded {plain(evidence.recorded[:10])} with {plain(versions)}.</p>"
    yield ""


def _missing(entry: Entry) -> Iterator[str]:
    if entry.missing:
        yield from ("## What is missing", "", *(f"- {plain(each)}" for each in entry.missing), "")


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]], numeric: tuple[int, ...] = ()) -> Iterator[str]:
    def cells(tag: str, row: tuple[str, ...]) -> str:
        marks = [' class="number"' if i in numeric else "" for i in range(len(row))]
        return "<tr>" + "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"

    yield '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="plain">'
    yield f"<thead>{cells('th', columns)}</thead><tbody>"
    yield from (cells("td", row) for row in rows)
    yield from ("</tbody></table></div>", "")


def _room(room: str) -> str:
    return f'<a href="../catalogue.html#room={escape(room)}">{plain(room)}</a>'
