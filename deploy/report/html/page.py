"""Renders HTML pages: templates with autoescape, inline style and script, and a policy that forbids all else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from slimsight.compress.amounts import as_duration
from slimsight.compress.files.atomic import write_text
from slimsight.compress.files.untrusted import escape_hidden

from .. import rows, rows_explained, rows_int8, rows_origin
from ..environment import make_environment
from ..markdown import TABLES
from ..table import Code, Result
from ..units import as_count, as_error, as_macs, as_percent, latency_label, plural
from . import compare, facts, views
from .source import RunPage, read_page

PAGE_FILE: Final = "report.html"
COMPARISON_FILE: Final = "comparison.html"
_TEMPLATES: Final = Path(__file__).parent / "templates"


def render_run(page: RunPage) -> str:
    """The HTML of one run."""
    return _render("run.html.j2", page=page, report=page.report, facts=facts, views=views)


def render_comparison(pages: Sequence[RunPage]) -> str:
    """The HTML of several runs side by side."""
    assert len(pages) > 1
    return _render("compare.html.j2", pages=pages, compare=compare)


def write_run(folder: Path, out: Path | None = None) -> Path:
    """Write report.html of the finished run in ``folder`` (into it, or to ``out``); returns its path.

    Raises:
        RunError: there is no finished report, or a file beside it is broken.
    """
    page = read_page(folder)
    path = out or (folder if folder.is_dir() else folder.parent) / PAGE_FILE
    write_text(path, render_run(page))
    return path


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the comparison of the runs in ``folders`` to ``out``; returns its path.

    Raises:
        RunError: one of them has no finished report, or a file beside it is broken.
    """
    pages = [read_page(folder) for folder in folders]
    names = Counter(page.name for page in pages)
    # a/run and b/run have one name: the parent folder is added
    named = [replace(page, name=page.path_name) if names[page.name] > 1 else page for page in pages]
    write_text(out, render_comparison(named))
    return out


def _render(template: str, **values: Any) -> str:
    environment = make_environment(_TEMPLATES, html=True)
    environment.globals.update({f"{name}_table": to_table for name, to_table in TABLES.items()})
    environment.globals.update(
        verdict=rows.verdict,
        agreement=rows.agreement,
        preprocessing=rows_origin.preprocessing,
        original=rows_origin.original,
        steer=rows.steer,
        ranked_by=rows.ranked_by,
        slower=rows.slower,
        degenerate=rows_explained.degenerate,
        attribution_text=rows_explained.attribution_text,
        int8_notes=rows_int8.int8_notes,
        plural=plural,
        latency_label=latency_label,
    )
    for to_text in (as_count, as_duration, as_error, as_macs, as_percent):
        environment.filters[to_text.__name__] = to_text
    environment.filters["keep_units"] = _keep_units
    environment.tests["result"] = lambda cell: isinstance(cell, Result)
    environment.tests["code"] = lambda cell: isinstance(cell, Code)
    environment.tests["best"] = lambda cell: isinstance(cell, compare.Best)
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_csp_hash(style)}'",
            f"script-src '{_csp_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    inside = {"style": Markup(style), "script": Markup(script)}
    return escape_hidden(environment.get_template(template).render(policy=policy, **inside, **values))


def _keep_units(text: object) -> str:
    """``text`` with a no-break space between each number and its unit."""
    return re.sub(r"(?<=\d) (?=[%a-zA-Z])", "\N{NO-BREAK SPACE}", str(text))


def _csp_hash(text: str) -> str:
    """``text`` as a source of a content security policy, which then allows this text only."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
