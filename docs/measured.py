"""Write into README what the reference run of suite mini measured, and take the picture of its front page.

``python docs/measured.py [REPORT]``: reads ``reference/mini``; REPORT, the folder of the report that was made with it,
is pictured in docs/report.png.
"""

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from recount.results.reference import Reference, ReferenceScore, read  # noqa: E402

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PLACES = {"shapes/test": "majority", "shapes_minority/test": "minority", "parking/test": "parked cars"}
ROWS = ("t2icount/full", "t2icount/b", "t2icount/b_rrc", "t2icount/b_hscm", "countx/descriptions", "countx/class_names",
        "vlcounter/as_released", "clip_count/as_released")  # fmt: skip
CAPTIONS, UNTUNED = "shapes_ten/test", "countclip/baseline"
Values = dict[tuple[str, str, str], list[float]]  # of the last epoch's weights, a seed each


def main() -> None:
    """Rewrite what stands between the marks of README, and docs/report.png where a report is given."""
    found = read(ROOT / "reference/mini")
    if found is None:
        sys.exit('reference/mini is not there: `recount reference --write --config "seeds=[0,1,2]"` makes it')
    readme = ROOT / "README.md"
    readme.write_text(measured(readme.read_text(encoding="utf-8"), *found[:2]), encoding="utf-8")
    for report in sys.argv[1:]:
        _picture(Path(report).resolve() / "index.html")


def measured(readme: str, record: Reference, scores: list[ReferenceScore]) -> str:
    """Return README's text with the numbers of a reference run between the marks."""
    values: Values = defaultdict(list)
    for score in scores:
        if score.selection == "last":
            values[f"{score.system}/{score.variant}", score.dataset, score.metric].append(score.value)
    lines = [
        f"The reference run of suite `mini` ({record.title}), last epoch: MAE, mean ± standard deviation over its "
        "seeds, where the prompt names what the picture mostly shows, where it names a minority, and on parked cars.",
        "",
        f"| run | {' | '.join(PLACES.values())} |",
        "|---|" + "---|" * len(PLACES),
        *(f"| {run} | {' | '.join(_shown(values.get((run, place, 'mae'))) for place in PLACES)} |" for run in ROWS),
    ]
    answers = {
        run: 100 * fmean(v) for (run, place, name), v in values.items() if (place, name) == (CAPTIONS, "accuracy")
    }
    tuned = [share for run, share in answers.items() if run != UNTUNED]
    if tuned and UNTUNED in answers:
        n = next(score.n for score in scores if score.dataset == CAPTIONS)
        lines += [
            "",
            f"CountCLIP: {answers[UNTUNED]:.1f} % right before tuning, {min(tuned):.1f} to {max(tuned):.1f} % in "
            f"{len(tuned)} configurations ({n} pictures of two to ten things, chance {100 / 9:.1f} %).",
        ]
    before, rest = readme.split(BEGIN)
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{rest.split(END)[1]}"])


def _shown(values: list[float] | None) -> str:
    if not values:
        return "–"
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _picture(page: Path) -> None:
    from PIL import Image
    from playwright.sync_api import sync_playwright

    picture = ROOT / "docs/report.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
        window.goto(page.as_uri())
        window.screenshot(path=picture)
        browser.close()
    with Image.open(picture) as shot:
        shot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
