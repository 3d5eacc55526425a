"""Write into README what a run of suite mini measured, and the picture of its front page.

``python docs/measured.py FOLDER``: the project whose results and report of mini it reads.
"""

import csv
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
BENCHMARKS = {"fsc147/test": "majority", "fsc147s/v1": "minority", "carpk/test": "parked cars"}
ROWS = ("t2icount/full", "t2icount/b", "t2icount/b_rrc", "t2icount/b_hscm", "countx/descriptions", "countx/class_names",
        "vlcounter/as_released", "clip_count/as_released")  # fmt: skip


def main() -> None:
    """Rewrite what stands between the marks, and docs/report.png."""
    project = Path(sys.argv[1]).resolve()
    with (project / "results/mini/scores.csv").open(encoding="utf-8", newline="") as file:
        scores = [row for row in csv.DictReader(file) if row["value"]]
    cells = {
        (f"{row['system']}/{row['variant']}", row["benchmark"], row["metric"]): row
        for row in scores
        if row["selection"] == "last" and row["seed"] == "0" and row["status"] == "trained"
    }
    commit = subprocess.run(
        ["git", "-C", str(project), "log", "-1", "--format=%h"], check=True, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        f"Suite `mini`, seed 0, last epoch, commit {commit}: MAE with its 95 % interval over pictures, where the "
        "prompt names what the picture mostly shows, where it names a minority, and on parked cars.",
        "",
        f"| run | {' | '.join(BENCHMARKS.values())} |",
        "|---|" + "---|" * len(BENCHMARKS),
    ]
    for run in ROWS:
        found = [cells.get((run, benchmark, "mae")) for benchmark in BENCHMARKS]
        lines.append(f"| {run} | {' | '.join(_shown(row) for row in found)} |")
    tuned = [
        100 * float(row["value"])
        for (run, benchmark, metric), row in cells.items()
        if run.startswith("countclip/") and benchmark == "countbench_zenodo509/test" and metric == "accuracy"
    ]
    untuned = 100 * float(cells["countclip/baseline", "countbench_zenodo509/test", "accuracy"]["value"])
    lines += [
        "",
        f"CountCLIP: {untuned:.1f} % right before tuning, {min(t for t in tuned if t != untuned):.1f} to "
        f"{max(tuned):.1f} % in {len(tuned) - 1} configurations (180 pictures of two to ten things, chance 11.1 %).",
    ]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    block = "\n".join([BEGIN, "", *lines, "", END])
    (ROOT / "README.md").write_text(before + block + after, encoding="utf-8")
    _picture(project / "reports/mini/index.html")


def _shown(row: dict[str, str] | None) -> str:
    if row is None:
        return "–"
    value, low, high = (float(row[key]) for key in ("value", "ci_low", "ci_high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _picture(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1200, "height": 900})
        window.goto(page.as_uri())
        window.screenshot(path=ROOT / "docs/report.png")
        browser.close()


if __name__ == "__main__":
    main()
