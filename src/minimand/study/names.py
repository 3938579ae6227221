"""Names a user types: the nearest known one when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], limit: int = 1) -> list[str]:
    """Up to ``limit`` names of ``known`` that ``name`` may have meant, best first.

    Names that start with what was typed count before mistyped ones, shorter first; case, ``-`` and ``_`` don't matter.

    >>> nearest("crossentropy", ["mae", "cross_entropy"]), nearest("foc", ["gce", "focal"]), nearest("qqq", ["mae"])
    (['cross_entropy'], ['focal'], [])
    """
    plain = {other: _plain(other) for other in known}
    typed = _plain(name)
    starts = sorted((other for other, text in plain.items() if typed and text.startswith(typed)), key=len)
    close = difflib.get_close_matches(typed, list(plain.values()), n=limit, cutoff=0.6)
    similar = [other for text in close for other in plain if plain[other] == text]
    return list(dict.fromkeys(starts + similar))[:limit]


def unknown(what: str, name: str, known: Iterable[str], listed: int = 12) -> str:
    """The message for an unknown name: what it was meant to be, the nearest known one, and what is known.

    >>> unknown("metric", "acuracy", ["accuracy", "f1"])
    "metric must be one of accuracy, f1; got 'acuracy' (did you mean 'accuracy'?)"
    """
    known = tuple(known)
    names = ", ".join(known[:listed]) + (f" and {len(known) - listed} more" if len(known) > listed else "")
    close = nearest(name, known)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{what} must be one of {names or '(none)'}; got {name!r}{hint}"


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")
