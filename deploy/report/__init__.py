"""What a run found: report.json for machines, report.md and pictures for people."""

from .files import read_report, write_report
from .markdown import render_markdown, write_markdown
from .schema import Check, Report, Verdict

__all__ = ["Check", "Report", "Verdict", "read_report", "render_markdown", "write_markdown", "write_report"]
