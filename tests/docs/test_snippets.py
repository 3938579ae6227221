"""Every Python snippet in the README and in the documentation runs, from top to bottom of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs(page: Path) -> list[str]:
    """The page's snippets, with blank lines before them so that errors name the page's own lines."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * (text.count("\n", 0, found.start()) + 1) + found[1] for found in SNIPPET.finditer(text)]


def run(page: Path) -> None:
    """Run the page's snippets one after the other, as one program."""
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(devices=[]):
        for program in programs(page):
            exec(compile(program, str(page), "exec"), names)


REPORT = ROOT / "docs/tutorials/csv-to-report.md"
WITH_SNIPPETS = [page for page in PAGES if programs(page)]
OTHERS = [page for page in WITH_SNIPPETS if page != REPORT]


def test_snippets_are_found() -> None:
    names = {page.name for page in WITH_SNIPPETS}
    assert {"README.md", "index.md", "csv-to-report.md", "swap-a-loss.md"} <= names


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


def test_csv_tutorial_runs_and_leaves_the_files_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(REPORT)
    told = re.findall(r"`((?:runs/diabetes/)?\w+\.(?:html|json|csv))`", REPORT.read_text(encoding="utf-8"))
    files = {name.removeprefix("runs/diabetes/") for name in told}
    assert files >= {"report.html", "results.json", "results.csv"}
    assert [name for name in files if not (tmp_path / "runs/diabetes" / name).is_file()] == []
