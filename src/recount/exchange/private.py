"""Text without the paths of the machine that it was written on: all that an export holds goes through here.

Absolute paths, wherever in a string they stand, keep their last part only, those below the project become relative, a
home is ``~``. Addresses (``https://…``), relative paths, closing tags and fractions only look like paths and stay. Code
and predictions, whose captions are compared letter by letter, lose the project's folder and homes alone.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from recount.errors import expanded
from recount.results.files import csv_text, from_text, neutral

CODE = {".py", ".smk"}
MARKUP = {".html", ".svg"}
_END = r"\s\"'`<>|,;:()\[\]{}&?#*=\\/"  # what ends a part of a path
_PART = rf"[^{_END}]+"
_BELOW = rf"(?![^{_END}])(?:/+{_PART})*/*"  # after a known folder: the whole of its name, and what lies in it
_SCHEME = r"(?:(?:file|ssh|sftp|scp|rsync|nfs|smb):(?://[^\s/\"'<>]*)?)?"
_START = r"(?:(?<![\w./])|(?<=\s-\w)|(?<=^-\w))"  # no relative path, but -I/home/me
_ADDRESS = r"(?:https?|ftp|s3|gs|hf)://(?=[\w\[])[^\s\"'<>?#=,;&()\[\]{}|]*|</[A-Za-z][\w:-]*\s*>"
_HOMES = rf"/+(?:home|Users)/+{_PART}(?: {_PART})?(?=/)|/+(?:home|Users)/+{_PART}|/+root"
# No part of a formula, a pattern or a placeholder: (a)/b, */b, <suite>/b, -//W3C//DTD
_ELSEWHERE = rf"(?:(?<![\w./)\]}}>*%…-])(?<!&gt;)|(?<=\s-\w)|(?<=^-\w)){_SCHEME}/+{_PART}(?:/+{_PART})*/*"
_TILDE = rf"(?<![\w~/])~[\w.-]*(?:/+{_PART})+/*"
_WINDOWS = rf"(?<!\w)(?:[A-Za-z]:[\\/]+|\\\\)(?:[^\\/:*?\"<>|\r\n]+[\\/]+)*(?:{_PART})?"
_VERBATIM = re.compile(r"(?s)(<script\b.*?</script>|<style\b.*?</style>|\bdata:[\w/+.-]+;base64,[\w/+=]*)")
_TAG = re.compile(r"(<[^<>]*>)")


@cache
def _pattern(root: Path, *, everywhere: bool) -> re.Pattern[str]:
    roots = "|".join(re.escape(str(path)) for path in {root.resolve(), root.absolute()} if path != Path(path.anchor))
    home = expanded("~")
    own = rf"(?P<own>{re.escape(str(home))}){_BELOW}|" if len(home.parts) > 2 else ""
    project = rf"{_START}{_SCHEME}(?P<root>{roots}){_BELOW}|" if roots else ""
    known = rf"(?P<kept>{_ADDRESS})|{project}{own}{_START}{_SCHEME}(?P<home>{_HOMES}){_BELOW}"
    return re.compile(rf"{known}|{_WINDOWS}|{_TILDE}|{_ELSEWHERE}" if everywhere else known)


def without_paths(text: str, root: Path, *, everywhere: bool = True) -> str:
    """Return text without paths of this machine, whose project lies at ``root``; ``everywhere``: all of them."""

    def shortened(hit: re.Match[str]) -> str:
        groups = hit.groupdict()
        if groups["kept"]:
            return hit[0]
        for name, short in (("root", "."), ("own", "~"), ("home", "~")):
            if groups.get(name):
                below = hit[0][hit.end(name) - hit.start() :].strip("/")
                return (below if name == "root" else re.split(r"/+", below)[-1]) or short
        last = re.split(r"[/\\]+", hit[0].rstrip("/\\"))[-1]
        return "~" if last == expanded("~").name else last

    return _pattern(root, everywhere=everywhere).sub(shortened, text)


def cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """Return what a JSON file holds with every string, of keys too, cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): cleaned(entry, clean) for key, entry in value.items()}
    return [cleaned(entry, clean) for entry in value] if isinstance(value, list) else value


def clean_file(path: Path, root: Path, *, everywhere: bool = True) -> None:
    """Clean a file in place, and its cells of formulas; what is no text stays."""
    content = path.read_bytes()
    if b"\0" in content:
        return
    text = content.decode("utf-8", "surrogateescape")

    def clean(part: str) -> str:
        return without_paths(part, root, everywhere=everywhere and path.suffix not in CODE)

    if path.suffix == ".json":
        new = _json(text, clean)
    elif path.suffix == ".csv":
        new = _csv(neutral(text), clean)
    elif path.suffix in MARKUP:
        parts = _VERBATIM.split(text)
        parts[::2] = ["".join(map(clean, _TAG.split(part))) for part in parts[::2]]
        new = "".join(parts)
    else:
        new = clean(text)
    if new != text:
        path.write_bytes(new.encode("utf-8", "surrogateescape"))


def _json(text: str, clean: Callable[[str], str]) -> str:
    try:
        parsed = json.loads(text)
        new = cleaned(parsed, clean)
    except (ValueError, RecursionError):
        return clean(text)
    return text if _dumped(new) == _dumped(parsed) else f"{_dumped(new)}\n"  # NaN is not equal to itself


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _csv(text: str, clean: Callable[[str], str]) -> str:
    try:
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError):
        return clean(text)
    cells = [[from_text(cell) for cell in row] for row in (head, *rows)]
    new = [[clean(cell) for cell in row] for row in cells]
    return text if new == cells else csv_text(new[0], new[1:])
