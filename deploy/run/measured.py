"""Adds what was measured on devices to the report of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimsight.compress.errors import RunError

from ..device import find_artifact, keep_evidence, kept_figures, read_evidence
from ..report import read_report
from ..run_dir import REPORT, open_run, read_run
from .resume import record_report_files, write_report_files


def add_measured(path: Path, files: Sequence[Path]) -> None:
    """Copy ``verify.json`` files into the run and write its report again with their figures.

    Raises:
        ConfigError: one cannot be used, or is of another model; then nothing is written.
        RunError: the run is not finished, or a process is writing it.
        Damaged: a file of the run is not what was written.
    """
    run = read_run(path)
    if run.record(REPORT) is None:
        raise RunError(f"{path} is not finished: complete it with 'slimsight run', then add what was measured")
    for file in files:
        find_artifact(read_evidence(file), run)
    with open_run(path) as opened:
        known = opened.record(REPORT)
        if known is None:
            raise RunError(f"{path} was changed meanwhile: give the same command again")
        for file in files:
            keep_evidence(file, opened)
        report = read_report(opened.report_json).model_copy(update={"devices": kept_figures(opened) or None})
        opened.unrecord(REPORT)
        write_report_files(opened.root, report)
        record_report_files(opened, known.inputs)
