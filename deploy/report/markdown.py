"""Renders report.md from a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from slimsight.compress.amounts import as_duration
from slimsight.compress.files.atomic import write_text
from slimsight.compress.files.untrusted import escape_hidden

from . import rows, rows_device, rows_explained, rows_int8, rows_origin
from .environment import make_environment
from .schema import Report
from .table import Table, code, plain, to_markdown
from .units import as_count, as_error, as_macs, as_percent, plural

MARKDOWN_FILE: Final = "report.md"
SALIENCY_PICTURE: Final = "saliency.png"
CHANNELS_PICTURE: Final = "channels.png"
DRIFT_PICTURE: Final = "drift.png"
PICTURES: Final = (SALIENCY_PICTURE, DRIFT_PICTURE, CHANNELS_PICTURE)


TABLES: Final[Mapping[str, Callable[[Report], Table]]] = {
    "checks": rows.checks,
    "summary": rows.summary,
    "dynamic": rows_explained.dynamic,
    "verification": rows_explained.verification,
    "budget": rows.budget,
    "parity": rows.parity,
    "latency": rows.latency,
    "devices": rows_device.devices,
    "int8_files": rows_int8.int8_files,
    "int8_runtimes": rows_int8.int8_runtimes,
    "int8_controls": rows_int8.int8_controls,
    "int8_sensitivity": rows_int8.int8_sensitivity,
    "saliency": rows_explained.saliency,
    "map_drift": rows_explained.map_drift,
    "attribution": rows_explained.attribution,
    "selector": rows.selector,
    "ranking": rows_explained.ranking,
    "channels": rows.channels,
    "frozen": rows.frozen,
    "stages": rows.stages,
    "versions": rows.versions,
}
"""Tables by their names in templates."""


def _markdown_of(to_table: Callable[[Report], Table]) -> Callable[[Report], str]:
    return lambda report: to_markdown(to_table(report))


def render_markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The text of report.md. ``pictures``: file names beside it to show (``PICTURES``)."""
    environment = make_environment(Path(__file__).parent / "templates", keep_trailing_newline=True)
    environment.globals.update({f"{name}_table": _markdown_of(to_table) for name, to_table in TABLES.items()})
    for to_text in (as_count, as_duration, as_error, as_macs, as_percent, plain, code):
        environment.filters[to_text.__name__] = to_text
    text = environment.get_template("report.md.j2").render(
        report=report,
        verdict=f"**{'PASSED' if report.verdict.passed else 'FAILED'}**: {plain(rows.verdict(report))}",
        agreement=rows.agreement(report),
        preprocessing=rows_origin.preprocessing(report),
        original=rows_origin.original(report),
        steer=rows.steer(report),
        slower=rows.slower(report),
        degenerate=rows_explained.degenerate(report),
        attribution_text=rows_explained.attribution_text(report),
        int8_notes=rows_int8.int8_notes(report),
        plural=plural,
        saliency_picture=SALIENCY_PICTURE if SALIENCY_PICTURE in pictures else None,
        drift_picture=DRIFT_PICTURE if DRIFT_PICTURE in pictures else None,
        channels_picture=CHANNELS_PICTURE if CHANNELS_PICTURE in pictures else None,
    )
    return escape_hidden(text)


def write_markdown(folder: Path, report: Report) -> Path:
    """Write report.md into ``folder``, showing the pictures in it; returns its path."""
    path = folder / MARKDOWN_FILE
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    write_text(path, render_markdown(report, pictures))
    return path
