"""Reading anyone's files of counts or points: CSV, JSON, JSON lines, and the points files of crowd localisation.

A line names an image and gives a count, or the points that are counted. Several columns that may name the image, or
several that may be the count, are told apart by the other file and by ``--column``; nothing is guessed. Each value is
checked to be one, and what is wrong is listed with line and column.

    image,count              {"image": "1.jpg", "count": 12}             {"1.jpg": 12, "2.jpg": [[3, 4], [8, 1]]}
    1.jpg,12                 {"image": "2.jpg", "points": [[3, 4]]}      {"1.jpg": {"points": [[3, 4]], "boxes": [...]}}

    image,x,y                a point in each row, with box_w and box_h where boxes are known; an image
    1.jpg,3,4                without points has one row whose x and y are empty
    7 2 3 4 8 1              id, number, x and y of each point (NWPU-Crowd, FIDTM); of true points x, y, sigma_s,
                             sigma_l and level, as in their val_gt_loc.txt

Separators are comma, semicolon, tab or blanks. Without a header, columns are image and count. A count of 0 says where
all points are, too: a file of nothing but zeros (``7 0``) is one of points in which no image has any.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recount.errors import UserError, printable
from recount.metrics import Floats
from recount.results.files import from_text
from recount.scoring.matching import of_boxes

NAMES = (
    "image", "file", "filename", "file_name", "image_name", "img", "image_id", "img_id", "path", "image_path", "id",
    "name",
)  # fmt: skip
# What words in a column's name say of it; a column that says none of these may be anything.
WORDS = {
    "prediction": {"pred", "preds", "predicted", "prediction", "predictions", "predict", "est", "estimate", "estimated",
                   "estimation", "output"},
    "truth": {"true", "truth", "gt", "groundtruth", "ground", "target", "label", "annotated", "annotation", "actual",
              "annotations", "human", "manual", "real", "reference"},
    "count": {"count", "counts", "cnt", "number", "num", "total", "value", "points"},
}  # fmt: skip
NO_COUNTS = {
    "prompt", "selection", "split", "run", "seed", "width", "height", "w", "h", "seconds", "time", "overlay", "problem",
    "class", "category", "score", "confidence", "x", "y", "box_w", "box_h", "boxes", "level", "attributes", "index",
}  # fmt: skip
POINT_COLUMNS, RADII = "x, y", "sigma_s, sigma_l"  # columns that belong together, under a name that no column can have
SHOWN = 5
LONGEST = 80  # characters of a name or value in a message
LARGEST = 2.0**53  # above it, a float does not hold every whole number
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?|nan", re.ASCII | re.IGNORECASE)

Role = Literal["prediction", "truth"]
Key = tuple[str, str]  # image, prompt


class NotAValue(ValueError):
    """Text, JSON or a value is not what it should be; the message says why, and the caller where."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one image (and prompt)."""

    where: str  # line or key, and column
    names: tuple[str, ...]  # of the image, one for each of the table's ``name_columns``
    prompt: str
    count: float
    points: Floats | None = None  # [n, 2], x and y in pixels
    radii: Floats | None = None  # [n, 2], sigma_s and sigma_l in pixels, where boxes are known


@dataclass(frozen=True, slots=True)
class Table:
    """A file of counts or points."""

    path: Path
    name_columns: tuple[str, ...]
    column: str  # that was read
    selection: str  # "" where the file has no selections
    entries: tuple[Entry, ...]

    @property
    def names(self) -> list[tuple[str, ...]]:
        """What each entry calls its image, one name for each of ``name_columns``."""
        return [entry.names for entry in self.entries]

    def by_key(self, name_column: str) -> dict[Key, Entry]:
        """Return the entries by image, as a column names it, and prompt; a UserError if one is there twice."""
        place = self.name_columns.index(name_column)
        found: dict[Key, Entry] = {}
        problems = []
        for entry in self.entries:
            key = entry.names[place], entry.prompt
            if key in found:
                problems.append(f"{entry.where}: {shown(key)}: occurs twice, first in {found[key].where}")
            found.setdefault(key, entry)
        raise_if_any(self.path, problems)
        return found

    @property
    def has_points(self) -> bool:
        """Whether the points of every image are known: they are listed, or there are none."""
        return all(entry.points is not None for entry in self.entries)


@dataclass(slots=True)
class _Record:
    """A line, entry or key of a file: its values by column."""

    where: str
    values: dict[str, Any]
    problem: str = ""  # with its place


def raise_if_any(path: Path, problems: Sequence[str]) -> None:
    """Raise a UserError that lists the first problems and counts the others, if there are any."""
    if problems:
        raise UserError(f"{path}: " + listed(problems, "\n  "))


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """Return the first items, and how many more there are."""
    rest = f"{separator}and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + rest


def shown(key: Key) -> str:
    """Return an image's name with its prompt, as it can be printed."""
    return f"{_short(key[0])} ({_short(key[1])})" if key[1] else _short(key[0])


def _short(text: str) -> str:
    text = printable(text[: LONGEST + 1]).replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def read_table(path: Path, role: Role, column: str | None = None, selection: str | None = None) -> Table:
    """Read a file of predictions or of the truth; a UserError lists the first of what is wrong, with line and column.

    Args:
        path: the file.
        role: what is looked for in it. The truth must not be below 0.
        column: which column (or JSON key) is the count or the points, where several may be.
        selection: which one to take, where a column ``selection`` has several (recount's own predictions).
    """
    try:
        return _read_table(path, role, column, selection)
    except NotAValue as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: JSON in it is nested too deeply") from None


def _read_table(path: Path, role: Role, column: str | None, selection: str | None) -> Table:
    records = _records(_text(path))
    if not records:
        raise NotAValue("no image is in it")
    columns = list(dict.fromkeys(name for record in records for name in record.values))
    names = [name for name in NAMES if name in columns]
    if not names:
        raise UserError(f"{path}: no column names the image: {_columns(columns)}; expected one of {', '.join(NAMES)}")
    full = [name for name in names if all(record.values.get(name) not in (None, "") for record in records)]
    names = full or names[:1]  # recount's own predictions leave out the file's name where there is none
    records, chosen = _selected(path, records, selection)
    value = _value_column(path, role, columns, records, column)
    if value == POINT_COLUMNS:
        names = names[:1]
        records = list(_in_images(records, names[0]))
    entries, problems = [], []
    for record in records:
        label = shown((str(record.values.get(names[0], "")), str(record.values.get("prompt", ""))))
        if record.problem:
            problems.append(f"{label}: {record.problem}")
            continue
        try:
            entries.append(_entry(record, names, value, role))
        except NotAValue as error:
            problems.append(f"{_place(record, value)}: {label}: {error}")
    raise_if_any(path, problems)
    return Table(path, tuple(names), value, chosen, tuple(entries))


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    return text


def _all(names: Sequence[str]) -> str:
    return listed([_short(name) for name in names])


def _columns(columns: Sequence[str]) -> str:
    return f"columns are {_all(columns)}"


def _place(record: _Record, column: str) -> str:
    return f"{record.where}, column {_short(column)}" if column else record.where


# ------------------------------------------------------------------------------------------------------------- columns


def _selected(path: Path, records: list[_Record], wanted: str | None) -> tuple[list[_Record], str]:
    """Return the records of one selection, and which it is; "" where the file has no such column."""
    there = list(dict.fromkeys(str(record.values.get("selection", "")) for record in records))
    if wanted is None and len(there) > 1:
        raise UserError(f"{path}: it has several selections: {_all(there)}; choose with --selection")
    if wanted is not None and any(there) and wanted not in there:
        raise UserError(f"{path}: --selection {wanted}: no such selection; it has {_all(there)}")
    chosen = wanted if wanted in there else there[0]
    return [record for record in records if str(record.values.get("selection", "")) == chosen], str(chosen)


def _value_column(path: Path, role: Role, columns: list[str], records: list[_Record], wanted: str | None) -> str:
    """Return the column of the count or the points; a UserError if none is, or several may be."""
    option, in_rows = ("--column" if role == "prediction" else "--truth-column"), {"x", "y"} <= set(columns)
    if wanted is not None:
        name = wanted if wanted == POINT_COLUMNS else _called(wanted)
        if in_rows and (name in ("x", "y", POINT_COLUMNS) or (name == "points" and name not in columns)):
            return POINT_COLUMNS
        if name not in columns:
            raise UserError(f"{path}: {option} {wanted}: no such column; {_columns(columns)}")
        return name
    candidates = [*_candidates(role, columns, records), *[POINT_COLUMNS] * in_rows]
    if len(candidates) > 1:
        candidates = _agreeing(candidates, records) or candidates
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        several = f"{len(candidates)} columns could be the {role}: {_all(candidates)}"
        raise UserError(f"{path}: {several}; choose with {option}")
    raise UserError(f"{path}: no column is called like a {role} or count: {_columns(columns)}; choose with {option}")


def _candidates(role: Role, columns: Sequence[str], records: Sequence[_Record]) -> Iterator[str]:
    """Yield the columns that may be what is looked for: by their names, and for predictions by their numbers, too."""
    roles = {name: _role(name) for name in columns if name not in (*NAMES, *NO_COUNTS, RADII)}
    named = [name for name, said in roles.items() if said in (role, "count")]
    if len(named) > 1:  # a list of points that lie in other files is no value (recount's index.csv)
        named = [name for name in named if _is_value(records[0].values.get(name))] or named
    yield from named
    if named and role == "prediction" and not any(roles[name] == role for name in named):
        # Only "count" or the like: beside another column of numbers it may as well be the truth.
        yield from (name for name, said in roles.items() if not said and _is_value(records[0].values.get(name)))


def _role(name: str) -> str:
    """Return what a column's name says of it: "prediction", "truth", "count", or nothing ("" ) that is known here."""
    words = set(re.findall(r"[^\W\d_]+", name))
    return next((role for role, known in WORDS.items() if words & known), "")


def _is_value(value: Any) -> bool:
    try:
        _parsed(value)
    except NotAValue:
        return False
    return True


def _agreeing(candidates: Sequence[str], records: Sequence[_Record]) -> list[str]:
    """Return the one column of points if all others are their numbers, in every record; else nothing."""
    lists = [name for name in candidates if isinstance(records[0].values.get(name), list)]
    numbers = [name for name in candidates if name not in lists]
    for record in records:
        points = record.values.get(lists[0]) if len(lists) == 1 else None
        if not isinstance(points, list) or any(record.values.get(name) != len(points) for name in numbers):
            return []
    return lists


# -------------------------------------------------------------------------------------------------------------- values


def _entry(record: _Record, names: Sequence[str], column: str, role: Role) -> Entry:
    """Return what a record says; NotAValue says what is wrong with it."""
    if column not in record.values:
        raise NotAValue("it is missing")
    called = [record.values.get(name) for name in names]
    for name, text in zip(names, called, strict=True):
        if text is None or isinstance(text, bool | list | dict | float) or not str(text).strip():
            raise NotAValue(f"the image's name in column {name} is {_told(text)}")
    prompt = record.values.get("prompt", "")
    if not isinstance(prompt, str):
        raise NotAValue(f"the prompt is {_told(prompt)}")
    count, points = _parsed(record.values[column])
    if points is None and count == 0:
        points = np.zeros((0, 2))
    if role == "truth" and count < 0:
        raise NotAValue(f"the count is {count:g}; it must not be below 0")
    radii = _radii(record.values, len(points)) if points is not None else None
    where = _place(record, column)
    return Entry(where, tuple(from_text(str(text).strip()) for text in called), from_text(prompt), count, points, radii)


def _told(value: Any) -> str:
    return "empty" if value is None or value == "" else _short(repr(value)[: 2 * LONGEST])


def _parsed(value: Any) -> tuple[float, Floats | None]:
    """Return the count that a value stands for, and the points if it is a list of them."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith(("[", "(")):  # tuples, as Python prints them
            value = _json(text.translate({ord("("): "[", ord(")"): "]"}))
        else:
            return _number(text), None
    if isinstance(value, np.ndarray):
        return float(len(value)), value
    if isinstance(value, list):
        return float(len(value)), _points(value)
    return _number(value), None


def _number(value: Any) -> float:
    """Return a finite number; NotAValue says what it is instead."""
    if value is None or value == "":
        raise NotAValue("it is empty")
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise NotAValue(f"{_told(value)} is not a number")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotAValue(f"{_told(value)} is neither a number nor a list of points")
    if not math.isfinite(value):
        raise NotAValue(f"it is {value}; it must be finite")
    if abs(value) > LARGEST:
        raise NotAValue(f"{value:.3g} is more than {LARGEST:.0f} and no count or coordinate")
    return float(value)


def _points(value: list[Any]) -> Floats:
    """Return points as an array [n, 2]; what follows x and y (a score) is left out."""
    pairs = np.zeros((len(value), 2))
    for place, point in enumerate(value):
        if not isinstance(point, list) or len(point) < 2:
            raise NotAValue(f"points must be a list of [x, y]; point {place + 1} is {_told(point)}")
        with _at(f"point {place + 1}"):
            pairs[place] = _number(point[0]), _number(point[1])
    return pairs


def _radii(values: Mapping[str, Any], points: int) -> Floats | None:
    """Return sigma_s and sigma_l [n, 2] of an image's boxes, or None where there are none."""
    given = values.get(RADII, values.get("boxes"))
    if given is None and not points:
        return np.zeros((0, 2))  # of no boxes
    if given is None or isinstance(given, np.ndarray):
        return given
    whole = isinstance(given, list) and len(given) == points
    if not whole or any(not isinstance(box, list) or len(box) != 4 for box in given):
        raise NotAValue(f"boxes must be a list of [x1, y1, x2, y2], one for each of its {points} points")
    return of_boxes(np.array([[_number(edge) for edge in box] for box in given]).reshape(-1, 4))


# ------------------------------------------------------------------------------------------------------------- formats


def _records(text: str) -> list[_Record]:
    """Return what the text of a file holds; NotAValue says where it is not what any format would have."""
    if text.lstrip()[0] in "{[":
        return list(_json_records(text))
    rows = _rows(text)
    if not rows:  # nothing but separators
        return []
    first, several = rows[0][1], any(len(row) > 2 for _, row in rows)
    if several and len(first) > 1 and first[1].isdecimal() and all(map(_NUMBER.fullmatch, first[2:])):
        return [_points_of(where, row) for where, row in rows]
    return list(_csv_records(rows))


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object, at any depth, whose keys must differ."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise NotAValue(f"the key {shown((name, ''))} occurs twice in one JSON object; nobody can say which counts")
        found[name] = value
    return found


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < 300 else float(digits)  # which is infinite, and told


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)


def _json(text: str) -> Any:
    """Return the content of JSON, all of it."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise NotAValue(f"not valid JSON: {error.msg} (character {error.pos + 1})") from None
    if text[end:].strip():
        raise NotAValue(f"not valid JSON: something follows its end (character {end + 1})")
    return value


def _json_records(text: str) -> Iterator[_Record]:
    try:
        whole, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip()))
    except json.JSONDecodeError as error:
        raise NotAValue(f"line {error.lineno}: not valid JSON: {error.msg} (character {error.colno})") from None
    if text[end:].strip():  # an object in each line
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                with _at(f"line {number}"):
                    record = _Record(f"line {number}", _object(_json(line.strip())))
                yield record
    elif isinstance(whole, list):
        for number, item in enumerate(whole, start=1):
            with _at(f"entry {number}"):
                record = _Record(f"entry {number}", _object(item))
            yield record
    elif set(NAMES) & set(map(_called, whole)) and not all(isinstance(value, dict) for value in whole.values()):
        yield _Record("line 1", _object(whole))
    else:
        for image, value in whole.items():
            with _at(where := f"key {shown((image, ''))}"):
                inner = _object(value) if isinstance(value, dict) else {"value": value}
            yield _Record(where, inner | {"image": image})


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say with what is wrong where it is."""
    try:
        yield
    except NotAValue as error:
        raise NotAValue(f"{where}: {error}") from None


def _object(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise NotAValue(f"expected an object with an image and a count or points, found {_told(item)}")
    return _once((_called(name), value) for name, value in item.items())


def _called(name: str) -> str:
    """Return a column's name as it is compared: "GT count", "gtCount" and "gt_count" are one."""
    return re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).lower()


def _rows(text: str) -> list[tuple[str, list[str]]]:
    """Return the rows that hold anything, with the number of their first line."""
    lines = re.split(r"\r\n|\r|\n", text)
    first = next(line for line in lines if line.strip())
    marks = [mark for mark in ",;\t" if mark in re.sub(r'"[^"]*"', "", first)]
    if len(marks) > 1:
        raise NotAValue(f"line 1: {' and '.join(map(repr, marks))} may both separate its columns; keep one of them")
    if not marks:
        return [(f"line {number}", line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=marks[0], strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((f"line {line}", [cell.strip() for cell in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise NotAValue(f"line {line}: not a readable row: {error}") from None
    return rows


def _points_of(where: str, row: list[str]) -> _Record:
    """Return an image's points from ``id n x1 y1 x2 y2 …``, or ``id n x1 y1 sigma_s sigma_l level …``."""
    number, numbers = row[1] if len(row) > 1 else "", row[2:]
    points = int(number) if number.isdecimal() and len(number) < 10 else -1
    each = next((each for each in (2, 5) if len(numbers) == each * points), 0)
    if not each:
        problem = f"{where}: it says {_told(number)} points; {len(numbers)} numbers follow: 2 each, or 5 with sigmas"
        return _Record(where, {"image": row[0], "points": []}, problem)
    try:
        values = np.array([_number(text) for text in numbers]).reshape(points, each)
    except NotAValue as error:
        return _Record(where, {"image": row[0], "points": []}, f"{where}: {error}")
    return _Record(where, {"image": row[0], "points": values[:, :2]} | ({RADII: values[:, 2:4]} if each == 5 else {}))


def _csv_records(rows: Sequence[tuple[str, list[str]]]) -> Iterator[_Record]:
    head, body = [_called(cell) for cell in rows[0][1]], rows[1:]
    if len(head) == 2 and _NUMBER.fullmatch(head[1]):  # a number in the second column: there is no header
        head, body = ["image", "count"], list(rows)
    twice = [name for name, times in Counter(head).items() if times > 1]
    if twice:
        raise NotAValue(f"line 1: the column {_told(twice[0])} occurs twice")
    if not body:
        raise NotAValue("there is a header and nothing else")
    for where, row in body:
        if len(row) != len(head):
            raise NotAValue(f"{where}: {len(row)} columns, but line 1 has {len(head)}")
        yield _Record(where, dict(zip(head, row, strict=True)))


def _in_images(records: Iterable[_Record], name: str) -> Iterator[_Record]:
    """Yield a record for each image (and prompt) from rows that have a point each; one without x and y has none."""
    images: dict[Key, list[_Record]] = {}
    for record in records:
        key = str(record.values.get(name) or ""), str(record.values.get("prompt") or "")
        images.setdefault(key, []).append(record)
    for (image, prompt), rows in images.items():
        values: dict[str, Any] = {name: image, "prompt": prompt}
        try:
            points = [point for row in rows if (point := _point(row))]
            if len(points) not in (0, len(rows)):
                raise NotAValue(f"{rows[0].where}: a row has no x and y, and others have")
            places = np.array(points) if points else np.zeros((0, 2))
            values[POINT_COLUMNS] = places[:, :2]
            if places.shape[1] == 4:
                values[RADII] = of_boxes(np.concatenate([np.zeros_like(places[:, 2:]), places[:, 2:]], axis=1))
            yield _Record(rows[0].where, values)
        except NotAValue as error:
            yield _Record(rows[0].where, values, str(error))


def _point(record: _Record) -> list[float]:
    """Return x, y and where they are known width and height of the box in a row, nothing where x and y are empty."""
    columns = [column for column in ("x", "y", "box_w", "box_h") if column in record.values]
    if all(record.values[column] in ("", None) for column in ("x", "y") if column in record.values):
        return []
    found = []
    for column in columns:
        with _at(f"{record.where}, column {column}"):
            found.append(_number(record.values[column]))
    return found
