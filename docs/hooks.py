"""What the build adds to the pages in this folder: a page a paper, the catalogue, the API's pages, rooms' lists."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mkdocs.structure.files import File, Files

from generator import api, catalogue, paper
from minimand.papers import Entry, entries

ROOM_LIST = re.compile(r"^<!-- papers of ([a-z]+) -->$", re.MULTILINE)
FIGURE = "<!-- figure -->"


@lru_cache
def _entries() -> tuple[Entry, ...]:
    return tuple(entries())


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    made = {f"papers/{each.row.slug}.md": paper.page(each) for each in _entries()}
    made |= {f"api/{name}.md": page for name, page in api.pages().items()}
    made["catalogue.md"] = catalogue.page(_entries())
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a room's papers where its page asks for them."""
    return ROOM_LIST.sub(lambda found: catalogue.room_list(found[1], _entries()), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put a paper's figure in after Markdown is done."""
    if FIGURE not in html:
        return html
    slug = page.file.src_uri.removeprefix("papers/").removesuffix(".md")
    return html.replace(FIGURE, paper.figure(next(each for each in _entries() if each.row.slug == slug)))
