"""Self-contained HTML pages: a run's report, or a comparison of runs."""

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
