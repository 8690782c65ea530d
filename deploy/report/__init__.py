"""What a run found: report.json for machines, report.md and pictures for people."""

from .markdown import render_markdown, write_markdown
from .schema import Check, Report, Verdict
from .store import read_report, write_report

__all__ = ["Check", "Report", "Verdict", "read_report", "render_markdown", "write_markdown", "write_report"]
