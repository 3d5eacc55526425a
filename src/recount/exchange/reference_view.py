"""How results agree with the reference run, as a document: what differs in its tables, every cell in its rows."""

from dataclasses import asdict

from recount.documents import Document, Sheet
from recount.metrics import metric as metric_of
from recount.reference import Agreement, ComparedCell


def document(found: Agreement) -> Document:
    """Return an agreement as a document; its tables have what differs, and its rows every cell."""
    differs = [
        (c.outcome, f"{c.system}/{c.variant}", c.dataset, c.selection, metric_of(c.metric).label, f"{c.here:.4g}",
         f"{c.reference:.4g} ± {c.sd:.2g}", f"{c.q_value:.2g}") for c in found.outcomes.get("differs", [])
    ]  # fmt: skip
    other = [name for name, same in found.files.items() if not same]
    heads = ("Outcome", "Run", "On", "Weights", "Metric", "Here", "Reference", "q")
    sheets = [Sheet("Differs", heads, differs)]
    columns = tuple(ComparedCell.__dataclass_fields__)
    return Document(
        f"Suite {found.reference.suite} beside its reference run",
        [*found.lines, f"The reference run: {found.reference.title}."],
        sheets,
        {
            "reference": found.reference.model_dump(mode="json", exclude={"planned", "code", "checksum"}),
            "outcomes": {outcome: len(cells) for outcome, cells in found.outcomes.items()},
            "cells": [asdict(cell) for cell in found.cells],
            "other_predictions": other,
            "made_otherwise": list(found.apart),
        },
        columns,
        [[getattr(cell, name) for name in columns] for cell in found.cells],
    )
