"""Judges ``device_latency``: times that a package's verify.py measured on devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from slimsight.compress.amounts import Amount

from ..report.device import DeviceFigures
from .limit import Limit
from .verdict import BudgetCheck, check_levels

_NOT_MEASURED: Final = (
    "nothing was measured on a device; 'slimsight package', run its verify.py there, and give what it writes with "
    "--measured"
)


def device_checks(devices: Sequence[DeviceFigures], limit: Limit[Amount]) -> Iterator[BudgetCheck]:
    """A check per measurement, of the high end of its median's interval, so that a lucky median does not pass.

    The time of a device that computes something else counts as missing.
    """
    most = limit.map(lambda amount: amount.value)
    key = ("device_latency",)
    if not devices:
        yield check_levels(key, "latency on a device", most, None, "ms", bound="max", reason=_NOT_MEASURED)
    for row in devices:
        name, value = f"median latency, high end, on {row.where}", row.high_ms if row.passed else None
        note = f"noisy: {'; '.join(row.noise)}" if row.noise else None
        yield check_levels(key, name, most, value, "ms", bound="max", reason=row.why, note=note)
