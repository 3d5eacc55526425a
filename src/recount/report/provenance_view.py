"""Provenance as the report shows it: what all runs share is said once, what differs stands per run."""

from collections.abc import Mapping, Sequence
from typing import Any

from recount.report.sources import ReportedRun


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested keys joined by dots, values as text."""
    result: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            result[name] = " ".join(str(entry) for entry in value) or "none"
        else:
            result[name] = "none" if value is None else str(value)
    return result


def shared_and_differing(
    runs: Sequence[ReportedRun],
) -> tuple[dict[str, str], list[str], list[tuple[str, dict[str, str]]]]:
    """Return what all runs share, the keys that differ or are not everywhere, and (run, its values of those keys)."""
    tables = [
        (f"{run.system}/{run.variant}/seed{run.seed}", flat(run.record.provenance.model_dump(exclude_unset=True)))
        for run in runs
        if run.record
    ]
    keys = list(dict.fromkeys(key for _, table in tables for key in table))
    shared = {key: tables[0][1][key] for key in keys if len({table.get(key) for _, table in tables}) == 1}
    differing = [key for key in keys if key not in shared]
    return shared, differing, [(name, {key: table.get(key, "") for key in differing}) for name, table in tables]
