"""A budget file on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from slimsight.compress.errors import ConfigError
from slimsight.compress.untrusted import read_text

from ..reading.allowed import Allowed, shown, without_null
from ..reading.problems import Problems
from ..reading.yaml_text import MOST_YAML, Place, line_of, read_yaml
from .schema import BudgetFile


@dataclass(frozen=True)
class Budget:
    """The limits of a budget file, and the line of each key."""

    path: Path
    limits: BudgetFile
    lines: Mapping[Place, int]

    def line(self, *place: str) -> int | None:
        return line_of(self.lines, place)


def load_budget(path: Path) -> Budget:
    """The budget file at ``path`` (YAML).

    Raises:
        ConfigError: it cannot be read, or has mistakes: all of them in one message, each with its line and its key.
    """
    try:
        found = read_yaml(read_text(path, MOST_YAML))
    except FileNotFoundError:
        raise ConfigError(f"no budget file at {path}: check --budget") from None
    except OSError as error:
        raise ConfigError(f"cannot read the budget file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: it is not a text file in UTF-8 (byte {error.start})") from error
    except ConfigError as error:
        raise ConfigError(f"{path} is not YAML ({error}); write lines such as 'macs: 50%'") from error
    content = {} if found.value is None else found.value
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a budget file: it holds {shown(content)}, not lines such as 'macs: 50%'")
    problems = Problems()
    problems.at(found.lines)
    for place, twice in found.repeated:
        problems.add(twice, place)
    _refuse_truth(content.get("measure"), problems)
    limits = None
    try:
        limits = BudgetFile.model_validate({str(key): value for key, value in content.items()})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place, text = _allowed().explain(detail)
            problems.add(text, place)
    if limits is None or problems:
        raise ConfigError(f"{path} is not a usable budget file:{problems.listed()}")
    return Budget(path, limits, found.lines)


def _refuse_truth(measure: object, problems: Problems) -> None:
    """pydantic reads true as the number 1."""
    allowed = _allowed()
    known = allowed.deref(allowed.schema["properties"]["measure"])["properties"]
    for key, value in measure.items() if isinstance(measure, dict) else ():
        if isinstance(value, bool) and key in known:
            problems.add(allowed.refusal(("measure", key), value, known[key]), ("measure", key))


@cache
def _allowed() -> Allowed:
    return Allowed(without_null(BudgetFile.model_json_schema()), "budget")
