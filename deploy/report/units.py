"""Formats numbers with their units, for reports, budget files and the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from .schema import Check, LatencyFigures, ParityRow, Unit

MISSING: Final = "missing"


def as_macs(value: float) -> str:
    """Millions of MACs: ``20.53 M``."""
    millions = value / 1e6
    return f"{millions:,.0f} M" if millions >= 1000 else f"{millions:.2f} M"


def as_macs_tick(value: float) -> str:
    """Millions of MACs, short for an axis: ``20 M``."""
    return as_macs(value).replace(".00", "")


def as_count(value: float) -> str:
    """A whole number with thousands separated: ``272,474``."""
    return f"{value:,.0f}"


def as_bytes(value: float, like: float | None = None) -> str:
    """Decimal units, 1 MB = 1000 kB = 1,000,000 bytes; in the unit that fits ``like``, to compare the two."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if (value if like is None else like) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} bytes"


def as_percent(value: float, digits: int = 2) -> str:
    """A share 0..1 as ``88.41 %``."""
    return f"{value * 100:.{digits}f} %"


as_percent_0 = partial(as_percent, digits=0)
as_percent_1 = partial(as_percent, digits=1)
as_3_decimals: Final = "{:.3f}".format
as_4_digits: Final = "{:.4g}".format


def as_points(value: float) -> str:
    """A difference of shares in percentage points: ``0.51 points``."""
    return f"{value * 100 + 0.0:.2f} points"


def as_error(value: float | None) -> str:
    """A small difference, ``1.2e-06``; None was not a finite number."""
    return "not finite" if value is None else "0" if value == 0 else f"{value:.1e}"


def as_ms(value: float) -> str:
    """Milliseconds with three significant digits: ``0.814 ms``, ``12.3 ms``."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def as_times(value: float) -> str:
    """A ratio: ``1.56x``."""
    return f"{value:.2f}x"


def as_share(value: float) -> str:
    """A ratio to the original's amount: ``95.0 % of the original``."""
    return f"{as_percent(value, 1)} of the original"


def as_px(value: float) -> str:
    """A distance in an image: ``2.37 px``."""
    return f"{value:.2f} px"


def as_images(value: float) -> str:
    """A share of the images: ``9.5 % of the images``."""
    return f"{as_percent(value, 1)} of the images"


def as_db(value: float) -> str:
    """A ratio of powers: ``17.5 dB``."""
    return f"{value:.1f} dB"


def as_growth(value: float) -> str:
    """A relative change: ``+2.3 %``; nothing is hidden by rounding."""
    text = f"{value * 100:+.1f} %"
    return f"{value * 100:+.2g} %" if value and text.lstrip("+-").startswith("0.0") else text.replace("-0.0", "+0.0")


_AS_TEXT: Final[dict[Unit, Callable[[float], str]]] = {
    "MACs": as_macs,
    "parameters": as_count,
    "bytes": as_bytes,
    "accuracy": as_percent,
    "points": as_points,
    "error": as_error,
    "times": as_times,
    "rows": as_count,
    "ms": as_ms,
    "share": as_share,
    "px": as_px,
    "overlap": as_percent,
    "images": as_images,
    "growth": as_growth,
    "dB": as_db,
}
_EXACT: Final[frozenset[Unit]] = frozenset({"MACs", "bytes"})


def as_unit(unit: Unit, value: float) -> str:
    """``value`` with its unit, as tables and messages show it."""
    return _AS_TEXT[unit](value)


def _all_digits(unit: Unit, value: float) -> str:
    return as_count(value) if unit in _EXACT and float(value).is_integer() else repr(value)


def check_texts(check: Check) -> tuple[str, str]:
    """Limit and value of a check as text: ``("at most 20.56 M", "20.53 M")``.

    Where rounding would make a failed value look equal to its limit, both are given in full.
    """
    limit, value = (MISSING if v is None else as_unit(check.unit, v) for v in (check.limit, check.value))
    if (limit == value and not check.passed) or check.bound == "equal":
        limit, value = (MISSING if v is None else _all_digits(check.unit, v) for v in (check.limit, check.value))
    return f"{ {'max': 'at most', 'min': 'at least', 'equal': 'exactly'}[check.bound] } {limit}", value


_DIFFERENCES: Final[frozenset[Unit]] = frozenset({"accuracy", "points", "overlap", "images", "growth"})


def excess(check: Check) -> float:
    """By how much a failed check misses its limit, in its unit; 0 if it passed, or its figure is missing."""
    return 0.0 if check.passed or check.value is None else abs(check.value - check.limit)


def relative_excess(check: Check) -> float | None:
    """``excess`` as a share of the limit; None for a limit of 0."""
    return excess(check) / abs(check.limit) if check.limit else None


def excess_text(check: Check) -> str:
    """By how much a check failed, relative to its limit: ``4.2 % above``, ``3.1 times as much``; shares in points.

    ``""`` if it passed, or its figure is missing.
    """
    if check.passed or check.value is None:
        return ""
    side = "above" if check.value > check.limit else "below"
    difference, relative = excess(check), relative_excess(check)
    if check.unit == "dB":
        return f"{as_db(difference)} {side}"
    if check.unit in _DIFFERENCES:
        return f"{difference * 100:.2g} points {side}" if difference < 0.001 else f"{as_points(difference)} {side}"
    if check.unit == "rows" or relative is None:
        return f"{as_unit(check.unit, difference)} {side}"
    if relative >= 2 and side == "above":
        return f"{check.value / check.limit:,.1f} times as much"
    return f"{relative * 100:.1f} % {side}" if relative >= 0.0005 else f"{_in_full(check.unit, difference)} {side}"


def _in_full(unit: Unit, value: float) -> str:
    return f"{as_count(value)} {unit}" if unit in _EXACT else f"{value:.2g}"


def describe_check(check: Check) -> str:
    """One line: ``MACs: 21.30 M, at most 20.56 M allowed``, with the reason when the figure is missing."""
    limit, value = check_texts(check)
    reason = f" ({check.reason})" if check.reason else ""
    return f"{check.name}: {value}, {limit} allowed{reason}"


def shortened(name: str, length: int) -> str:
    """``name`` with its middle left out beyond ``length`` characters: its start and end tell names apart."""
    if len(name) <= length:
        return name
    head = length // 3
    return f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - (length - head - 1) :]}"


def plural(count: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def parity_label(row: ParityRow) -> str:
    """The comparison that a parity row is of: ``model.onnx in onnxruntime fp32, batch 7``."""
    return f"{row.artifact} in {row.runtime} {row.precision}, batch {row.batch}"


def latency_label(row: LatencyFigures) -> str:
    """The conditions of a latency row: ``onnxruntime fp32, 1 thread, batch 1``; 0 threads: the runtime chose."""
    threads = f"{plural(row.threads, 'thread')}, " if row.threads else ""
    return f"{row.runtime} {row.precision}, {threads}batch {row.batch}"
