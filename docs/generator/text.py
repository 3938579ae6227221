"""Text and numbers as pages show them."""

from __future__ import annotations

import html
import math
import re
from typing import Any

MARKDOWN = str.maketrans({mark: f"&#{ord(mark)};" for mark in "\\`*_{}[]|~^$"})

WORDS = {
    "holds": "holds",
    "fails": "fails",
    "undecided": "undecided",
    "stale": "stale",
    "unmeasured": "not measured yet",
    "part": "part only",
    "planned": "planned",
}


def plain(text: Any) -> str:
    """Text that neither HTML nor Markdown reads anything into."""
    return html.escape(str(text), quote=False).translate(MARKDOWN)


def title(text: str) -> str:
    """A paper's title without the dollars around its formulas."""
    return re.sub(r"\$([^$]*)\$", r"\1", text)


def status(name: str) -> str:
    """A status as a small label."""
    return f'<span class="status status--{name}">{WORDS[name]}</span>'


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits, and text as it is.

    Evidence stores what is no number as null.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        shown = f"{value:.{digits}g}"
        return shown.replace("-", "−", 1) if shown.startswith("-") else shown
    return plain(value)
