"""The catalogue's page: all papers in one table, which assets/catalogue.js filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from generator.text import WORDS, plain, status, title
from minimand.papers.entries import STATUSES, Entry
from minimand.papers.ranking import text_of

KINDS = {"both": "part and claim", "claim": "claim"}
TOP = """\
---
title: Papers
hide: [navigation, toc]
search:
  exclude: true
---

# Papers

{count} papers, each a row: a part that can be imported, a claim that can be run, or both. The same on the command
line: `minimand papers imbalanced data`, `minimand papers show anyloss`.
"""


def page(entries: Sequence[Entry]) -> str:
    """The page as Markdown."""
    return f"{TOP.format(count=len(entries))}\n{_filters(entries)}\n{_table(_by_status(entries))}\n"


def room_list(room: str, entries: Sequence[Entry]) -> str:
    """A room's papers as a list, those with most to show first."""
    found = _by_status([each for each in entries if each.row.room == room])
    planned = [each for each in found if each.status == "planned"]
    there = _list(each for each in found if each not in planned)
    more = f"<details><summary>{len(planned)} planned</summary>{_list(planned)}</details>" if planned else ""
    return there + more if found else "None yet."


def _list(entries: Iterable[Entry]) -> str:
    items = "".join(
        f'<li><a href="../papers/{each.row.slug}.html">{plain(title(each.row.title))}</a> {status(each.status)}</li>'
        for each in entries
    )
    return f'<ul class="papers">{items}</ul>' if items else ""


def _by_status(entries: Sequence[Entry]) -> list[Entry]:
    """Those with most to show first."""
    return sorted(entries, key=lambda each: STATUSES.index(each.status))


def _filters(entries: Sequence[Entry]) -> str:
    rooms = {room: f"{room} ({n})" for room, n in sorted(Counter(each.row.room for each in entries).items())}
    verdicts = Counter(each.status for each in entries)
    selects = (
        _select("room", "Room", rooms)
        + _select("kind", "Kind", {kind: KINDS[kind] for kind in sorted({each.row.kind for each in entries})})
        + _select("status", "Verdict", {name: f"{WORDS[name]} ({verdicts[name]})" for name in STATUSES})
    )
    return (
        '<form class="filters" id="filters" role="search" aria-label="Filter the papers">'
        '<label class="filters__query">Search<input type="search" id="query" autocomplete="off" spellcheck="false" '
        'placeholder="imbalanced data" aria-controls="papers"></label>'
        f'{selects}<button type="reset">Clear</button></form>'
        f'<p class="count" id="count" role="status" aria-live="polite">{len(entries)} papers</p>'
    )


def _select(name: str, label: str, options: dict[str, str]) -> str:
    items = "".join(f'<option value="{escape(value)}">{plain(text)}</option>' for value, text in options.items())
    any_ = '<option value="">any</option>'
    return f'<label>{label}<select id="{name}" aria-controls="papers">{any_}{items}</select></label>'


def _table(entries: Sequence[Entry]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Paper", "Room", "Kind", "Year", "Verdict"))
    return (
        '<table class="catalogue" id="papers"><caption class="sr">All papers</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, entries))}</tbody></table>"
    )


def _row(entry: Entry) -> str:
    row = entry.row
    return (
        f'<tr data-room="{escape(row.room)}" data-kind="{escape(row.kind)}" data-status="{entry.status}" '
        f'data-words="{escape(text_of(entry).casefold(), quote=True)}">'
        f'<td class="catalogue__paper"><a href="papers/{row.slug}.html">{plain(title(row.title))}</a>'
        f"<span>{plain(row.description)}</span></td>"
        f'<td data-title="Room">{plain(row.room)}</td><td data-title="Kind">{plain(KINDS[row.kind])}</td>'
        f'<td data-title="Year">{row.year}</td><td data-title="Verdict">{status(entry.status)}</td></tr>'
    )
