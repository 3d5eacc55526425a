"""``make simulate``: error rates and power of the rules, through the real ``judge``, into a table that docs and report
show.

Writes ``src/recount/judging/simulated.tsv`` and the tables between the marks of ``docs/verdicts.md``. It takes about
half an hour on one slow core; ``python tests/judging/simulate.py 200`` draws 200 papers a cell (half as many, or 100,
where power or other shapes are asked).
"""

import csv
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from simulated import (  # noqa: E402
    COMPARED,
    ERRORS,
    REACHED,
    World,
    over_looks,
    rates,
    rates_of_both,
    simulated_project,
)

TABLE, PAGE = ROOT / "src/recount/judging/simulated.tsv", ROOT / "docs/verdicts.md"
BEGIN, END = "<!-- simulated: begin -->", "<!-- simulated: end -->"
COLUMNS = ("question", "shape", "images", "effect", "seeds_scatter", "own_scatter", "seeds", "looks", "papers", "share")
Row = dict[str, Any]
LOOKS = (3, 5, 8)
NULL, POWER = "decided without an effect", "holds, with an effect"
TRIAL = "the rule of the trial, on the same papers"
FAMILY = [name for name in ERRORS if name not in ("all repeats", "constant")]
#: other shapes of data, each without an effect
SHAPES = [
    *(World(images=n, sd=0.1, errors=e, hardness=h, other=other)
      for n in (20, 100)
      for e, h in (("normal, half repeats", "Pareto 1.5"), ("seven of ten are 0", "log-normal"),
                   ("all repeats", "alike"))
      for other in (0, 8)),
    *(World(images=n, errors="constant", hardness="alike", skewed=sd) for n in (20, 100, 334) for sd in (0.7, 1.3)),
    *(World(images=n, sd=sd, share=p) for n in (20, 509) for p in (0.02, 0.5, 0.95) for sd in (0.3,)),
    *(World(images=n, sd=0.1, errors=e, hardness="alike", pool=False, unlike=unlike)
      for n, e in ((100, "constant"), (1190, "all repeats"))
      for unlike in (1, 2, 5, 10)),
]  # fmt: skip


def shape(world: World) -> str:
    """Return in words what errors and pictures are like."""
    if world.share:
        return f"accuracy {world.share:.0%}"
    words = [world.errors] + [f"pictures {world.hardness}"] * (world.hardness != "log-normal")
    words += [f"one arm skewed {world.skewed:g}"] * bool(world.skewed) + ["no pool"] * (not world.pool)
    words += [f"one arm scatters {world.unlike:g} times as much"] * (world.unlike != 1)
    return ", ".join(words)


def row(question: str, world: World, seeds: Any, looks: int, papers: int, hits: int) -> Row:
    """Return a cell of the study."""
    seeds = f"{seeds} and {world.other}" if world.other else seeds
    where = (question, shape(world), world.images, world.effect, world.sd, world.scatter, seeds, looks, papers)
    return dict(zip(COLUMNS, (*where, hits / papers), strict=True))


def decided(found: dict[str, int]) -> int:
    """Return how many are decided either way."""
    return found.get("holds", 0) + found.get("does not hold", 0)


def study(folder: Path, number: int) -> Iterator[Row]:
    """Yield the cells: errors without an effect, power, printed numbers, and the best of ten epochs."""
    once = simulated_project(folder / "once", [COMPARED], looks=(3,))
    thrice = simulated_project(folder / "thrice", [COMPARED], looks=LOOKS)
    worlds = [World(sd=sd, scatter=scatter) for sd in (0.03, 0.10) for scatter in (1, 2, 5)]
    for world in (*worlds, World(images=1190, sd=0.10, scatter=2), World(sd=0.10, pool=False)):
        for seeds in (2, 3, 8):
            yield row(NULL, world, seeds, 1, number, decided(rates(once, world, seeds, number)))
        yield row(NULL, world, "3, 5 or 8", 3, number, decided(over_looks(thrice, world, LOOKS, number)[-1]))
    some = max(number // 2, 100)
    for effect, sd in ((0.2, 0.03), (0.1, 0.03), (0.2, 0.10), (0.1, 0.10)):
        for images in (334, 1190):
            world = World(effect, images, sd)
            for seeds in (3, 5, 10, 20):
                ours, first = rates_of_both(once, world, seeds, some)
                yield row(POWER, world, seeds, 1, some, ours["holds"])
                yield row(f"{POWER}: {TRIAL}", world, seeds, 1, some, first["holds"])
            for seeds, found in zip(LOOKS, over_looks(thrice, world, LOOKS, some), strict=True):
                yield row(f"{POWER}, by this look of three", world, seeds, 3, some, found.get("holds", 0))
    for errors in FAMILY:
        for sd, seeds in product((0.03, 0.10), (3, 5)):
            world = World(0.2, 334, sd, errors=errors)
            yield row(
                "other errors: holds, with an effect",
                world,
                seeds,
                1,
                some,
                rates(once, world, seeds, some).get("holds", 0),
            )
        for sd, seeds in ((0.10, 3), (0.10, 5)):
            world = World(0.0, 334, sd, errors=errors)
            yield row(f"other errors: {NULL}", world, seeds, 1, some, decided(rates(once, world, seeds, some)))
    of_shares = simulated_project(folder / "shares", [COMPARED | {"expect": "higher accuracy"}], looks=(3,))
    roots = simulated_project(folder / "roots", [COMPARED | {"expect": "lower rmse"}], looks=(3,))
    for world in SHAPES:
        ours, first = rates_of_both(of_shares if world.share else once, world, 3, some)
        yield row(f"other shapes: {NULL}", world, 3, 1, some, decided(ours))
        if not world.share:
            yield row(f"other shapes: {NULL}: {TRIAL}", world, 3, 1, some, decided(first))
        if not world.share and not world.skewed and world.pool:  # of one mean, but not of one root mean square
            yield row(f"other shapes, RMSE: {NULL}", world, 3, 1, some, decided(rates(roots, world, 3, some)))
    yield from printed(folder, some)
    asked = COMPARED | {"weights": "best_on_test", "against": "old/fixed"}
    chosen = simulated_project(folder / "chosen", [asked], looks=(3,))
    world = World(epochs=10)
    hits = rates(chosen, world, 3, number).get("holds", 0)
    yield row("best of ten epochs on test images: holds", world, 3, 1, number, hits)


def printed(folder: Path, number: int) -> Iterator[Row]:
    """Yield how often a printed number is reached or missed, where the truth is as good, worse or better."""
    project = simulated_project(folder / "number", [REACHED], looks=(3,))
    for worse, how in ((0.0, "as good"), (0.2, "20 % worse"), (0.5, "50 % worse"), (-0.2, "20 % better")):
        for sd in (0.03, 0.10):
            for seeds in (3, 5, 10, 20):
                world = World(effect=-worse, sd=sd, printed=True, errors="all repeats")
                found = rates(project, world, seeds, number)
                for name in ("holds", "does not hold"):
                    hits = found.get(name, 0)
                    yield row(f"a printed number {name}, the truth being {how}", world, seeds, 1, number, hits)


def markdown(rows: list[Row]) -> str:
    """Return the study as tables, a line for each world and a column for the seeds."""
    parts = []
    for question in dict.fromkeys(row["question"] for row in rows):
        mine = [row for row in rows if row["question"] == question]
        seeds = list(dict.fromkeys((row["seeds"], row["looks"]) for row in mine))
        heads = [f"{k} seeds" + (f", of {looks} looks" if looks > 1 else "") for k, looks in seeds]
        papers = " to ".join(map(str, sorted({min(row["papers"] for row in mine), max(row["papers"] for row in mine)})))
        lines = [f"**{question}** (share of {papers} papers)", ""]
        lines += [
            "| errors | images | effect | seeds scatter | own arms | " + " | ".join(heads) + " |",
            "|---" * (5 + len(seeds)) + "|",
        ]
        for where in dict.fromkeys(tuple(row[name] for name in COLUMNS[1:6]) for row in mine):
            cells = {(r["seeds"], r["looks"]): r["share"] for r in mine if tuple(r[n] for n in COLUMNS[1:6]) == where}
            shown = " | ".join(f"{cells[key]:.1%}" if key in cells else "" for key in seeds)
            errors, images, effect, sd, scatter = where
            lines.append(f"| {errors} | {images} | {abs(effect):.0%} | {sd:.0%} | {scatter:g} times | {shown} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write_between(begin: str, end: str, lines: str) -> None:
    """Replace what stands between two marks of docs/verdicts.md."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{head}{begin}\n\n{lines}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Run the study and write it, with the number of papers that stands behind each share."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rows = []
    with TemporaryDirectory() as folder:
        for found in study(Path(folder), number):
            rows.append(found)
            print(" | ".join(map(str, found.values())), flush=True)
    with TABLE.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_between(BEGIN, END, markdown(rows))


if __name__ == "__main__":
    main()
