"""The page in a real browser: Debian's Chromium, from disk, without a network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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


#: Unfolds what is folded, and lays out and draws what is far away, too.
UNFOLDED = """() => {
  document.documentElement.classList.add('whole');
  document.querySelectorAll('.canvas template').forEach((t) => t.replaceWith(t.content));
  document.querySelectorAll('details').forEach((d) => { d.open = true; });
}"""


FIRST_PAINT = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => resolve(list.getEntries()[0].startTime)).observe({ type: "paint", buffered: true });
})"""


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


@pytest.fixture
def narrow(browser: Browser, page: Path) -> Iterator[Watched]:
    opened = Watched(browser, page, width=390)
    yield opened
    opened.page.close()


def column(page: Page, head: int) -> list[str]:
    return page.eval_on_selector_all(
        "#gigacount-table1 tbody tr",
        f"rows => rows.map(row => row.cells[{head}].dataset.value ?? row.cells[{head}].textContent)",
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


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_theme_button_goes_dark_and_back(watched: Watched) -> None:
    watched.page.emulate_media(color_scheme="light")
    light = watched.page.evaluate(BACKGROUND)
    watched.page.click("#theme")
    watched.page.click("#theme")
    assert watched.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert watched.page.evaluate(BACKGROUND) != light
    watched.page.click("#theme")
    assert watched.page.evaluate(BACKGROUND) == light


def test_page_follows_the_systems_dark_mode(watched: Watched) -> None:
    watched.page.emulate_media(color_scheme="light")
    light = watched.page.evaluate(BACKGROUND)
    watched.page.emulate_media(color_scheme="dark")
    assert watched.page.evaluate(BACKGROUND) != light


def test_figures_are_drawn_when_they_come_near(watched: Watched) -> None:
    canvas = watched.page.locator("#gigacount-cost .canvas").first
    assert canvas.locator("svg").count() == 0
    canvas.scroll_into_view_if_needed()
    canvas.locator("svg").wait_for()


def test_filter_hides_rows_that_do_not_match(watched: Watched) -> None:
    watched.page.fill("#filter", "gigacount")
    shown = watched.page.locator("#gigacount-table1 tbody tr:not(.hidden) th").all_text_contents()
    assert len(shown) == 1
    assert "GigaCount" in shown[0]


def test_filter_hides_sections_without_a_row_left_and_says_how_many_are(watched: Watched) -> None:
    watched.page.fill("#filter", "captioner")
    assert not watched.page.locator("#gigacount-table3").is_visible()
    assert re.match(r"\d+ of \d+ rows", watched.page.locator("#found").inner_text())
    watched.page.fill("#filter", "")
    assert watched.page.locator("#gigacount-table3").is_visible()
    assert watched.page.locator("#found").inner_text() == ""


def test_rows_can_be_chosen_by_status_verdict_and_mark(watched: Watched) -> None:
    def shown(selector: str) -> int:
        return watched.page.locator(f"{selector}:not(.hidden)").count()

    watched.page.select_option("#only", "quoted")
    assert shown("#gigacount-table1 tbody tr") == 1
    watched.page.select_option("#only", "not tested")
    assert shown(".claim") == 1
    watched.page.select_option("#only", "nothing")
    left = watched.page.locator("#captioner-table1 tbody tr:not(.hidden) th").text_content()
    assert left is not None
    assert left.startswith("worse than one")


def test_enter_in_the_search_keeps_the_page(watched: Watched) -> None:
    watched.page.fill("#filter", "gigacount")
    watched.page.keyboard.press("Enter")
    assert watched.page.input_value("#filter") == "gigacount"


def test_verdict_on_the_board_leads_to_its_claim(watched: Watched) -> None:
    watched.page.locator("#board a[href='#gigacount-claim-G2']").first.click()
    expect_near_top(watched.page, "gigacount-claim-G2")


def test_contents_unfold_the_paper_that_is_read(watched: Watched) -> None:
    watched.page.evaluate("document.getElementById('gigacount-table1').scrollIntoView()")
    watched.page.wait_for_selector("#contents details:nth-of-type(2)[open]")
    assert watched.page.locator("#contents details[open]").count() == 1


def test_contents_open_over_a_narrow_page_and_close_with_escape(narrow: Watched) -> None:
    contents = narrow.page.locator("#contents")
    assert not contents.is_visible()
    narrow.page.click("#menu")
    assert contents.is_visible()
    assert narrow.page.get_attribute("#menu", "aria-expanded") == "true"
    narrow.page.keyboard.press("Escape")
    assert not contents.is_visible()


def test_lightbox_keeps_the_focus_and_gives_it_back(watched: Watched) -> None:
    frame = watched.page.locator(".comparison .frame").first
    frame.focus()
    watched.page.keyboard.press("Enter")
    for _ in range(6):
        watched.page.keyboard.press("Tab")
        inside = (
            "['BODY', 'HTML'].includes(document.activeElement.tagName) || !!document.activeElement.closest('dialog')"
        )
        assert watched.page.evaluate(inside)
    watched.page.keyboard.press("Escape")
    assert watched.page.evaluate("document.activeElement.className").startswith("frame")


def test_lightbox_opens_steps_and_closes(watched: Watched) -> None:
    watched.page.locator(".comparison .frame").first.click()
    box = watched.page.locator("#lightbox")
    assert box.is_visible()
    first = box.locator(".words").inner_text()
    watched.page.keyboard.press("ArrowRight")
    assert box.locator(".words").inner_text() != first
    watched.page.keyboard.press("Escape")
    assert not box.is_visible()


def test_phone_width_scrolls_tables_not_the_page(narrow: Watched) -> None:
    assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 390


def expect_near_top(page: Page, name: str) -> None:
    top = "document.getElementById(name).getBoundingClientRect().top"
    page.wait_for_function(f"name => {top} > 0 && {top} < 300", arg=name)


@pytest.mark.parametrize(
    "name",
    [
        "gigacount-table3",  # a table
        "gigacount-cost",  # far down the page
        "gigacount-table3-gigacount-stage4",  # a row
        "gigacount-claim-G6",
        "captioner-recipe-captioner-by_text",
        "gigacount-recipe-mcnn-default",  # in a fold that is closed
    ],
)
def test_deep_link_shows_its_target(browser: Browser, page: Path, name: str) -> None:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{page.as_uri()}#{name}")
    expect_near_top(opened, name)
    opened.close()


def test_link_to_a_filtered_row_clears_the_filter(watched: Watched) -> None:
    watched.page.fill("#filter", "captioner")
    watched.page.evaluate("location.hash = 'gigacount-table3-gigacount-stage4'")
    expect_near_top(watched.page, "gigacount-table3-gigacount-stage4")
    assert watched.page.input_value("#filter") == ""


@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.more)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(page.as_uri())
    opened.evaluate(UNFOLDED)
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all that another scheme changes
    found = axe.Axe().run(opened, options=contrast if scheme == "dark" else None).response
    serious = [(v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert len(found["passes"]) > (30 if scheme == "light" else 0)
    opened.close()


def test_axe_finds_nothing_serious_in_the_open_lightbox(watched: Watched) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    watched.page.locator(".comparison .frame").first.click()
    violations = axe.Axe().run(watched.page).response["violations"]
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []


def first_paint(browser: Browser, address: str) -> float:
    """Return the milliseconds to the first paint, the fewest of three."""
    paints = []
    for _ in range(3):
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(address)
        paints.append(opened.evaluate(FIRST_PAINT))
        opened.close()
    return min(paints)


def test_first_paint_is_within_a_second(browser: Browser, page: Path, tmp_path: Path) -> None:
    """On a busy machine it may take longer, as a page of one word does there."""
    (tmp_path / "word.html").write_text("word")
    paint = first_paint(browser, page.as_uri())
    assert paint < 1000 or paint < 10 * first_paint(browser, (tmp_path / "word.html").as_uri())


def test_what_is_far_away_is_laid_out_when_there_is_time(watched: Watched) -> None:
    watched.page.wait_for_selector("html.whole")
    assert watched.page.locator("#gigacount-cost").evaluate("e => getComputedStyle(e).contentVisibility") == "visible"


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
