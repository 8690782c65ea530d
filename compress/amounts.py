"""Amounts as people write and read them: ``50%``, ``0.5 GMACs``, ``1.2 MB``, ``3 ms``, ``3x224x224``, ``42 s``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import ConfigError
from .files.untrusted import printable

_NUMBER: Final = re.compile(r"([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(e[+-]?[0-9]+)?\s*(%|[a-z]*(?: [a-z]+)?)", re.IGNORECASE)

COUNT_UNITS: Final = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def _with_words(*words: str) -> dict[str, float]:
    return {f"{prefix}{word}": factor for prefix, factor in COUNT_UNITS.items() for word in ("", *words)}


MACS_UNITS: Final = _with_words("mac", "macs")
"""``60M``, ``60 MMACs``, ``60 M MACs``; not FLOPs, of which many count two per MAC."""
PARAM_UNITS: Final = _with_words("param", "params", "parameter", "parameters")
BYTE_UNITS: Final = COUNT_UNITS | {
    "b": 1.0,
    "bytes": 1.0,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
}
TIME_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}
"""In milliseconds; a unit is required."""

MOST_SIDE: Final = 4096
"""Pixels: largest side of an image."""
MOST_CLASSES: Final = 100_000
MOST_BATCH: Final = 65_536
MOST_THREADS: Final = 1024
MOST_ROUNDS: Final = 1_000_000
MOST_SESSIONS: Final = 10_000
_MOST_VALUES: Final = 2**26
"""Of one image: 256 MiB in 32-bit floating point."""

PLAUSIBLE: Final = 1000
"""Smallest bare number taken for an amount: 40 is meant as 40 % or 40 M, never as 40."""


def read_number(value: object) -> tuple[float, str] | None:
    """Parse a number and its unit, in lower case without spaces: ``"1.2 M MACs"`` -> (1.2, "mmacs").

    None if it is not a finite number. Text is parsed too, as YAML reads ``20e6`` (without a dot) as text.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (float(value), "") if math.isfinite(value) else None
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    number = float(match[1].replace("_", "") + (match[2] or ""))
    return (number, match[3].lower().replace(" ", "")) if math.isfinite(number) else None


@dataclass(frozen=True)
class Amount:
    """The most a model may cost: a ratio to the original (``relative``) or a number."""

    value: float
    relative: bool

    def of(self, original: float) -> float:
        """The limit for an original of this amount."""
        return self.value * original if self.relative else self.value

    def limit(self, original: int) -> int:
        """The largest integer allowed for an original of this amount."""
        return math.floor(self.of(original) * (1 + 1e-12))  # .29 * 100 is 28.999999999999996


def number_pattern(units: Iterable[str]) -> str:
    """Regular expression (for JSON Schema) of numbers with one of ``units``, as ``read_number`` reads them.

    A unit ``""`` allows numbers without a unit.
    """
    words = sorted({*units} - {""}, key=lambda unit: (-len(unit), unit))
    if not words:
        unit = ""
    else:
        letters = ["".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in word) for word in words]
        spaced = [word.replace("][", "] ?[", 1) for word in letters]  # 60 M MACs
        unit = f"({'|'.join(spaced)})" + ("?" if "" in units else "")
    return rf"^ *([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][+-]?[0-9]+)? *{unit} *$"


def to_amount(value: object, *, what: str, units: Mapping[str, float], example: str) -> Amount:
    """Parse a limit: a ratio to the original, or an amount with a unit.

    Args:
        what: the limited quantity, for messages.
        units: allowed units, in lower case; with ``""`` a bare number is an amount.

    Raises:
        ValueError: not a valid amount, a wrong unit, or more than the original (one sentence).
    """
    if isinstance(value, Amount):
        return value
    least = f" of at least {PLAUSIBLE}" if "" in units else ""
    allowed = f"give a ratio to the original up to 1 (0.5 or 50%) or an amount{least} ({example})"
    parsed = read_number(value)
    if parsed is None or parsed[0] <= 0 or (parsed[1] not in ("%", "") and parsed[1] not in units):
        if parsed is not None and "flop" in parsed[1] and "macs" in units:
            raise ValueError(f"{value!r} is in FLOPs, which some count twice as many as MACs: {allowed}")
        raise ValueError(f"{value!r} is not a valid limit on {what}: {allowed}")
    number, unit = parsed
    if unit == "%" or (unit == "" and number <= 1):
        ratio = number / 100 if unit == "%" else number
        if ratio > 1:
            raise ValueError(f"{value!r} would let {what} grow: {allowed}")
        return Amount(ratio, relative=True)
    if unit not in units:
        raise ValueError(f"{value!r} has no unit: {allowed}")
    if unit == "" and number < PLAUSIBLE:
        raise ValueError(f"{value!r} is neither a ratio nor a plausible amount of {what}: {allowed}")
    return Amount(number * units[unit], relative=False)


def read_image_shape(text: str) -> tuple[int, int, int]:
    """(C, H, W) of a text such as ``3x224x224``.

    Raises:
        ConfigError: not three positive whole numbers with x between them, or an image that is too large.
    """
    sizes = [read_count(part, MOST_SIDE) for part in text.lower().split("x")]
    if len(sizes) != 3 or None in sizes or math.prod(size or 0 for size in sizes) > _MOST_VALUES:
        raise ConfigError(
            f"the input is '{printable(text)}': give channels x height x width, e.g. 3x224x224, of at most "
            f"{MOST_SIDE:,} each and {_MOST_VALUES:,} values in all"
        )
    channels, height, width = (size or 0 for size in sizes)
    return channels, height, width


def read_count(text: str, most: int, *, least: int = 1) -> int | None:
    """The whole number from ``least`` to ``most`` that ``text`` holds; None where it holds something else."""
    digits = text.strip()
    if not digits.isdecimal() or len(digits) > len(str(most)):
        return None
    number = int(digits)
    return number if least <= number <= most else None


def as_duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
