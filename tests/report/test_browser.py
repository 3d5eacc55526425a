"""The page in a real browser: Debian's Chromium, from disk, without a network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
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


PAGES = (
    "index.html", "gigacount/index.html", "gigacount/pictures.html", "captioner/index.html", "verdicts.html",
    "provenance.html", "reading.html",
)  # fmt: skip


@pytest.fixture
def opened(browser: Browser, page: Path) -> Iterator[Callable[..., Watched]]:
    """Return what opens a page of the report by its file."""
    watched: list[Watched] = []

    def open_page(name: str, width: int = 1440) -> Watched:
        watched.append(Watched(browser, page.parent / name, width))
        return watched[-1]

    yield open_page
    for entry in watched:
        entry.page.close()


@pytest.fixture
def watched(opened: Callable[..., Watched]) -> Watched:
    return opened("gigacount/index.html")


def column(page: Page, head: int) -> list[str]:
    return page.eval_on_selector_all(
        "#gigacount-table1 tbody tr",
        f"rows => rows.map(row => row.cells[{head}].dataset.value ?? row.cells[{head}].textContent)",
    )


#: Words of what is to be seen, as people count them: not in folds, figures or in what only screen readers are told.
WORDS = """() => {
  document.querySelectorAll('.sr, svg').forEach((e) => e.remove());
  return document.querySelector('main').innerText.split(/\\s+/).filter((word) => /\\w/.test(word)).length;
}"""


@pytest.mark.parametrize("name", PAGES)
def test_page_asks_for_nothing_complains_of_nothing_and_is_short(opened: Callable[..., Watched], name: str) -> None:
    watched = opened(name)
    watched.page.evaluate(UNFOLDED)
    watched.page.wait_for_load_state("networkidle")
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
    again = opened(name)
    again.page.wait_for_selector("html.whole")
    words = again.page.evaluate(WORDS)
    assert 50 < words <= (1500 if name == "index.html" else 6000)


def beyond(page: Page, width: int, elements: str, apart_from: str) -> list[str]:
    """Return the beginnings of elements that end to the right of a width in pixels."""
    script = """([width, elements, apart]) => [...document.querySelectorAll(elements)]
      .filter((e) => e.getBoundingClientRect().right > width + 1 && !e.closest(apart))
      .map((e) => e.outerHTML.slice(0, 120))"""
    found: list[str] = page.evaluate(script, [width, elements, apart_from])
    return found


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_off_the_edge(opened: Callable[..., Watched], name: str, width: int) -> None:
    page = opened(name, width).page
    page.evaluate(UNFOLDED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert beyond(page, width, "main *", apart_from=".scroll, .plot, .sr, svg, pre") == []


@pytest.mark.parametrize("name", PAGES)
def test_no_column_of_a_table_is_cut_off_in_print(opened: Callable[..., Watched], name: str) -> None:
    page = opened(name, 718).page  # pixels between the margins of a sheet of A4
    page.emulate_media(media="print")
    page.evaluate(UNFOLDED)
    assert beyond(page, 718, "main th, main td", apart_from=".sr") == []


def test_front_page_is_two_screens_and_prints_on_one_sheet(opened: Callable[..., Watched], tmp_path: Path) -> None:
    page = opened("index.html").page
    assert page.evaluate("document.documentElement.scrollHeight") <= 2 * 900
    page.pdf(path=tmp_path / "front.pdf", format="A4")
    assert len(re.findall(rb"/Type\s*/Page[^s]", (tmp_path / "front.pdf").read_bytes())) == 1


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
    watched.page.fill("#filter", "clip-ebc")
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


def test_rows_can_be_chosen_that_are_no_better_than_a_constant(opened: Callable[..., Watched]) -> None:
    page = opened("captioner/index.html").page
    page.select_option("#only", "nothing")
    left = page.locator("#captioner-table1 tbody tr:not(.hidden) th").first.text_content()
    assert left is not None
    assert left.startswith("worse than one")


def test_enter_in_the_search_keeps_the_page(watched: Watched) -> None:
    watched.page.fill("#filter", "gigacount")
    watched.page.keyboard.press("Enter")
    assert watched.page.input_value("#filter") == "gigacount"


@pytest.mark.parametrize(
    ("start", "link"),
    [
        ("index.html", ".claimed a[href$='gigacount-claim-G2']"),
        ("verdicts.html", "#board a[href$='gigacount-claim-G2']"),
    ],
)
def test_verdict_leads_to_its_claim(opened: Callable[..., Watched], start: str, link: str) -> None:
    page = opened(start).page
    page.locator(link).first.click()
    page.wait_for_url("**/gigacount/index.html#gigacount-claim-G2")
    expect_near_top(page, "gigacount-claim-G2")


def test_number_leads_to_its_chain(watched: Watched) -> None:
    link = watched.page.locator("#gigacount-table1 a.chain").first
    anchor = (link.get_attribute("href") or "").partition("#")[2]
    link.click()
    watched.page.wait_for_url(f"**/provenance.html#{anchor}")
    expect_near_top(watched.page, anchor)
    assert "predictions" in watched.page.locator(f"[id='{anchor}']").inner_text()


def test_contents_mark_the_section_that_is_read(watched: Watched) -> None:
    watched.page.evaluate("document.getElementById('gigacount-table3').scrollIntoView()")
    watched.page.wait_for_selector("#contents a[href='#gigacount-table3'].here")


def test_contents_open_over_a_narrow_page_and_close_with_escape(opened: Callable[..., Watched]) -> None:
    narrow = opened("gigacount/index.html", 390)
    contents = narrow.page.locator("#contents")
    assert not contents.is_visible()
    narrow.page.click("#menu")
    assert contents.is_visible()
    assert narrow.page.get_attribute("#menu", "aria-expanded") == "true"
    narrow.page.keyboard.press("Escape")
    assert not contents.is_visible()


@pytest.fixture
def pictures(opened: Callable[..., Watched]) -> Watched:
    return opened("gigacount/pictures.html")


def test_lightbox_keeps_the_focus_and_gives_it_back(pictures: Watched) -> None:
    watched = pictures
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


def test_lightbox_opens_steps_and_closes(pictures: Watched) -> None:
    watched = pictures
    watched.page.locator(".comparison .frame").first.click()
    box = watched.page.locator("#lightbox")
    assert box.is_visible()
    first = box.locator(".words").inner_text()
    watched.page.keyboard.press("ArrowRight")
    assert box.locator(".words").inner_text() != first
    watched.page.keyboard.press("Escape")
    assert not box.is_visible()


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
        "gigacount-gallery",  # on another page of the paper
        "board",
        "reading",
    ],
)
def test_link_of_old_to_one_page_shows_its_target(browser: Browser, page: Path, name: str) -> None:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{page.as_uri()}#{name}")  # the front page, which leads on
    opened.wait_for_url(lambda url: url.endswith(f".html#{name}") and not url.endswith(f"mini/index.html#{name}"))
    expect_near_top(opened, name)
    opened.close()


def test_link_to_a_filtered_row_clears_the_filter(watched: Watched) -> None:
    watched.page.fill("#filter", "clip-ebc")
    watched.page.evaluate("location.hash = 'gigacount-table3-gigacount-stage4'")
    expect_near_top(watched.page, "gigacount-table3-gigacount-stage4")
    assert watched.page.input_value("#filter") == ""


#: Contrast is of the style that all pages share, so that two pages show it in the dark.
AXE = [(name, "light") for name in PAGES] + [(name, "dark") for name in PAGES[:2]]


@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.more)])
@pytest.mark.parametrize(("name", "scheme"), AXE)
def test_axe_finds_nothing_serious(
    browser: Browser, page: Path, name: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto((page.parent / name).as_uri())
    opened.evaluate(UNFOLDED)
    contrast = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}  # all that another scheme changes
    found = axe.Axe().run(opened, options=contrast if scheme == "dark" else None).response
    serious = [(v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []
    assert len(found["passes"]) > (20 if scheme == "light" else 0)
    opened.close()


def test_axe_finds_nothing_serious_in_the_open_lightbox(pictures: Watched) -> None:
    watched = pictures
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
    opened = Watched(browser, hostile_page.parent / "gigacount/index.html")
    opened.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    opened.page.locator("#gigacount-table1 .sort").first.click()
    assert opened.page.evaluate("window.hacked") is None
    for name in ("gigacount/index.html", "index.html", "verdicts.html"):
        opened.page.goto((hostile_page.parent / name).as_uri())
        assert opened.page.evaluate("window.hacked") is None
        assert opened.page.locator("main script, main img[src=x]").count() == 0
    assert opened.complaints == []
    opened.page.close()


def test_prints_with_every_figure(watched: Watched, tmp_path: Path) -> None:
    watched.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert watched.page.locator(".canvas template").count() == 0
