"""A report is a folder of pages that need nothing else: how one is rendered, what links to what, where pictures lie.

A page has its style and script in it, and a content security policy forbids everything from elsewhere. Each page is
told which anchors the others hold (``Page.holds``), so that an old link to any of them is followed.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recount.metrics import metric as metric_of
from recount.report import claims, numbers
from recount.report.tables import CHOICES, MARKS, STATUSES

TEMPLATES = Path(__file__).parents[1] / "templates"
PICTURES = "pictures"  # the folder of photographs and maps


@dataclass(frozen=True)
class Page:
    """A page: its file below the report's folder, what the contents call it, and what its template shows."""

    file: str
    title: str
    template: str
    holds: tuple[str, ...]  # how the anchors on it begin
    links: tuple[tuple[str, str], ...] = ()  # (anchor, words) of its sections, for the contents
    content: Mapping[str, Any] = field(default_factory=dict)
    searchable: bool = True  # whether it has rows to search
    under: str = ""  # title of the page that the contents put it under
    script: str = ""  # a script of its own, which may read script files beside the page

    @property
    def address(self) -> str:
        """Return its address below the report's folder."""
        return quote(self.file)

    @property
    def root(self) -> str:
        """Return how the report's folder is reached from it."""
        return "../" * self.file.count("/")


def write_pages(folder: Path, pages: Sequence[Page], shared: Mapping[str, Any]) -> None:
    """Write all pages of a report into ``folder``."""
    (folder / PICTURES).mkdir(exist_ok=True)
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    for page in pages:
        environment = _environment()
        scripts = [(TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", page.script) if name]
        digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
        texts = {"style": style, "scripts": list(map(Markup, scripts)), "script_hashes": digests}
        environment.globals |= {"pages": pages, "page": page, "root": page.root, **texts, **shared}
        environment.filters["stored"] = partial(stored, folder, page.root)
        path = folder / page.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(environment.get_template(page.template).render(page.content), encoding="utf-8")


def stored(folder: Path, root: str, uri: str) -> str:
    """Write the picture in a data URI below ``folder``, named by its digest, and return its address from a page."""
    head, _, content = uri.partition(";base64,")
    picture = base64.b64decode(content)
    name = f"{PICTURES}/{hashlib.sha256(picture).hexdigest()[:20]}.{head.rpartition('/')[2]}"
    (folder / name).write_bytes(picture)
    return f"{root}{name}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {name: getattr(numbers, name) for name in ("number", "signed", "percent", "count")}
    environment.filters["quoted"] = quote
    environment.globals |= {"metric": metric_of, "present": numbers.present, "choices": CHOICES}
    environment.globals |= {"values_text": claims.values_text, "scale_marks": MARKS, "statuses": STATUSES}
    environment.globals |= {"verdicts": claims.VERDICTS, "evidence": claims.EVIDENCE}
    return environment
