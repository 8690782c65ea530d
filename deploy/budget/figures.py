"""Figures of a target that limits apply to: costs, layers, latencies, and its report where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimsight.export.costs.layers import LayerCost

from ..report.device import DeviceFigures
from ..report.schema import LatencyFigures, Report
from ..report.units import latency_label


@dataclass(frozen=True)
class TargetCosts:
    """MACs of one image, parameters, bytes."""

    macs: int
    params: int
    size_bytes: int


@dataclass(frozen=True)
class TimedFigures:
    """A median latency; with a reference, that one's median and the low end of the speed-up's interval too."""

    where: str
    median_ms: float
    reference_ms: float | None = None
    speedup_low: float | None = None
    noise: tuple[str, ...] = ()

    @classmethod
    def of_int8(cls, rows: Sequence[LatencyFigures]) -> tuple[TimedFigures, ...]:
        """The slim model's INT8 file in each row that has it, with the original in FP32 as reference."""
        return tuple(
            cls(f"INT8 in {latency_label(row)}", row.int8_ms.median, row.original_ms.median, row.int8_speedup.low)
            for row in rows
            if row.int8_ms is not None and row.int8_speedup is not None
        )

    @classmethod
    def of_rows(cls, rows: Sequence[LatencyFigures]) -> tuple[TimedFigures, ...]:
        """The slim model's latency in each row of a report, with the original as reference."""
        return tuple(
            cls(latency_label(row), row.slim_ms.median, row.original_ms.median, row.speedup.low) for row in rows
        )


@dataclass(frozen=True)
class TargetFigures:
    """A target's figures; None or empty: not known.

    ``kind``: what messages call the target, such as ``an ONNX file``; ``reference``: what ratios refer to;
    ``size_name``: what ``costs.size_bytes`` is the size of; ``devices``: what was measured on devices.
    """

    kind: str
    costs: TargetCosts
    size_name: str
    reference: TargetCosts | None = None
    layers: tuple[LayerCost, ...] | None = None
    report: Report | None = None
    timed: tuple[TimedFigures, ...] = ()
    devices: tuple[DeviceFigures, ...] = ()

    @classmethod
    def of_report(cls, report: Report, layers: tuple[LayerCost, ...] | None = None) -> TargetFigures:
        """The slim model of a run, against its original."""
        old, new = report.original, report.slim
        return cls(
            kind="a run",
            costs=TargetCosts(new.macs, new.params, new.size_bytes),
            size_name="size of the weights",
            reference=TargetCosts(old.macs, old.params, old.size_bytes),
            layers=layers,
            report=report,
            timed=TimedFigures.of_rows(report.latency),
            devices=report.devices or (),
        )
