"""What is wrong with a file, all of it, each mistake with its line."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from .yaml_text import Place, line_of


class Problems:
    """Collects mistakes; ``lines`` says where each key of the file stands."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self._found: list[tuple[int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def at(self, lines: Mapping[Place, int]) -> None:
        """What is added from now on stands at ``lines``."""
        self.lines = dict(lines)

    def forget(self, place: Place) -> None:
        """Something that is no part of the file has taken the place of what stood there."""
        self.lines = {known: line for known, line in self.lines.items() if known[: len(place)] != place} | {place: 0}

    def add(self, text: str, place: Place = ()) -> None:
        line = line_of(self.lines, place)
        self._found.append((line, f"line {line}: {text}") if line else (sys.maxsize, text))

    def listed(self) -> str:
        """A line for each, in the order of the file; what stands in no line of it comes last."""
        ordered = [text for _, text in sorted(self._found, key=lambda found: found[0])]
        return "".join(f"\n  {text}" for text in dict.fromkeys(ordered))
