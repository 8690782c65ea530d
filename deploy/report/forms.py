"""Every form of a run's report in its directory: written together, removed together."""

from __future__ import annotations

import shutil
from pathlib import Path

from .html import PAGE_FILE, write_run
from .markdown import MARKDOWN_FILE, PICTURES, write_markdown
from .schema import Report
from .store import REPORT_FILE, write_report
from .strips import PANELS_FOLDER


def write_forms(root: Path, report: Report) -> None:
    """report.json, and report.md and report.html with the pictures that lie in ``root``."""
    write_report(root / REPORT_FILE, report)
    write_markdown(root, report)
    write_run(root)


def form_files(root: Path) -> list[Path]:
    """The report's files that lie in ``root``, pictures included."""
    named = [root / name for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES)]
    return [path for path in (*named, *sorted((root / PANELS_FOLDER).glob("*"))) if path.is_file()]


def remove_forms(root: Path) -> None:
    """Nothing of an earlier report stays, pictures included."""
    for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / PANELS_FOLDER, ignore_errors=True)
