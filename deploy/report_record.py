"""The report's files on record: they are known by their checksums, as those of stages are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slimsight.compress.disk import sync_file, sync_folder

from .report.forms import form_files
from .report.html import write_run
from .run_dir import REPORT, RunDir, is_run, open_run, read_run


def record_forms(run: RunDir, stages: Mapping[str, str]) -> None:
    """Record the report's files as they are now, pictures and all, once they are on the disk.

    Args:
        stages: what each stage that it is of had given (``StageRecord.content``).
    """
    files = form_files(run.root)
    for file in files:
        sync_file(file)
    for folder in {file.parent for file in files}:
        sync_folder(folder)
    run.finish(REPORT, "", 0, {}, files, stages)


def check_report(path: Path) -> None:
    """Refuse the run in ``path`` where a file of it is damaged; a report.json without its run is read as it is.

    Raises:
        Damaged: a file is not what was written.
    """
    if is_run(path):
        read_run(path)


def renew_page(path: Path) -> Path:
    """Write report.html of the finished run in ``path`` anew; returns its place.

    Raises:
        RunError: a process is writing the run, there is no finished report, or a file beside it is broken.
    """
    if not is_run(path) or read_run(path, whole=False).record(REPORT) is None:
        return write_run(path)  # of an earlier version, or a report without its run: nothing is on record
    with open_run(path) as run:
        known = run.record(REPORT)
        run.unrecord(REPORT)
        page = write_run(path)
        if known is not None:
            record_forms(run, known.inputs)
    return page
