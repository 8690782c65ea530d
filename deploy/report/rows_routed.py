"""Tables of the report on the dynamic variant."""

from __future__ import annotations

from .schema import Report
from .tables import Code, Table
from .units import as_macs, as_ms, as_percent, latency_label


def dynamic(report: Report) -> Table:
    """Original, slim and dynamic side by side; the dynamic one is timed in its routed form."""
    found = report.dynamic
    assert found is not None
    old, new = report.original, report.slim
    rows = [["MACs per image, mean", as_macs(old.macs), as_macs(new.macs), as_macs(found.macs_mean)]]
    accuracies = (
        ("validation accuracy", old.val_accuracy, new.val_accuracy, found.val_accuracy),
        ("test accuracy", old.test_accuracy, new.test_accuracy, found.test_accuracy),
    )
    for name, *values in accuracies:
        rows.append([name, *("" if value is None else as_percent(value) for value in values)])
    for row in report.latency:
        if row.dynamic_ms is not None:
            times = (row.original_ms, row.slim_ms, row.dynamic_ms)
            rows.append([f"median latency, {latency_label(row)}", *(as_ms(ms.median) for ms in times)])
    return Table(["", "original", "slim", "dynamic"], rows, "lrrr")


def verification(report: Report) -> Table:
    """Bits, channels and accepted choices of each route."""
    assert report.dynamic is not None
    rows = [
        [
            Code(route.route),
            f"{route.bits_per_pixel:.3f}",
            f"{route.bits_per_channel:.2f}",
            f"{route.channels:.1f}",
            f"{route.open_channels:.1f}",
            as_percent(route.covered, 1),
            as_percent(route.accepted, 1),
        ]
        for route in report.dynamic.verification.routes
    ]
    header = ["route", "bits per pixel", "per channel", "channels with 90 %", "open", "of those open", "accepted"]
    return Table(header, rows, "lrrrrrr")
