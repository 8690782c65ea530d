"""Mistakes in a settings file: collected with their lines, and explained by the file's JSON schema."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from pydantic_core import ErrorDetails

from slimsight.compress.files.untrusted import printable
from slimsight.compress.registry import nearest

from .yaml_text import Place, line_of

_MOST_CHARACTERS = 2000  # characters of a mistake's line


class Problems:
    """Collects mistakes; ``lines``: the line of each key of the file."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self._origins: dict[Place, str] = {}
        self._mistakes: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._mistakes)

    def set_lines(self, lines: Mapping[Place, int]) -> None:
        """Set the lines of keys for the mistakes that are added from now on."""
        self.lines = dict(lines)

    def set_origin(self, place: Place, by: str) -> None:
        """The value at ``place`` comes from ``by`` (an option), not from the file."""
        self._origins[place] = by

    def add(self, text: str, place: Place = ()) -> None:
        line = line_of(self.lines, place)
        if by := self._origin(place, known=bool(line)):
            self._mistakes.append((sys.maxsize, f"{by}: {text}"))
        else:
            self._mistakes.append((line, f"line {line}: {text}") if line else (sys.maxsize, text))

    def _origin(self, place: Place, *, known: bool) -> str | None:
        """The option that set ``place`` or a key above it; or, if not ``known``, one below it."""
        above = [by for at, by in self._origins.items() if at == place[: len(at)]]
        below = [by for at, by in self._origins.items() if place and place == at[: len(place)] and not known]
        return next(iter(above[::-1] + below[::-1]), None)

    def listed(self) -> str:
        """A line for each mistake, in the order of the file; those without a line come last."""
        ordered = [text for _, text in sorted(self._mistakes, key=lambda mistake: mistake[0])]
        return "".join(f"\n  {printable(text, _MOST_CHARACTERS)}" for text in dict.fromkeys(ordered))


Schema: TypeAlias = Mapping[str, Any]
"""JSON schema of a file or of a part of it: what is allowed, as data."""

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


class Allowed:
    """The schema of one kind of file; ``kind`` is what messages call such a file."""

    def __init__(self, schema: Schema, kind: str) -> None:
        self.schema = schema
        self.kind = kind

    def deref(self, schema: Schema) -> Schema:
        if "$ref" not in schema:
            return schema
        definition: Schema = self.schema["$defs"][schema["$ref"].rpartition("/")[2]]
        return definition

    def explain(self, error: ErrorDetails) -> tuple[Place, str]:
        """Where one of pydantic's errors is, and a line for it.

        A union's errors, one per member, all become the same line.
        """
        schema: Schema = self.schema
        where: list[str] = []
        for part in error["loc"]:
            schema = self.deref(schema)
            if "properties" in schema:
                where.append(str(part))
                if part not in schema["properties"]:
                    return tuple(where), self._unknown(where, schema)
                schema = schema["properties"][part]
            elif isinstance(schema.get("additionalProperties"), dict):
                where.append(str(part))
                schema = schema["additionalProperties"]
            elif isinstance(part, int) and schema.get("type") == "array" and error["type"] != "missing":
                where.append(str(part))
                schema = schema["prefixItems"][part] if "prefixItems" in schema else schema["items"]
            else:
                break  # pydantic's name for a member of a union
        if error["type"] == "value_error":  # raised by a validator of ours, with a whole sentence
            cause = error["ctx"]["error"]
            where += getattr(cause, "place", ())
            return tuple(where), f"{'.'.join(where) or self.kind}: {cause}"
        return tuple(where), self.refusal(tuple(where), error["input"], schema)

    def refusal(self, where: Place, value: Any, schema: Schema) -> str:
        """A line for a value that ``schema``, of what stands at ``where``, does not allow."""
        schema = self.deref(schema)
        about = f" ({schema['description']})" if "description" in schema and "properties" not in schema else ""
        hint = nearest(value, choices(schema)) if isinstance(value, str) else ""
        key = f"{'.'.join(where)}: " if where else ""
        return f"{key}{shown_value(value)} was given; allowed: {self.words(schema)}{about}{hint}"

    def words(self, schema: Schema) -> str:
        """What a value may be."""
        schema = self.deref(schema)
        if "anyOf" in schema:
            return " or ".join(self.words(branch) for branch in schema["anyOf"])
        if named := choices(schema):
            return " or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
        if "properties" in schema:
            return f"a mapping with the keys {', '.join(schema['properties'])}"
        if schema.get("type") == "array":
            items = schema.get("prefixItems", [schema.get("items", {})])
            count = f" of {len(items)}" if "prefixItems" in schema else ""
            return f"a list{count}, each {self.words(items[0])}"
        words = {
            "integer": "a whole number",
            "number": "a number",
            "boolean": "true or false",
            "null": "null",
            "object": "a mapping",
        }
        word = words.get(schema.get("type", ""), "a path" if schema.get("format") == "path" else "text")
        limits = [f"{text} {schema[name]:.10g}" for name, text in _BOUNDS.items() if name in schema]
        return " ".join(filter(None, [word, " and ".join(limits)]))

    def _unknown(self, where: list[str], schema: Schema) -> str:
        key, names = where[-1], list(schema["properties"])
        hint = nearest(key, names)
        elsewhere = [path for path in self._paths(self.schema) if path.rpartition(".")[2] == key]
        if not hint and elsewhere:
            hint = f"; did you mean {' or '.join(elsewhere)}?"
        return f"{'.'.join(where)}: unknown key; allowed: {', '.join(names)}{hint}"

    def _paths(self, schema: Schema, prefix: str = "") -> Iterator[str]:
        """The dotted path of every key."""
        for name, part in self.deref(schema).get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from self._paths(part, f"{prefix}{name}.")


def choices(schema: Schema) -> list[str]:
    """The words that ``schema`` allows by name."""
    branches = schema.get("anyOf", [schema])
    return [str(word) for b in branches for word in ([b["const"]] if "const" in b else b.get("enum", []))]


def shown_value(value: Any) -> str:
    """``value`` as a user would write it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def without_null(schema: Any) -> Any:
    """``schema`` where a key is left out instead of being null: no ``null``, no default that is null."""
    if isinstance(schema, list):
        return [without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: without_null(item) for key, item in schema.items() if not (key == "default" and item is None)}
    if isinstance(kept.get("anyOf"), list):
        branches = [branch for branch in kept["anyOf"] if branch != {"type": "null"}]
        if len(branches) == 1:
            del kept["anyOf"]
            return {**branches[0], **kept}
        kept["anyOf"] = branches
    return kept
