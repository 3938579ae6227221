"""``minimand papers``: the catalogue, ranked for a question; and one paper's page in the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minimand._checks import check_choice
from minimand.cli.terminal import console, plain
from minimand.papers.entries import STATUSES, Entry, entries, entry
from minimand.papers.ranking import By, ranked
from minimand.papers.rows import rooms
from minimand.study.names import unknown

COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", "stale": "yellow"}


def found(query: str, room: str | None, status: str | None, by: By = "words") -> list[Entry]:
    """The entries that a question, a room and a status leave. ValueError for a room or status that isn't there."""
    if room is not None and room not in rooms():
        raise ValueError(unknown("--room", room, rooms()))
    if status is not None and status not in STATUSES:
        raise ValueError(unknown("--status", status, STATUSES))
    check_choice("--by", by, ("words", "meaning"))
    every = [each for each, _ in ranked(query, by)] if query.strip() else entries()
    return [each for each in every if room in (None, each.row.room) and status in (None, each.status)]


def list_papers(query: str, room: str | None, status: str | None, by: By, limit: int | None, as_json: bool) -> None:
    """Print what :func:`found` gives."""
    every = found(query, room, status, by)
    shown = every[:limit]
    if as_json:
        print(json.dumps([each.as_json() for each in shown], indent=1, ensure_ascii=False))
        return
    out = console()
    if not shown:
        out.print("No paper answers that; 'minimand papers' lists all.", style="yellow")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in shown:
        table.add_row(plain(each.row.slug), _status(each), plain(each.row.description))
    out.print(table)
    hidden = f" of {len(every)}" if len(shown) < len(every) else ""
    out.print(f"\n{len(shown)}{hidden} papers. 'minimand papers show SLUG' says what to import.", style="dim")


def show_paper(slug: str, as_json: bool) -> None:
    """Print what a paper is, what to import, what its claim gave, and what is missing."""
    each = entry(slug)
    if as_json:
        print(json.dumps({**each.as_json(), **_more(each)}, indent=1, ensure_ascii=False))
        return
    out = console()
    out.print(Text(plain(each.row.title), style="bold"))
    out.print(Text(f"{plain(each.row.citation)} · room {each.row.room}", style="dim"))
    out.print(Padding(plain(each.row.description), (1, 0)))
    if each.parts:
        table = Table.grid(padding=(0, 2))
        for part in each.parts:
            table.add_row(Text(part.path, style="cyan"), plain(part.summary))
        out.print(table)
        if each.snippet:
            out.print(Padding(Text(each.snippet), (1, 0, 1, 2)))
    if each.claim is not None:
        out.print(Text.assemble(("Claim  ", "bold"), plain(each.claim.statement)))
        if each.evidence is None:
            out.print(f"Not measured yet: minimand claims run {each.row.slug}", style="yellow")
        else:
            print_evidence(each.evidence)
    for lack in each.missing:
        out.print(Text.assemble(("Missing  ", "bold"), lack))


def print_evidence(evidence: Any) -> None:
    """A verdict, the effects behind it, and the table."""
    out = console()
    state = " (stale: the claim has changed since)" if evidence.is_stale else ""
    out.print(Text.assemble((evidence.verdict, f"bold {COLOURS[evidence.verdict]}"), state))
    effects = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("measured", "95% interval", "threshold", ""):
        effects.add_column(title)
    for effect in evidence.effects.values():
        exact = effect["low"] == effect["high"] == effect["value"]
        interval = "exact" if exact else f"{_number(effect['low'])} to {_number(effect['high'])}"
        verdict = Text(effect["verdict"], style=COLOURS[effect["verdict"]])
        effects.add_row(_number(effect["value"]), interval, effect["threshold"], verdict)
    out.print(Padding(effects, (0, 0, 1, 2)))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in evidence.table.columns:
        table.add_column(plain(column))
    for row in evidence.table.rows:
        table.add_row(*(_number(cell) for cell in row))
    out.print(Padding(table, (0, 0, 1, 2)))
    for note in evidence.notes:
        out.print(plain(note), style="dim")
    out.print(
        f"scale {evidence.scale}, seed {evidence.seed}, {evidence.seconds:.0f} s, {evidence.recorded}", style="dim"
    )


def _more(each: Entry) -> dict[str, Any]:
    evidence = None if each.evidence is None else each.evidence.as_json()
    return {"snippet": each.snippet, "evidence": evidence, "missing": each.missing}


def _status(each: Entry) -> Text:
    return Text(each.status, style=COLOURS.get(each.status, "dim"))


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else plain(value)
