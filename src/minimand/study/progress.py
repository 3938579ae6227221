"""How far a study is, with the time that remains: a bar on the terminal, or a function of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Hook = Callable[[str, float, float], None]  # (what is being done, trials done, of how many)


@contextmanager
def reporting(progress: Hook | bool | None) -> Iterator[Hook]:
    """The function to tell progress to.

    None shows a bar where standard error is a terminal and is silent elsewhere; True and False force one or the
    other; a function is told itself.
    """
    if callable(progress):
        yield progress
    elif progress or (progress is None and sys.stderr.isatty()):
        with _bar() as hook:
            yield hook
    else:
        yield lambda what, done, total: None


@contextmanager
def _bar() -> Iterator[Hook]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def hook(what: str, done: float, total: float) -> None:
            bar.update(line, description=what, completed=done, total=total)

        yield hook
