"""Tables and sentences of a report on INT8 files."""

from __future__ import annotations

from functools import partial

from .int8 import AccuracyDropFigures, Int8FileFigures
from .schema import Report
from .table import Cell, Code, Number, Result, Table
from .units import as_bytes, as_error, as_percent, as_percent_1, as_points, plural

_as_db = "{:.1f} dB".format
_LISTED = 8


def int8_files(report: Report) -> Table:
    """Size, nearness to FP32 and accuracy of each file."""
    assert report.int8 is not None
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            file.form,
            Number(file.size_bytes, partial(as_bytes, like=file.fp32_size_bytes)),
            Number(file.size_bytes / file.fp32_size_bytes, as_percent_1),
            "" if file.fidelity.sqnr_db is None else Number(file.fidelity.sqnr_db, _as_db),
            Number(file.agreement, as_percent),
            _drop_text(file.val),
            "" if file.test is None else _drop_text(file.test),
        ]
        for file in report.int8.files
    ]
    lost = "accuracy" if report.labelled else "agreement"
    header = ["file", "form", "size", "of FP32", "SQNR", "same class as FP32"]
    return Table([*header, f"{lost} lost, validation", f"{lost} lost, test"], rows, "llrrrrrr")


def int8_runtimes(report: Report) -> Table:
    """Each runtime against each file's own arithmetic."""
    assert report.int8 is not None
    rows: list[list[Cell]] = [
        [
            Code(file.artifact),
            row.runtime,
            as_error(row.p99),
            Number(row.agreement, as_percent),
            "" if row.integer_layers is None else f"{row.integer_layers} of {file.layers}",
            Result(row.passed, row.why),
        ]
        for file in report.int8.files
        for row in file.runtimes
    ]
    return Table(["file", "runtime", "99 % below", "same class", "layers in integers", "result"], rows, "llrrrl")


def int8_notes(report: Report) -> list[str]:
    """How the files were made, which layers stay in FP32, and which runtimes were left out: a sentence each."""
    if report.int8 is None:
        return []
    made = report.int8.calibration
    notes = [
        f"Ranges of values: {report.int8.method}, on {plural(made.images, 'training image')}; report.json lists which. "
        "Differences are from the file's own arithmetic (no optimisation), relative to the largest logit"
    ]
    for file in report.int8.files:
        notes += _of_file(file)
    return [f"{note}." for note in notes]


def _of_file(file: Int8FileFigures) -> list[str]:
    notes = []
    for row in file.runtimes:
        if row.float_layers:
            more = f" and {len(row.float_layers) - _LISTED} more" if len(row.float_layers) > _LISTED else ""
            notes.append(f"{file.artifact} in {row.runtime}: in FP32 run {', '.join(row.float_layers[:_LISTED])}{more}")
    return [*notes, *(f"{file.artifact} was not run in {item.runtime}: {item.reason}" for item in file.not_run)]


def _drop_text(found: AccuracyDropFigures) -> str:
    """``0.10 points [-0.20, 0.40]``."""
    return f"{as_points(found.drop)} [{found.low * 100:.2f}, {found.high * 100:.2f}]"
