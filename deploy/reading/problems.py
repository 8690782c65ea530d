"""What is wrong with a file, all of it, each mistake with its line."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from slimsight.compress.untrusted import printable

from .yaml_text import Place, line_of

_LONGEST = 2000  # characters of a mistake's line


class Problems:
    """Collects mistakes; ``lines`` says where each key of the file stands."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self._given: dict[Place, str] = {}
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def at(self, lines: Mapping[Place, int]) -> None:
        """What is added from now on stands at ``lines``."""
        self.lines = dict(lines)

    def replaced(self, place: Place, by: str) -> None:
        """``by``, which is no part of the file, has taken the place of what stood there."""
        self._given[place] = by

    def add(self, text: str, place: Place = ()) -> None:
        line = line_of(self.lines, place)
        if by := self._by(place, known=bool(line)):
            self._found.append((sys.maxsize, f"{by}: {text}"))
        else:
            self._found.append((line, f"line {line}: {text}") if line else (sys.maxsize, text))

    def _by(self, place: Place, *, known: bool) -> str | None:
        """What took the place; or, where the file holds nothing there (``known``), what made it from below."""
        above = [by for given, by in self._given.items() if given == place[: len(given)]]
        below = [by for given, by in self._given.items() if place and place == given[: len(place)] and not known]
        return next(iter(above[::-1] + below[::-1]), None)

    def listed(self) -> str:
        """A line for each, in the order of the file; what stands in no line of it comes last."""
        ordered = [text for _, text in sorted(self._found, key=lambda found: found[0])]
        return "".join(f"\n  {printable(text, _LONGEST)}" for text in dict.fromkeys(ordered))
