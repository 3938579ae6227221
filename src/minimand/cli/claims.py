"""``minimand claims``: list them, run them, and check that the recorded evidence is that of the code as it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from minimand.claims import claim as claims
from minimand.claims.claim import SCALES, Scale
from minimand.claims.runner import Outcome, is_fresh, recordable, run_many
from minimand.cli.papers import COLOURS, print_evidence
from minimand.cli.terminal import FAILED, console, plain, stop
from minimand.papers.entries import STATUSES, entry
from minimand.papers.rows import rooms
from minimand.study.names import unknown

VERDICTS = tuple(status for status in STATUSES if status not in ("part", "planned"))


def list_claims(room: str | None, verdict: str | None, as_json: bool) -> None:
    """Print every claim that there is, with its verdict. ValueError for a room or verdict that isn't there."""
    if room is not None and room not in rooms():
        raise ValueError(unknown("--room", room, rooms()))
    if verdict is not None and verdict not in VERDICTS:
        raise ValueError(unknown("--verdict", verdict, VERDICTS))
    found = [entry(slug) for slug in claims.slugs()]
    found = [each for each in found if room in (None, each.row.room) and verdict in (None, each.status)]
    if as_json:
        print(json.dumps([each.as_json() for each in found], indent=1, ensure_ascii=False))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        statement = each.claim.statement if each.claim is not None else ""
        table.add_row(each.row.slug, Text(each.status, style=COLOURS.get(each.status, "dim")), plain(statement))
    console().print(table)


def run_claims(
    slugs: Sequence[str],
    every: bool,
    scale: Scale,
    seed: int | None,
    jobs: int,
    again: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run claims and record what may be recorded.

    With ``every``, claims whose evidence is fresh are left out unless ``again``: an interrupted run goes on.
    ValueError for an unknown slug or scale, or nothing to run.
    """
    if scale not in SCALES:
        raise ValueError(unknown("--scale", scale, SCALES))
    if every == bool(slugs):
        raise ValueError("give the slugs of the claims to run, or --all; 'minimand claims list' has them")
    for slug in slugs:
        claims.find(slug)
    wanted = list(dict.fromkeys(slugs)) if slugs else claims.slugs()
    if every and not again and scale != "smoke":
        wanted = [slug for slug in wanted if not is_fresh(slug, out)]
    outcomes = _followed(wanted, scale, seed, jobs, out)
    if as_json:
        print(json.dumps([_as_json(outcome) for outcome in outcomes], indent=1, ensure_ascii=False))
    else:
        for outcome in outcomes:
            _print(outcome, scale, seed, whole=not every)
        if every and not wanted:
            console().print("All evidence is fresh; --again runs the claims once more.")
    broken = [outcome for outcome in outcomes if outcome.error]
    if broken:
        raise stop("; ".join(f"{outcome.slug}: {outcome.error}" for outcome in broken), FAILED)


def check_claims(as_json: bool) -> None:
    """Say which evidence is stale or missing, and end with exit code 1 where any is."""
    found = {slug: entry(slug).status for slug in claims.slugs()}
    stale = [slug for slug, status in found.items() if status == "stale"]
    missing = [slug for slug, status in found.items() if status == "unmeasured"]
    if as_json:
        print(json.dumps({"claims": len(found), "stale": stale, "missing": missing}, indent=1))
    else:
        console().print(f"{len(found)} claims: {len(stale)} with stale evidence, {len(missing)} with none")
    if stale or missing:
        names = " ".join([*stale, *missing])
        raise stop(f"run them again: minimand claims run {names}", FAILED)


def _followed(wanted: Sequence[str], scale: Scale, seed: int | None, jobs: int, out: Path | None) -> list[Outcome]:
    """Run claims under a progress bar, on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    screen = console(stderr=True)
    outcomes = []
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as progress:
        task = progress.add_task("claims", total=len(wanted))
        for outcome in run_many(wanted, scale, seed, jobs, out):
            outcomes.append(outcome)
            progress.update(task, advance=1, description=outcome.slug)
    return outcomes


def _print(outcome: Outcome, scale: Scale, seed: int | None, whole: bool) -> None:
    if outcome.evidence is None:
        return
    out = console()
    out.print(Text(outcome.slug, style="bold cyan"))
    if whole:
        out.print(plain(claims.find(outcome.slug).statement))
    print_evidence(outcome.evidence)
    if outcome.path is not None:
        out.print(f"recorded in {plain(outcome.path)}\n", style="dim")
    else:
        out.print(f"not recorded: {recordable(outcome.slug, scale, seed)}\n", style="dim")


def _as_json(outcome: Outcome) -> dict[str, object]:
    evidence = None if outcome.evidence is None else outcome.evidence.as_json()
    recorded = None if outcome.path is None else str(outcome.path)
    return {"slug": outcome.slug, "evidence": evidence, "recorded": recorded, "error": outcome.error or None}
