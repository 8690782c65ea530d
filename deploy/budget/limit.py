"""A limit of a budget file: one value, or a level that warns beside one that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from slimsight.compress.amounts import Amount
from slimsight.compress.registry import nearest

T = TypeVar("T")
U = TypeVar("U")
Bound = Literal["max", "min"]
Level = Literal["fail", "warn"]

LEVELS: Final[tuple[Level, ...]] = ("fail", "warn")


@dataclass(frozen=True)
class Limit(Generic[T]):
    """A value beyond ``fail`` fails, one beyond ``warn`` only warns; one of them at least is given."""

    fail: T | None = None
    warn: T | None = None

    def at(self, level: Level) -> T | None:
        return self.fail if level == "fail" else self.warn

    def levels(self) -> list[T]:
        """The levels that are given."""
        return [level for level in (self.fail, self.warn) if level is not None]

    def map(self, convert: Callable[[T], U | None]) -> Limit[U]:
        """Each level that is given, converted."""
        return Limit(*(None if level is None else convert(level) for level in (self.fail, self.warn)))


class InLimit(ValueError):
    """A mistake below a key; ``place`` is the path of names to it."""

    def __init__(self, text: str, *place: str) -> None:
        super().__init__(text)
        self.place = place


@dataclass(frozen=True, eq=False)
class Levels:
    """pydantic annotation of a ``Limit`` whose values ``read`` parses and ``schema`` (JSON Schema) describes.

    ``bound``: whether it is the most or the least that is allowed, which says which of two levels comes first.
    """

    read: Callable[[object], Any]
    schema: Mapping[str, Any]
    bound: Bound

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        del source, handler
        return core_schema.no_info_plain_validator_function(lambda value: to_limit(value, self.read, self.bound))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema, handler
        levels = {
            "type": "object",
            "properties": {
                "fail": {**self.schema, "description": "beyond this the check fails (exit code 1)"},
                "warn": {**self.schema, "description": "beyond this the check warns (exit code 0)"},
            },
            "additionalProperties": False,
            "minProperties": 1,
        }
        return {"anyOf": [*self.schema.get("anyOf", [self.schema]), levels]}


def to_limit(value: object, read: Callable[[object], T], bound: Bound) -> Limit[T]:
    """Parse a limit: one value that ``read`` takes, or ``{fail: ..., warn: ...}``.

    Raises:
        ValueError: one sentence: not a valid value, an unknown level, or levels in the wrong order.
    """
    if isinstance(value, Limit):
        return value
    if not isinstance(value, dict):
        return Limit(fail=read(value))
    if not value:
        raise ValueError("{} gives no limit: give one value, or {fail: ..., warn: ...}")
    levels: dict[str, T] = {}
    for key, given in value.items():
        level = str(key)
        if level not in LEVELS:
            raise InLimit(
                f"unknown key; a limit is one value or has the levels {' and '.join(LEVELS)}"
                f"{nearest(level, list(LEVELS))}",
                level,
            )
        if given is None:
            raise InLimit("has no value: give one or remove it", level)
        try:
            levels[level] = read(given)
        except ValueError as error:
            raise InLimit(str(error), level) from None
    limit = Limit(**levels)
    if _warns_after_failing(limit, bound):
        first = "below" if bound == "max" else "above"
        raise InLimit(
            f"{value['warn']!r} never warns before {value['fail']!r} fails: give a level {first} that", "warn"
        )
    return limit


def _warns_after_failing(limit: Limit[Any], bound: Bound) -> bool:
    fail, warn = limit.fail, limit.warn
    if isinstance(fail, Amount) and isinstance(warn, Amount):
        if fail.relative != warn.relative:  # which comes first depends on the model
            return False
        fail, warn = fail.value, warn.value
    if fail is None or warn is None or isinstance(fail, bool) or isinstance(warn, bool):
        return False
    return bool(warn >= fail if bound == "max" else warn <= fail)
