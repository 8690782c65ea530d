"""Generic registry of named objects; refuses duplicates, and lists the names for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .errors import ConfigError

T = TypeVar("T")


def nearest(name: str, choices: list[str]) -> str:
    """A hint ``; did you mean 'x'?`` for a misspelt name, or nothing when no choice is close."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


class Registry(Generic[T]):
    """Objects of one ``kind`` (the word for messages) by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator that registers under ``name``."""

        def keep(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered already")
            self._entries[name] = entry
            return entry

        return keep

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            ConfigError: there is none; the message lists the names.
        """
        if name not in self._entries:
            choices = sorted(self._entries)
            raise ConfigError(
                f"unknown {self.kind} '{name}'{nearest(name, choices)} (choose from: {', '.join(choices)})"
            )
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
