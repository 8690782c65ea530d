"""A run's report: report.json, report.md, report.html and pictures."""

from .files import read_report, write_report
from .markdown import render_markdown, write_markdown
from .schema import Check, Report, Verdict

__all__ = ["Check", "Report", "Verdict", "read_report", "render_markdown", "write_markdown", "write_report"]
