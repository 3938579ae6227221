"""The terminal: what may be printed on it, how waiting looks, and how a command ends when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

WIDTH_OF_A_PIPE = 140  # columns of a table that is not shown on a terminal

# Exit codes
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def console(stderr: bool = False) -> Console:
    """A console that neither marks up nor highlights what users' files hold."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_A_PIPE
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def plain(text: object) -> str:
    """Text with control characters, which could move a terminal's cursor or colour it, shown as escapes.

    >>> plain("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    with screen.status(f"{what} ..."):
        yield


@contextmanager
def bad_input() -> Iterator[None]:
    """End with exit code 2 and one line where the block finds an argument that cannot be used."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise stop(str(error), BAD_INPUT) from error


def stop(message: str, code: int) -> typer.Exit:
    """Say why on stderr, in one line; raise what is returned."""
    line = Text.assemble(("Error: ", "bold red"), plain(" ".join(message.split())))
    console(stderr=True).print(line, soft_wrap=True)
    return typer.Exit(code)
