"""What can be said of a model that is held to a budget, whatever kind of target it is."""

from __future__ import annotations

from dataclasses import dataclass

from slimsight.export.costs import LayerCost

from ..report.schema import Report
from ..report.units import latency_label


@dataclass(frozen=True)
class Costs:
    """MACs of one image, parameters, bytes."""

    macs: int
    params: int
    size_bytes: int


@dataclass(frozen=True)
class Timed:
    """A latency: its median, and where there is a reference, that one's and the low end of the speed-up's interval."""

    where: str
    median_ms: float
    reference_ms: float | None = None
    speedup_low: float | None = None
    noise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """A target's figures. What is None or empty is not known; ``kind`` then says of what: ``an ONNX file``.

    ``reference``: what ratios refer to; ``size_name``: what ``costs.size_bytes`` is the size of.
    """

    kind: str
    costs: Costs
    size_name: str
    reference: Costs | None = None
    layers: tuple[LayerCost, ...] | None = None
    report: Report | None = None
    timed: tuple[Timed, ...] = ()

    @classmethod
    def of_report(cls, report: Report, layers: tuple[LayerCost, ...] | None = None) -> Figures:
        """A run's: its slim model against its original."""
        old, new = report.original, report.slim
        return cls(
            kind="a run",
            costs=Costs(new.macs, new.params, new.size_bytes),
            size_name="size of the weights",
            reference=Costs(old.macs, old.params, old.size_bytes),
            layers=layers,
            report=report,
            timed=tuple(
                Timed(latency_label(row), row.slim_ms.median, row.original_ms.median, row.speedup.low)
                for row in report.latency
            ),
        )
