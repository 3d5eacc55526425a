"""The picture browser: what it writes, and how it is used in a real browser, from disk, without a network."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from recount import datasets
from recount.report.exhibits import Variant
from recount.report.pages.browse import DATA, FOLDER, _Tiles, browse_page
from recount.report.sources import Sources
from recount.settings.project import load
from report import tree
from report.test_browser import Watched, browser  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CROWD = "crowd-test"
MOST = 3_000_000  # bytes of a page and of what it reads at once


def content(path: Path) -> dict[str, Any]:
    """Return what a script file of the browser hands over."""
    found: dict[str, Any] = json.loads(path.read_text().partition(",")[2].strip().removesuffix(");"))
    return found


@pytest.fixture
def watched(browser: Browser, page: Path) -> Iterator[Watched]:  # noqa: F811
    opened = Watched(browser, page.with_name("browse.html"))
    opened.page.locator("#browse-set").select_option(CROWD)
    opened.page.locator("#browse-found", has_text="12 of 12").wait_for()
    yield opened
    opened.page.close()


def names(page: Page) -> list[str]:
    """Return the numbers of the pictures that are shown, in their order."""
    return page.eval_on_selector_all(
        ".browse-card", "cards => cards.map(card => card.textContent.split(' ')[0].replace(':', ''))"
    )


def test_data_have_every_picture_with_its_truth_and_every_system_s_count(page: Path, built: tree.Tree) -> None:
    data = content(page.with_name(FOLDER) / CROWD / DATA)
    assert data["ids"] == [name for name, *_ in built.samples]
    assert data["true"] == [len(points) for *_, points in built.samples]
    runs = [system["run"] for system in data["systems"]]
    assert "gigacount/default/seed0" in runs and len(runs) == len(set(runs)) > 4
    sources = Sources(load(built.root))
    for system in data["systems"]:
        *key, _ = system["run"].split("/")
        frame = sources.predictions_by_variant["crowd", "test", *key]
        mine = frame[(frame["seed"] == 0) & (frame["selection"] == system["weights"])].set_index("id")[
            "predicted_count"
        ]
        assert system["counts"] == pytest.approx(mine.reindex(data["ids"]).tolist(), rel=1e-3, abs=0.06)
    points = content(page.with_name(FOLDER) / CROWD / "points-0.js")
    assert [path.count("M") for path in points["paths"]] == data["true"]
    with Image.open(page.with_name(FOLDER) / CROWD / "0.png") as strip:
        systems = len(data["strips"][data["strip"][0]])
        assert strip.size == (64, systems * (round(64 * tree.SIZE[1] / tree.SIZE[0]) + 2))


def test_maps_of_one_density_look_the_same_whatever_their_resolution_and_have_one_scale() -> None:
    tiles = _Tiles()
    for number, across in enumerate((8, 32)):
        ramp = np.tile((np.arange(across) + 0.5) / across, (across * 3 // 4, 1))
        tiles.add(number, (ramp / ramp.sum() * 100).astype(np.float32), (64, 48))  # 100 objects
    tiles.add(2, (ramp / ramp.sum() * 25).astype(np.float32), (64, 48))
    with Image.open(io.BytesIO(tiles.strip())) as strip:
        shares = np.asarray(strip, int).reshape(3, 50, 64)[:, 1:-1]
    assert np.abs(shares[0] - shares[1])[:, 8:-8].max() <= 2 < shares[0].max()
    assert np.abs(shares[1] - 2 * shares[2])[:, :24].max() <= 2  # a quarter, of which the root is drawn
    tiles.add(3, np.full((2, 2), np.nan, np.float32), (64, 48))
    tiles.add(4, np.zeros((2, 2), np.float32), (64, 48))
    with Image.open(io.BytesIO(tiles.strip())) as strip:
        assert np.asarray(strip)[150:].max() == 0


def test_pictures_whose_licence_forbids_it_are_not_written(
    built: tree.Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(may_be_shown=False)
    monkeypatch.setattr(datasets, "load", lambda name: card)
    wanted = [(Variant("mcnn", "default", "MCNN"), "best_on_test")]
    made = browse_page(Sources(load(built.root)), tmp_path, wanted)
    assert made is not None and "does not let its pictures be published" in made.content["shown"][0].notice
    kinds = {path.suffix for path in (tmp_path / FOLDER).rglob("*.*")}
    assert kinds == {".js", ".png"}  # counts, and maps, which show no picture
    assert not list((tmp_path / FOLDER).rglob("points*"))
    assert content(tmp_path / FOLDER / CROWD / DATA)["photos"] == []


def test_nothing_predicted_is_no_page(tmp_path: Path, built: tree.Tree) -> None:
    assert browse_page(Sources(load(built.root, {"results": "none"})), tmp_path, []) is None


def test_it_asks_for_nothing_elsewhere_and_complains_of_nothing(watched: Watched) -> None:
    watched.page.locator(".browse-card").first.click()
    watched.page.wait_for_load_state("networkidle")
    assert watched.complaints == []
    assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
    assert any(url.endswith(f"{CROWD}/{DATA}") for url in watched.requests)


def test_pictures_are_searched_filtered_and_ordered(watched: Watched) -> None:
    page = watched.page
    page.locator("#browse-order").select_option("many")
    assert names(page) == [f"img_{n}" for n in reversed(range(12))]
    page.locator("#browse-order").select_option("name")
    assert names(page) == [f"img_{n}" for n in range(12)]
    page.locator("#browse-words").fill("IMG_1")
    assert names(page) == ["img_1", "img_10", "img_11"]
    page.locator("#browse-words").fill("")
    page.locator("#browse-least").fill("50")
    page.locator("#browse-most").fill("200")
    counts = [int(8 * 1.45**n) for n in range(12)]
    assert names(page) == [f"img_{n}" for n, count in enumerate(counts) if 50 <= count <= 200]
    page.locator("#browse-least").fill("")
    page.locator("#browse-most").fill("")
    page.locator("#browse-system").select_option(label="GigaCount")
    page.locator("#browse-order").select_option("error")
    shown = page.locator(".browse-card").all_text_contents()
    errors = [abs(float(text.rpartition("(")[2].strip(")").replace("−", "-").replace(",", ""))) for text in shown]
    assert errors == sorted(errors, reverse=True)
    page.locator("#browse-wrong").fill(str(errors[3]))
    assert len(names(page)) == 4
    page.locator("#browse-wrong").fill("1e9")
    assert names(page) == [] and page.locator("#browse-found").text_content() == "0 of 12 pictures"


def test_prompts_are_chosen(browser: Browser, page: Path) -> None:  # noqa: F811
    opened = browser.new_page()
    opened.goto(page.with_name("browse.html").as_uri())
    opened.locator("#browse-set").select_option("shapes_ten-test")
    opened.locator("#browse-found", has_text="90 of 90").wait_for()
    opened.locator("#browse-prompt").select_option(label="a photo of 7 discs")
    assert opened.locator("#browse-found").text_content() == "10 of 90 pictures"
    assert opened.locator("#browse-page").text_content() == "page 1 of 1"
    opened.locator("#browse-prompt").select_option("")
    opened.locator("#browse-on").click()
    assert (
        opened.locator("#browse-page").text_content() == "page 2 of 4" and opened.locator(".browse-card").count() == 24
    )
    opened.close()


def test_a_picture_is_opened_turned_and_closed_by_keys(watched: Watched) -> None:
    page = watched.page
    page.locator("#browse-order").select_option("name")
    page.locator("[data-picture='0']").focus()
    page.keyboard.press("Enter")
    page.locator("#browse-view[open]").wait_for()
    assert page.locator("#browse-title").text_content() == "img_0"
    page.locator("#browse-grid figure:first-child svg path").wait_for(state="attached")
    marks = page.locator("#browse-grid figure:first-child svg path").get_attribute("d")
    assert marks is not None and marks.count("M") == 8
    systems = page.locator("#browse-system option").count() - 1
    assert page.locator("#browse-grid figure").count() == systems + 1
    strips = page.locator("#browse-grid img.strip")
    assert strips.count() > 4
    tall = "img => img.getBoundingClientRect().height / img.parentElement.getBoundingClientRect().height"
    assert strips.first.evaluate(tall) == pytest.approx(strips.count() * 47 / 45, rel=0.02)
    page.keyboard.press("ArrowRight")
    assert page.locator("#browse-title").text_content() == "img_1"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.picture") == "1"


def test_hostile_words_stay_words(browser: Browser, hostile_page: Path) -> None:  # noqa: F811
    opened = Watched(browser, hostile_page.with_name("browse.html"))
    opened.page.locator(".browse-card").first.click()
    opened.page.locator("#browse-grid figure").nth(1).wait_for()
    assert opened.page.evaluate("window.hacked") is None and opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.more)])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.more)])
def test_axe_finds_nothing_serious_and_nothing_runs_off_the_edge(
    browser: Browser,  # noqa: F811
    page: Path,
    width: int,
    scheme: Any,
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(page.with_name("browse.html").as_uri())
    opened.locator(".browse-card").first.wait_for()
    for click in (True, False):  # the page, and an open picture
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(opened).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
        if click:
            opened.locator(".browse-card").first.click()
    opened.close()


#: Does something, and returns the milliseconds until the browser has drawn what came of it.
TIMED = """async (what) => {
  const began = performance.now();
  const at = (id) => document.getElementById(`browse-${id}`);
  const set = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("input", { bubbles: true })); };
  ({
    system: () => set("system", 3), order: () => set("order", "spread"), words: () => set("words", "7"),
    clear: () => set("words", ""), wrong: () => set("wrong", 5), back: () => set("wrong", ""),
    page: () => at("on").click(), open: () => document.querySelector(".browse-card").click(),
    next: () => at("view").querySelector("[data-by='1']").click(),
  })[what]();
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return performance.now() - began;
}"""


@pytest.mark.more
def test_a_click_among_five_thousand_pictures_takes_less_than_a_second(
    browser: Browser,  # noqa: F811
    page: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "report"
    shutil.copytree(page.parent, folder)
    rng = np.random.default_rng(0)
    pictures, systems = 5_000, 40
    true = rng.integers(1, 2_000, pictures)
    counts = (true * rng.uniform(0.5, 1.5, (systems, pictures))).round(1)
    ids, classes = [f"picture_{n:05}" for n in range(pictures)], [f"class {n}" for n in range(147)]
    data = {
        "slug": "made", "ids": ids, "prompts": classes, "prompt": rng.integers(0, 147, pictures).tolist(),
        "classes": classes, "shows": rng.integers(0, 147, (pictures, 2)).tolist(), "true": true.tolist(),
        "width": [384] * pictures, "height": [288] * pictures, "photos": "all", "points": [0],
        "strips": [[*range(systems)]], "strip": [0] * pictures, "tile": 64,
        "systems": [{"label": f"System {n}", "run": f"a/b{n}/seed0", "weights": "last", "counts": row.tolist()}
                    for n, row in enumerate(counts)],
    }  # fmt: skip
    made = folder / FOLDER / "made"
    made.mkdir()
    (made / DATA).write_text(f'browse("set",{json.dumps(data, separators=(",", ":"))});')
    (made / "points-0.js").write_text('browse("points",{"slug":"made","first":0,"paths":["M1 1h0"]});')
    for path in (folder / FOLDER / CROWD).glob("0.*"):
        for number in range(pictures):
            (made / f"{number}{path.suffix}").symlink_to(path)
    assert (made / DATA).stat().st_size < MOST and (folder / "browse.html").stat().st_size < MOST
    text = (folder / "browse.html").read_text()
    (folder / "browse.html").write_text(text.replace(f'value="{CROWD}"', 'value="made"'))
    opened = browser.new_page()
    opened.goto((folder / "browse.html").as_uri())
    opened.locator("#browse-set").select_option("made")
    opened.locator("#browse-found", has_text="5000 of 5000").wait_for()
    steps = ("system", "order", "words", "clear", "wrong", "back", "page", "open", "next")
    took = {step: opened.evaluate(TIMED, step) for step in steps}
    print({step: round(milliseconds) for step, milliseconds in took.items()})
    assert max(took.values()) < 1000, took
    opened.close()
