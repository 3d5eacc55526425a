"""Why something below results/ has no value, or what must be said beside it: kind, text and log, each a column."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "",
    "note",  # there is a value; the text is what must be said beside it
    "dominated",  # there is a value, and one picture carries more than half of its squared error
    "absent data",  # its data set is not prepared
    "failed",  # a step began and did not end; the log says why
    "not run",  # a step has not begun
    "skipped",  # the suite, the configuration or the experiment leaves it out
    "no counterpart",  # the suite has nothing that stands for it, or nobody printed it
    "damaged",  # a file cannot be read, or its content is not what was written
    "stale",  # it was made from something else than what is there now
    "not finite",  # predictions are NaN or infinite
    "undefined",  # it cannot be computed from what there is
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why there is no value, or what must be said of it."""

    kind: Kind = ""
    text: str = ""  # short sentences for people; nothing takes them apart again
    log: str = ""  # the last lines of the log of a step that failed

    def __bool__(self) -> bool:
        """Return whether there is anything to say."""
        return bool(self.text)

    @property
    def is_note(self) -> bool:
        """Whether there is a value, with or without something to be said of it."""
        return self.kind in ("", "note", "dominated")


NOTHING = Reason()


class Missing(Exception):
    """Something has no value; ``reason`` says why."""

    def __init__(self, kind: Kind, text: str, log: str = "") -> None:
        super().__init__(text)
        self.reason = Reason(kind, text, log)

    def of(self, what: str) -> "Missing":
        """Return the same, with ``what`` it is about before the text."""
        return Missing(self.reason.kind, f"{what}: {self.reason.text}", self.reason.log)


def joined(reasons: Iterable[Reason]) -> Reason:
    """Return several reasons as one, each text once; kind and log are those of the first that is more than a note."""
    said = [reason for reason in dict.fromkeys(reasons) if reason]
    if not said:
        return NOTHING
    first = next((reason for reason in said if reason.kind != "note"), said[0])
    log = next((reason.log for reason in (first, *said) if reason.log), "")
    return Reason(first.kind, "; ".join(dict.fromkeys(reason.text for reason in said)), log)
