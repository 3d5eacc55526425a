"""``make simulate``: error rates and power of the rules, through the real ``judge``, into a table that docs and report
show.

Writes ``src/recount/judging/simulated.tsv`` and the tables between the marks of ``docs/verdicts.md``. It takes about a
quarter of an hour on one slow core; ``python tests/judging/simulate.py 50`` draws 50 papers a cell and writes nothing.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from simulated import COMPARED, REACHED, World, over_looks, rates, simulated_project  # noqa: E402

TABLE, PAGE = ROOT / "src/recount/judging/simulated.tsv", ROOT / "docs/verdicts.md"
BEGIN, END = "<!-- simulated: begin -->", "<!-- simulated: end -->"
COLUMNS = ("question", "images", "effect", "seeds_scatter", "own_scatter", "seeds", "looks", "papers", "share")
Row = dict[str, Any]


def row(question: str, world: World, seeds: Any, looks: int, papers: int, hits: int) -> Row:
    """Return a cell of the study."""
    where = (question, world.images, world.effect, world.sd, world.scatter, seeds, looks, papers, hits / papers)
    return dict(zip(COLUMNS, where, strict=True))


def decided(found: dict[str, int]) -> int:
    """Return how many are decided either way."""
    return found.get("holds", 0) + found.get("does not hold", 0)


def study(folder: Path, number: int) -> Iterator[Row]:
    """Yield the cells: errors without an effect, power, printed numbers, and the best of ten epochs."""
    once = simulated_project(folder / "once", [COMPARED], looks=(3,))
    thrice = simulated_project(folder / "thrice", [COMPARED], looks=(3, 5, 8))
    worlds = [World(sd=sd, scatter=scatter) for sd in (0.03, 0.10) for scatter in (1, 3, 5)]
    for world in (*worlds, World(images=334, sd=0.10, scatter=5), World(sd=0.10, pool=False)):
        for seeds in (2, 3, 5, 8):
            hits = decided(rates(once, world, seeds, number))
            yield row("decided without an effect" + " (no pool)" * (not world.pool), world, seeds, 1, number, hits)
        hits = over_looks(thrice, world, (3, 5, 8), number)
        yield row("decided without an effect" + " (no pool)" * (not world.pool), world, "3, 5, 8", 3, number, hits)
    for effect, sd in ((0.2, 0.03), (0.1, 0.03), (0.2, 0.10), (0.1, 0.10)):
        for images in (334, 1190):
            for seeds in (3, 5, 10, 20):
                world = World(effect, images, sd)
                for project, looks in ((once, 1), (thrice, 3)):
                    hits = rates(project, world, seeds, number // 4).get("holds", 0)
                    yield row("holds, with an effect", world, seeds, looks, number // 4, hits)
    yield from printed(folder, number)
    asked = COMPARED | {"weights": "best_on_test", "against": "old/fixed"}
    chosen = simulated_project(folder / "chosen", [asked], looks=(3,))
    world = World(epochs=10)
    hits = rates(chosen, world, 3, number).get("holds", 0)
    yield row("best of ten epochs on test images: holds", world, 3, 1, number, hits)


def printed(folder: Path, number: int) -> Iterator[Row]:
    """Yield how often a printed number is reached or missed, where the truth is as good, worse or better."""
    for worse, how in ((0.0, "as good"), (0.2, "20 % worse"), (0.5, "50 % worse"), (-0.2, "20 % better")):
        for sd in (0.03, 0.10):
            for seeds in (3, 5, 10, 20):
                world = World(effect=-worse, sd=sd, printed=True)
                project = simulated_project(folder / f"n{worse}{sd}{seeds}", [REACHED], looks=(3,))
                found = rates(project, world, seeds, number // 4)
                for name in ("holds", "does not hold"):
                    yield row(f"a printed number {name}, the truth being {how}", world, seeds, 1, number // 4,
                              found.get(name, 0))  # fmt: skip


def markdown(rows: list[Row]) -> str:
    """Return the study as tables, a line for each world and a column for the seeds."""
    parts = []
    for question in dict.fromkeys(row["question"] for row in rows):
        mine = [row for row in rows if row["question"] == question]
        seeds = list(dict.fromkeys((row["seeds"], row["looks"]) for row in mine))
        heads = [f"{k} seeds" + (f", of {looks} looks" if looks > 1 else "") for k, looks in seeds]
        lines = [f"**{question}** (share of {mine[0]['papers']} papers)", ""]
        lines += [
            "| images | effect | seeds scatter | own arms | " + " | ".join(heads) + " |",
            "|---" * (4 + len(seeds)) + "|",
        ]
        for where in dict.fromkeys(tuple(row[name] for name in COLUMNS[1:5]) for row in mine):
            cells = {(r["seeds"], r["looks"]): r["share"] for r in mine if tuple(r[n] for n in COLUMNS[1:5]) == where}
            shown = " | ".join(f"{cells[key]:.1%}" if key in cells else "" for key in seeds)
            images, effect, sd, scatter = where
            lines.append(f"| {images} | {abs(effect):.0%} | {sd:.0%} | {scatter:g} times | {shown} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Run the study; write it if no smaller number of papers is given."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rows = []
    with TemporaryDirectory() as folder:
        for found in study(Path(folder), number):
            rows.append(found)
            print(" | ".join(map(str, found.values())), flush=True)
    if len(sys.argv) > 1:
        return
    with TABLE.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{markdown(rows)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
