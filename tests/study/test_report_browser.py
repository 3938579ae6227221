"""The report as a reader meets it: opened from disk in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minimand.study.report import write_report
from minimand.study.result import StudyResult

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Opened:
    """A page in the browser, with what it said and asked for while it loaded."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))


@pytest.fixture(scope="module")
def report(make_result: Callable[..., StudyResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_result(), tmp_path_factory.mktemp("report"))


@pytest.fixture
def open_at(browser: Browser, report: Path) -> Iterator[Callable[..., Opened]]:
    """Opens the report in a window of the given width."""
    contexts = []

    def open_(width: int = 1280, scheme: str = "light", path: Path = report) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.goto(path.as_uri())
        return opened

    yield open_
    for context in contexts:
        context.close()


def test_report_opens_without_a_word_of_complaint_or_a_request(open_at: Callable[..., Opened], report: Path) -> None:
    opened = open_at()
    opened.page.wait_for_load_state("networkidle")
    assert opened.messages == []
    assert opened.dialogs == []
    assert opened.requests == [report.as_uri()]


def test_policy_stops_scripts_that_are_not_the_reports_own(open_at: Callable[..., Opened], report: Path) -> None:
    """Should text ever slip through unescaped, it still cannot act: here it is put in by hand."""
    html = report.read_text(encoding="utf-8")
    attack = "<script>alert(1)</script><img src='https://example.org/x.png' onerror='alert(2)'>"
    tampered = report.with_name("tampered.html")
    tampered.write_text(html.replace("<main>", f"<main>{attack}"), encoding="utf-8")
    opened = open_at(path=tampered)
    opened.page.wait_for_load_state("networkidle")
    assert opened.dialogs == []
    assert sum("Content Security Policy" in message for message in opened.messages) >= 3


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_page_never_scrolls_sideways(open_at: Callable[..., Opened], width: int) -> None:
    page = open_at(width).page
    page.eval_on_selector_all("details", "all => all.forEach(details => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_wide_table_scrolls_in_its_own_box_on_a_phone(open_at: Callable[..., Opened]) -> None:
    box = open_at(390).page.locator("#ranking .scroll")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    assert box.get_attribute("tabindex") == "0", "so that a keyboard can scroll it"


def test_ranking_has_a_row_a_method(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    assert page.locator(".ranking tbody tr").count() == 6
    assert page.locator("#differences [role=listitem]").count() == 5
    assert page.locator("#seeds [data-seed]").count() == 60
    assert page.locator("#curves figure").count() == 6


def test_markup_in_names_is_shown_as_text(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    assert page.locator(".ranking th bdi", has_text="<script>alert(1)</script>").first.is_visible()
    assert page.locator("script").count() == 1


def test_copy_button_copies_the_exact_command(
    open_at: Callable[..., Opened], make_result: Callable[..., StudyResult]
) -> None:
    page = open_at().page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == make_result().command


def test_copy_button_works_where_a_page_has_no_clipboard(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    page.click("#copy")
    page.wait_for_function("document.getElementById('copy').textContent === 'Copied'")


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_page_follows_the_readers_theme_and_the_button_turns_it(open_at: Callable[..., Opened]) -> None:
    light, dark = open_at(scheme="light").page, open_at(scheme="dark").page
    bright, dim = background(light), background(dark)
    assert bright != dim
    light.click("#theme")
    dark.click("#theme")
    assert (background(light), background(dark)) == (dim, bright)


def test_pointing_at_a_seed_finds_it_in_every_row(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    page.locator("#seeds [data-seed='3']").nth(1).hover(force=True)
    assert page.locator("#seeds .lit [data-seed].lit").count() == 6
    assert set(page.eval_on_selector_all("#seeds [data-seed].lit", "all => all.map(m => m.dataset.seed)")) == {"3"}


def test_charts_have_something_to_see(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    empty = page.eval_on_selector_all(
        "svg[role=img]", "all => all.filter(svg => svg.getBoundingClientRect().height < 20).length"
    )
    assert empty == 0
    outside = page.eval_on_selector_all(
        ".dot, .run, .tried, .won", "all => all.filter(m => m.getBoundingClientRect().width < 5).length"
    )
    assert outside == 0


def test_everything_is_open_on_paper(open_at: Callable[..., Opened]) -> None:
    page = open_at().page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert not page.locator("#copy").is_visible()


def test_page_reads_without_scripts(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".ranking tbody tr").count() == 6
    assert not page.locator("#copy").is_visible(), "a button that could not work"
    context.close()


def test_a_study_with_two_methods_and_one_seed_opens(
    open_at: Callable[..., Opened], make_result: Callable[..., StudyResult], tmp_path: Path
) -> None:
    opened = open_at(390, path=write_report(make_result(seeds=1, only=2), tmp_path))
    assert opened.messages == []
    assert opened.page.locator(".ranking tbody tr").count() == 2
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
