"""The documentation as a reader meets it: built once, opened from disk in a real browser, without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from html import unescape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minimand.claims.claim import Figure, Table
from minimand.claims.evidence import Evidence
from minimand.papers import entries, entry

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
SAMPLE = [
    "index.html",
    "catalogue.html",
    "papers/anyloss.html",
    "papers/layer-norm.html",
    "tutorials/swap-a-loss.html",
    "rooms/optim.html",
    "api/losses.html",
]
WITH_PARTS = [entry for entry in entries() if entry.parts]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None,
    reason="the documentation needs the extra 'docs'",
)


@pytest.fixture(scope="session")
def site(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    return made_once("site", build)


def build(folder: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr


class Opened:
    """A page in the browser, with what it said and what it asked other hosts for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.route(lambda url: not url.startswith("file:"), self._refuse)

    def _refuse(self, route, request) -> None:
        self.elsewhere.append(request.url)
        route.abort()


@pytest.fixture
def open_at(browser: Browser, site: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a page of the site in a window of the given width."""
    contexts = []

    def open_(path: str, width: int = 1280, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        opened = Opened(context.new_page())
        file, _, fragment = path.partition("#")
        opened.page.goto((site / file).as_uri() + (f"#{fragment}" if fragment else ""))
        return opened

    yield open_
    for context in contexts:
        context.close()


def shown(page: Page) -> list[str]:
    """The titles of the catalogue's rows that can be seen."""
    return page.eval_on_selector_all("#papers tbody tr:not([hidden]) a", "all => all.map(a => a.textContent)")


def test_every_paper_has_a_page_and_a_row(site: Path, open_at: Callable[..., Opened]) -> None:
    assert sorted(path.stem for path in (site / "papers").iterdir()) == sorted(entry.row.slug for entry in entries())
    page = open_at("catalogue.html").page
    assert len(shown(page)) == len(entries()) == 215
    links = page.eval_on_selector_all("#papers tbody a", "all => all.map(a => a.getAttribute('href'))")
    assert [link for link in links if not (site / link).is_file()] == []


@pytest.mark.parametrize("path", SAMPLE)
def test_page_opens_without_a_word_or_a_request_to_another_host(open_at: Callable[..., Opened], path: str) -> None:
    opened = open_at(path)
    opened.page.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert opened.elsewhere == []


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|source|link)[^>]+(?:src|href)=["']?(?:https?:)?//""")
    assert {path.name for path in site.rglob("*.html") if loads.search(path.read_text("utf-8"))} == set()


def test_search_of_the_site_finds_anyloss_for_imbalanced(open_at: Callable[..., Opened]) -> None:
    opened = open_at("index.html")
    opened.page.click(".md-search__input")
    opened.page.keyboard.type("imbalanced")
    found = opened.page.locator(".md-search-result__item h1")
    found.first.wait_for()
    assert "AnyLoss: Transforming Classification Metrics into Loss Functions" in found.all_text_contents()[:3]
    opened.page.locator(".md-search-result__link", has_text="AnyLoss").first.click()
    opened.page.wait_for_url("**/papers/anyloss.html*")
    assert opened.messages == []
    assert opened.elsewhere == []


def test_search_of_the_catalogue_finds_anyloss_for_imbalanced(open_at: Callable[..., Opened]) -> None:
    page = open_at("catalogue.html").page
    page.fill("#query", "imbalanced")
    titles = shown(page)
    assert any(title.startswith("AnyLoss") for title in titles)
    assert len(titles) < 20
    assert page.text_content("#count") == f"{len(titles)} papers"


def test_catalogue_takes_a_whole_question(open_at: Callable[..., Opened]) -> None:
    page = open_at("catalogue.html").page
    page.fill("#query", "which optimiser is for scale-invariant weights")
    assert any(title.startswith("AdamP") for title in shown(page))
    page.fill("#query", "xyzzyx")
    assert shown(page) == []
    assert page.text_content("#count") == "No paper fits."


@pytest.mark.parametrize(("field", "value"), [("room", "losses"), ("kind", "claim"), ("status", "planned")])
def test_a_filter_narrows_and_clear_widens(open_at: Callable[..., Opened], field: str, value: str) -> None:
    page = open_at("catalogue.html").page
    page.select_option(f"#{field}", value)
    wanted = [e for e in entries() if {"room": e.row.room, "kind": e.row.kind, "status": e.status}[field] == value]
    assert 0 < len(wanted) < 215
    assert len(shown(page)) == len(wanted)
    page.click("#filters button[type=reset]")
    page.wait_for_function("document.querySelectorAll('#papers tbody tr:not([hidden])').length === 215")
    assert page.input_value(f"#{field}") == ""


def test_filtered_view_can_be_linked_to(open_at: Callable[..., Opened]) -> None:
    page = open_at("catalogue.html#room=optim&query=AdaBelief").page
    assert page.input_value("#room") == "optim"
    assert [title.partition(" ")[0] for title in shown(page)] == ["AdaBelief"]


def test_catalogue_is_reached_and_used_by_keyboard(open_at: Callable[..., Opened]) -> None:
    page = open_at("catalogue.html").page
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "query":
            break
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus can be seen"
    page.keyboard.type("imbalanced")
    for name in ("room", "kind", "status"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#papers tbody') !== null"), "then the papers found"
    page.keyboard.press("Enter")
    page.wait_for_url("**/papers/*.html")


def test_filters_have_names_for_those_who_hear_the_page(open_at: Callable[..., Opened]) -> None:
    page = open_at("catalogue.html").page
    for name, role in (("Search", "searchbox"), ("Room", "combobox"), ("Kind", "combobox"), ("Verdict", "combobox")):
        assert page.locator("#filters").get_by_role(role, name=name).count() == 1  # type: ignore[arg-type]
    assert page.get_by_role("status").filter(has_text="215 papers").count() == 1


def test_snippet_of_a_paper_copies_and_runs(open_at: Callable[..., Opened]) -> None:
    page = open_at("papers/anyloss.html").page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".language-python .md-code__button[data-md-type=copy], .language-python .md-clipboard").first.click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.includes('metric_loss'))")
    program = page.evaluate("navigator.clipboard.readText()")
    with redirect_stdout(StringIO()) as said:
        exec(program, {})
    assert said.getvalue() == "tensor(0.5000)\n"


@pytest.mark.parametrize("slug", [entry.row.slug for entry in WITH_PARTS])
def test_every_snippet_of_a_paper_runs(site: Path, slug: str) -> None:
    page = (site / "papers" / f"{slug}.html").read_text("utf-8")
    blocks = re.findall(r'<div class="language-python[^"]*">.*?<code>(.*?)</code>', page, re.DOTALL)
    assert blocks, "a paper with parts shows what to import"
    for block in blocks:
        with redirect_stdout(StringIO()):
            exec(unescape(re.sub(r"<[^>]+>", "", block)), {})


@pytest.mark.parametrize("path", SAMPLE)
def test_page_never_scrolls_sideways(open_at: Callable[..., Opened], path: str) -> None:
    page = open_at(path).page
    for width in (768, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


CONTRAST = """(selector) => {
  const element = document.querySelector(selector);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  let behind = element, back = [0, 0, 0, 0];
  while (behind && back[3] < 255) {
    back = channels(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const light = (rgb) => rgb.slice(0, 3).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [light(channels(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
TEXTS = {
    "index.html": [
        ".md-typeset p",
        ".md-typeset h1",
        ".md-typeset a",
        ".md-typeset code",
        ".word--worse",
        ".md-tabs__link",
    ],
    "catalogue.html": [
        ".catalogue__paper a",
        ".catalogue__paper span",
        ".status",
        ".count",
        ".filters label",
        "#query",
    ],
    "papers/anyloss.html": [".lead", ".citation", ".keywords", ".statement", ".crumbs a", ".highlight .kn"],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", TEXTS)
def test_text_stands_out_in_light_and_in_dark(open_at: Callable[..., Opened], path: str, scheme: str) -> None:
    page = open_at(path, scheme=scheme).page
    faint = {selector: page.evaluate(CONTRAST, selector) for selector in TEXTS[path]}
    assert {selector: ratio for selector, ratio in faint.items() if ratio < 4.5} == {}


def test_site_follows_the_readers_theme(open_at: Callable[..., Opened]) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_at("index.html", scheme=scheme).page.evaluate(back) for scheme in ("light", "dark"))
    assert (light, dark) == ("rgb(252, 251, 248)", "rgb(19, 20, 23)")


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    import minimand
    from minimand import papers

    for module in (*(getattr(minimand, room) for room in minimand.ROOMS), papers):
        page = (site / "api" / f"{module.__name__.split('.')[1]}.html").read_text(encoding="utf-8")
        assert [name for name in module.__all__ if f'id="{module.__name__}.{name}"' not in page] == []


def test_reference_shows_examples_and_made_classes(open_at: Callable[..., Opened]) -> None:
    page = open_at("api/optim.html").page
    text = page.locator("[id='minimand.optim.AdaBelief']").locator("xpath=..").inner_text()
    assert "eps=1e-16" in text
    assert "second moment taken around the mean" in text
    assert page.locator("blockquote").count() == 0, "no prompt was taken for a quotation"


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


@pytest.mark.usefixtures("generator")
def test_figure_is_a_drawing_in_the_pages_colours_that_can_be_heard() -> None:
    from generator import figures  # type: ignore[import-not-found]

    lines = {"soft <F1>": ((0.1, 0.2), (0.2, 0.4)), "cost in $": ((0.1, 0.1), (0.2, 0.3))}
    svg = figures.draw(Figure("Test F1", "share of positives", "F1", lines, log_x=True))
    assert 'role="img"' in svg
    assert 'aria-label="Test F1: F1 by share of positives, for soft &lt;F1&gt;, cost in $"' in svg
    assert "var(--figure-1)" in svg
    assert "var(--figure-ink)" in svg
    assert "#0" not in svg, "no colour of its own"
    assert "<F1>" not in svg


@pytest.mark.usefixtures("generator")
def test_page_of_a_measured_paper_says_what_was_measured() -> None:
    from generator import paper  # type: ignore[import-not-found]

    effect = {"value": -0.14, "low": -0.28, "high": -0.001, "threshold": "gain in F1 above 0", "verdict": "fails"}
    measured = Evidence(
        slug="anyloss",
        verdict="fails",
        effects={"f1": effect},
        table=Table(("trained on", "F1"), (("soft | <F1>", 0.26), ("cross_entropy", None))),  # type: ignore[arg-type]
        figure=None,
        notes=("10 data sets.",),
        scale="small",
        seed=7,
        seconds=61.0,
        recorded="2025-03-01T09:05:00+00:00",
        versions={"torch": "2.13.0"},
        claim_digest="of another version",
    )
    page = paper.page(replace(entry("anyloss"), evidence=measured))
    for told in (
        "−0.14",
        "−0.28 to −0.001",
        "gain in F1 above 0",
        "fails",
        "of an earlier version of the claim",
        "seed 7",
    ):
        assert told in page
    assert "soft &#124; &lt;F1&gt;" in page, "no markup comes from data"
    assert '<td class="number">–</td>' in page or "<td>–</td>" in page, "what is no number is a dash"
    assert "has changed since it was measured" in page
