"""YAML with the reasons beside it."""

from __future__ import annotations

import textwrap
from typing import Any

from ..reading.yaml_text import dump_yaml

BESIDE = 40
"""The column of comments beside keys."""

_COLUMNS = 100


class CommentedYaml:
    """Lines of YAML with comments. A comment that has no room beside its key stands above it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.guesses: list[str] = []
        self._section = ""

    def written(self) -> str:
        return "\n".join(self.lines).lstrip("\n") + "\n"

    def comment(self, text: str, level: int = 0, *, wrap: bool = True) -> None:
        start = "  " * level + "# "
        width = _COLUMNS if wrap else 10_000
        self.lines += textwrap.wrap(
            text, width, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
        )

    def section(self, name: str, comment: str = "") -> None:
        self._section = name
        self.lines += ["", f"{name}:".ljust(BESIDE) + f"# {comment}" if comment else f"{name}:"]

    def key(self, name: str, value: Any, comment: str = "", level: int = 0, *, guess: bool = False) -> None:
        line = "  " * level + dump_yaml({name: value}).rstrip("\n")
        if guess:
            comment = f"a guess: {comment}"
            self.guesses.append(f"{self._section}.{name}: {comment.removeprefix('a guess: ')}")
        beside = f"{line:<{BESIDE - 1}} # {comment}"
        if comment and len(beside) <= _COLUMNS:
            self.lines.append(beside)
            return
        if comment:
            self.comment(comment, level)
        self.lines.append(line)
