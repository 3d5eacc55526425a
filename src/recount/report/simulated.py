"""How often the rules err and what they find, from the table that ``make simulate`` writes, for the page."""

import csv
from functools import cache
from importlib.resources import files

from recount.report.exhibits import Cell, Line, Sheet
from recount.report.numbers import percent
from recount.report.words import said


@cache
def simulated_sheet() -> Sheet:
    """Return the simulated shares: without an effect what was decided, with one what held; a column for the seeds."""
    text = (files("recount.judging") / "simulated.tsv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines(), delimiter="\t") if row["looks"] in ("1", "3")]
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        where = tuple(row[name] for name in ("question", "shape", "images", "effect", "seeds_scatter", "own_scatter"))
        looks = f"{row['seeds']} seeds" if row["looks"] == "1" else f"{row['seeds']} seeds, of 3 looks"
        found.setdefault(where, {})[looks] = float(row["share"])
    papers = sorted({int(row["papers"]) for row in rows})
    seeds = list(dict.fromkeys(name for shares in found.values() for name in shares))
    lines = [
        Line((
            *(question, shape, int(images), percent(float(effect)), percent(float(scatter)), f"{float(own):g} times"),
            *(Cell(shares.get(name), percent(shares.get(name), 1)) for name in seeds),
        ))
        for (question, shape, images, effect, scatter, own), shares in found.items()
    ]  # fmt: skip
    heads = ("Question", "Errors", "Images", "Effect", "Seeds scatter", "Own arms", *seeds)
    return Sheet(
        "simulated", "Simulated papers", heads, tuple(lines), note=said("simulated", least=papers[0], most=papers[-1])
    )
