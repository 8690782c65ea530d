"""The report as one self-contained HTML file: of a run, or of several side by side."""

from .page import COMPARISON_FILE, PAGE_FILE, render_comparison, render_run, write_comparison, write_run
from .source import RunPage, read_page

__all__ = [
    "COMPARISON_FILE",
    "PAGE_FILE",
    "RunPage",
    "read_page",
    "render_comparison",
    "render_run",
    "write_comparison",
    "write_run",
]
