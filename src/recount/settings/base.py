"""What all settings share: names, strict models, reading YAML, one line per error."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recount.errors import UserError

PACKAGE = Path(__file__).parents[1]
MAX_DEPTH, MAX_NODES = 100, 100_000  # of a YAML file; recount's own have at most 8 and 834
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
BenchmarkId = Annotated[str, Field(pattern=r"^[a-z0-9_]+/[a-z0-9_]+$")]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+/[A-Za-z0-9][A-Za-z0-9_.+-]*$", description="system/variant")]


class ConfigError(UserError):
    """The configuration is wrong; the message has one line per error: file, key, value, what is allowed."""


class Strict(BaseModel):
    """A model that forbids unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as YAML 1.2 does (``on`` is a word, not true), and refuses a key that stands twice in one mapping."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        letter: [(tag, regexp) for tag, regexp in entries if tag != "tag:yaml.org,2002:bool"]
        for letter, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in lines:
                raise ConfigError(f"line {line}: {key}: the key is there twice, first in line {lines[key]}")
            lines[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def read_yaml(path: Path, shown: str | Path | None = None) -> dict[str, Any]:
    """Return the keys and values of a YAML file."""
    name = shown or path
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(name))
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: expected keys and values, found {type(content).__name__}")
    return content


def parse_yaml(text: str, name: str) -> Any:
    """Return what a text in YAML says; a ``ConfigError`` begins with ``name``."""
    try:
        _check_extent(text)
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML's constructors stumble over values that are none of their tag (!!int "", 2024-99-99) in many ways
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())[:300]}") from None


def _check_extent(text: str) -> None:
    """Refuse what YAML lets grow without end: nesting, and aliases of aliases, which are counted written out."""
    sizes: dict[str, int] = {}  # nodes below each anchor
    within: list[tuple[str, int]] = []  # anchor ("" for none) and nodes so far of the mappings and lists that are open
    for event in yaml.parse(text, Loader=_Loader):
        line = f"line {event.start_mark.line + 1}" if event.start_mark else ""
        anchor, size = getattr(event, "anchor", None) or "", 1
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.pop(anchor, 0)
            within.append((anchor, size))
            if len(within) > MAX_DEPTH:
                raise ConfigError(f"{line}: nested more than {MAX_DEPTH} levels deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes and anchor in [name for name, _ in within]:
                raise ConfigError(f"{line}: *{anchor} stands inside of &{anchor}, which would never end")
            anchor, size = "", sizes.get(anchor, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        sizes |= {anchor: size} if anchor else {}
        if within:
            within[-1] = (within[-1][0], within[-1][1] + size)
        if size > MAX_NODES:
            raise ConfigError(f"{line}: with its aliases written out it has more than {MAX_NODES:,} values")


def error_lines(error: ValidationError, where: str, model: type[BaseModel], content: Any) -> Iterator[str]:
    """Yield one line per error: file, key, value, what is allowed, and the nearest of it."""
    problems = error.errors()
    for problem in problems:
        value, kind = problem["input"], problem["type"]
        within = [other for other in problems if other["loc"][: len(problem["loc"])] == problem["loc"]]
        if kind == "too_short" and value and len(within) > 1:
            continue  # it has entries, and each wrong one is told
        whole = kind == "missing" or isinstance(value, Mapping | BaseModel)  # more than can be shown in a line
        shown = "" if whole else f" = {json.dumps(value, default=str)[:80]}"
        allowed, names = problem["msg"].removeprefix("Value error, "), list[str]()
        if kind in ("tuple_type", "list_type"):
            allowed = (
                f"expected a list, for instance [{value}]"
                if isinstance(value, str | int | float)
                else "expected a list"
            )
        if kind == "too_short":
            allowed = "expected at least one entry"
        if kind == "int_parsing":
            allowed = "expected a whole number"
        if kind == "literal_error":
            names = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        if kind == "extra_forbidden":
            schema, allowed, value = model.model_json_schema(), "no such key", problem["loc"][-1]
            names = [
                name for part in (schema, *schema.get("$defs", {}).values()) for name in part.get("properties", ())
            ]
        near = get_close_matches(str(value), names, n=1, cutoff=0.6 if kind == "extra_forbidden" else 0.7)
        nearest = "".join(f"; the nearest is {name}" for name in near)
        yield f"{where}: {_key(problem['loc'], content)}{shown}: {allowed}{nearest}"


def _key(location: Sequence[str | int], content: Any) -> str:
    """Return a key with dots; an entry of a list is called by its id where it has one."""
    names = []
    for part in location:
        known = isinstance(content, list | tuple) and isinstance(part, int) and part < len(content)
        content = content[part] if known else content.get(part) if isinstance(content, Mapping) else None
        named = isinstance(content, Mapping) and isinstance(part, int)
        names.append(str(content.get("id", part)) if named else str(part))
    return ".".join(names) or "(top level)"


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """Return ``content`` as ``model``."""
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError("\n".join(error_lines(error, where, model, content))) from None


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return what to say of a name that does not exist: the nearest one, or all of them where there are few."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"there is no such {kind}; the nearest is {near[0]}"
    return f"there is no such {kind}; there are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"


def absent(where: str, kind: str, name: str, known: Iterable[str]) -> Iterator[str]:
    """Yield what to say of a name if it is not among the known ones."""
    if name not in known:
        yield f"{where} = {name}: {unknown(kind, name, known)}"


def plugins(kind: str) -> set[str]:
    """Return the names of all systems or data sets, outside packages' among them. Imports none of them."""
    modules = iter_modules([str(PACKAGE / kind)])
    own = {module.name for module in modules if not module.ispkg and module.name != "base"}
    return own | {point.name for point in entry_points(group=f"recount.{kind}")}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, dictionaries key by key."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result
