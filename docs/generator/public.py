"""Where public objects stand in the reference."""

from __future__ import annotations


def link_to(path: str) -> str:
    """The place of a public path in the reference, as seen from a page one folder down."""
    return f"../api/{path.split('.')[1]}.md#{path}"
