"""The page in a real browser: Debian's Chromium, from disk, without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path(os.environ.get("RECOUNT_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM} (apt-get install chromium, or set RECOUNT_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield launched
        launched.close()


class Watched:
    """A page with everything that it wrote to the console and asked for."""

    def __init__(self, browser: Browser, path: Path, width: int = 1440) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture
def watched(browser: Browser, page: Path) -> Iterator[Watched]:
    opened = Watched(browser, page)
    yield opened
    opened.page.close()


def column(page: Page, head: int) -> list[str]:
    return page.eval_on_selector_all(
        "#gigacount-table1 tbody tr",
        f"rows => rows.map(row => row.cells[{head}].dataset.value ?? row.cells[{head}].innerText)",
    )


def test_nothing_is_complained_about_or_asked_for(watched: Watched) -> None:
    watched.page.keyboard.press("End")
    watched.page.wait_for_selector("#provenance")
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []


def test_sorting_by_measured_error_puts_empty_cells_last(watched: Watched) -> None:
    before = column(watched.page, 0)
    head = watched.page.locator("#gigacount-table1 thead tr:nth-child(2) th").nth(3)
    head.locator("button").click()
    values = column(watched.page, 3)
    numbers = [float(value) for value in values if value]
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers == sorted(numbers)
    assert values[: len(numbers)] == [value for value in values if value]
    head.locator("button").click()
    descending = [float(value) for value in column(watched.page, 3) if value]
    assert descending == sorted(numbers, reverse=True)
    head.locator("button").click()
    assert column(watched.page, 0) == before


def test_sorting_works_from_the_keyboard(watched: Watched) -> None:
    button = watched.page.locator("#gigacount-table1 thead tr:nth-child(2) th").nth(3).locator("button")
    button.focus()
    watched.page.keyboard.press("Enter")
    assert watched.page.locator("#gigacount-table1 [aria-sort=ascending]").count() == 1


def test_theme_button_goes_dark_and_back(watched: Watched) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    watched.page.emulate_media(color_scheme="light")
    light = watched.page.evaluate(background)
    watched.page.click("#theme")
    watched.page.click("#theme")
    assert watched.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert watched.page.evaluate(background) != light
    watched.page.click("#theme")
    assert watched.page.evaluate(background) == light


def test_page_follows_the_systems_dark_mode(watched: Watched) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    watched.page.emulate_media(color_scheme="light")
    light = watched.page.evaluate(background)
    watched.page.emulate_media(color_scheme="dark")
    assert watched.page.evaluate(background) != light


def test_figures_are_drawn_when_they_come_near(watched: Watched) -> None:
    canvas = watched.page.locator("#gigacount-cost .canvas").first
    assert canvas.locator("svg").count() == 0
    canvas.scroll_into_view_if_needed()
    canvas.locator("svg").wait_for()


def test_filter_hides_rows_that_do_not_match(watched: Watched) -> None:
    watched.page.fill("#filter", "gigacount")
    shown = watched.page.locator("#gigacount-table1 tbody tr:not(.hidden) th").all_inner_texts()
    assert len(shown) == 1
    assert "GigaCount" in shown[0]


def test_lightbox_opens_steps_and_closes(watched: Watched) -> None:
    watched.page.locator(".comparison .frame").first.click()
    box = watched.page.locator("#lightbox")
    assert box.is_visible()
    first = box.locator(".words").inner_text()
    watched.page.keyboard.press("ArrowRight")
    assert box.locator(".words").inner_text() != first
    watched.page.keyboard.press("Escape")
    assert not box.is_visible()


def test_phone_width_scrolls_tables_not_the_page(browser: Browser, page: Path) -> None:
    opened = Watched(browser, page, width=390)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.close()


@pytest.mark.parametrize("section", ["gigacount-table3", "gigacount-cost"])
def test_deep_link_shows_its_section_also_far_down_the_page(browser: Browser, page: Path, section: str) -> None:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{page.as_uri()}#{section}")
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect(opened.locator(f"#{section} h3")).to_be_in_viewport()
    opened.close()


def test_hostile_text_does_nothing(browser: Browser, hostile_page: Path) -> None:
    opened = Watched(browser, hostile_page)
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    opened.page.locator("#gigacount-table1 .sort").first.click()
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("main script, main img[src=x]").count() == 0
    assert opened.complaints == []
    opened.page.close()


def test_prints_with_every_figure(watched: Watched, tmp_path: Path) -> None:
    watched.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert watched.page.locator(".canvas template").count() == 0
