"""A check's result for people and for machines: terminal, Markdown, JUnit, annotations."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slimsight.compress.files.untrusted import escape_controls

from ..budget import BudgetCheck
from ..budget.changes import LayerChange
from ..report.table import code, markdown_table
from ..report.units import as_macs, check_texts, excess_text
from .result import CheckResult, line_of_check

__all__ = ["print_result", "to_annotations", "to_junit", "to_markdown"]


HEADER: Final = ("layer", "MACs before", "after", "growth", "what changed")
_LISTED: Final = 20


def change_rows(result: CheckResult) -> tuple[list[list[str]], str]:
    """Rows under ``HEADER``, and a sentence on those left out (empty where there are none)."""
    rows = [_row(change) for change in result.changes[:_LISTED]]
    more = len(result.changes) - _LISTED
    return rows, f"and {more} more layers (all are in the JSON)" if more > 0 else ""


def no_changes(result: CheckResult) -> str | None:
    """Why there is nothing to list; None where there is."""
    if result.against is None or result.changes:
        return None
    if result.against.layers is None or result.figures.layers is None:
        return "layers cannot be compared: one of the two does not say them"
    return "no layer changed"


def _row(change: LayerChange) -> list[str]:
    before = "" if change.before is None else as_macs(change.before.macs)
    after = "" if change.after is None else as_macs(change.after.macs)
    sign = "+" if change.growth >= 0 else "-"
    return [change.name, before, after, f"{sign}{as_macs(abs(change.growth))}", change.why]


def to_annotations(result: CheckResult) -> list[str]:
    """A line for each check that failed or warned."""
    lines = []
    for item in result.verdict.by_urgency:
        if item.status == "ok":
            continue
        command = "error" if item.status == "failed" else "warning"
        given = {"file": _in_workspace(result.budget), "line": item.line, "title": f"slimsight: {item.check.name}"}
        properties = ",".join(f"{key}={_property(str(value))}" for key, value in given.items() if value is not None)
        lines.append(f"::{command} {properties}::{_data(line_of_check(item))}")
    return lines


def _in_workspace(path: Path) -> str:
    """As GitHub names files: from the folder that the repository was checked out to."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    absolute = path.absolute()
    if workspace and absolute.is_relative_to(workspace):
        return absolute.relative_to(workspace).as_posix()
    return path.as_posix()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0
_ABOUT_COST: Final = ("macs", "params", "size", "growth", "layers")


def to_junit(result: CheckResult) -> str:
    """XML with one suite; what failed comes first, a warning is a passed case that says something."""
    verdict = result.verdict
    counts = {"tests": str(len(verdict.items)), "failures": str(len(verdict.failed)), "errors": "0", "skipped": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "slimsight check", **counts})
    suite.set("timestamp", result.created.removesuffix("+00:00"))
    properties = ElementTree.SubElement(suite, "properties")
    known = {
        "target": result.target,
        "budget": str(result.budget),
        "commit": result.commit,
        "against": result.against.label if result.against else None,
    }
    for name, value in known.items():
        if value:
            ElementTree.SubElement(properties, "property", {"name": name, "value": _legal(value)})
    changed = _changed(result)
    for item in verdict.by_urgency:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _legal(f"slimsight.{result.target}"), "name": _legal(item.check.name)}
        )
        case.set("file", _legal(str(result.budget)))
        if item.line is not None:
            case.set("line", str(item.line))
        if item.status == "failed":
            failure = ElementTree.SubElement(case, "failure", {"type": item.key[0]})
            failure.set("message", _legal(line_of_check(item)))
            more = changed if item.key[0] in _ABOUT_COST else ""
            failure.text = _legal("\n".join(filter(None, (line_of_check(item), more))))
        elif item.status == "warned" or item.note:
            said = "warning: " if item.status == "warned" else ""
            ElementTree.SubElement(case, "system-out").text = _legal(f"{said}{line_of_check(item)}")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _changed(result: CheckResult) -> str:
    if not result.changes:
        return ""
    rows, more = change_rows(result)
    lines = [f"  {name}: {growth} MACs, {why}" for name, _, _, growth, why in rows]
    return "\n".join(filter(None, [f"{result.headline}", *lines, more]))


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("?", text)


_MARKDOWN_SHOWN: Final = {"failed": "**FAILED**", "warned": "warned", "ok": "ok"}
_SPECIAL: Final = str.maketrans({character: f"\\{character}" for character in "*_`<>[]"})


def to_markdown(result: CheckResult) -> str:
    """A section that ends with an empty line: a job's summary is appended to."""
    verdict = result.verdict
    parts = [
        f"### slimsight check: {'passed' if verdict.passed else 'FAILED'}",
        f"{code(result.target)} against {code(str(result.budget))}: {verdict.summary()}.",
    ]
    rows = []
    for item in verdict.by_urgency:
        limit, value = check_texts(item.check)
        reason = item.check.reason if item.status != "ok" else None
        notes = "; ".join(filter(None, (reason, item.note)))
        rows.append(
            [
                _MARKDOWN_SHOWN[item.status],
                _plain(item.check.name),
                value,
                limit,
                excess_text(item.check),
                _plain(notes),
            ]
        )
    parts.append(markdown_table(["", "check", "measured", "allowed", "by", "why"], rows, "llrrrl"))
    if result.against is not None:
        parts.append(f"#### {_plain(result.headline or '')}")
        if (nothing := no_changes(result)) is not None:
            parts.append(f"{nothing}.")
        else:
            changed, more = change_rows(result)
            parts.append(markdown_table(list(HEADER), [[_plain(cell) for cell in row] for row in changed], "lrrrl"))
            if more:
                parts.append(f"{more}.")
    return "\n\n".join(parts) + "\n\n"


def _plain(text: str) -> str:
    """``text`` that Markdown shows as it is."""
    return escape_controls(" ".join(text.split())).translate(_SPECIAL)


_SHOWN: Final = {"failed": ("FAILED", "bold red"), "warned": ("warned", "yellow"), "ok": ("ok", "green")}
_INDENT: Final = 8
_NARROWEST: Final = 16


def print_result(result: CheckResult, out: Console) -> None:
    """What failed first; then what changed, where there is something to compare with."""
    out.print(f"{result.target} against {result.budget}", soft_wrap=True)
    if result.image is not None:
        out.print(f"for one image of {'x'.join(map(str, result.image))}")
    out.print()
    _print_checks(result.verdict.by_urgency, out)
    if result.against is not None:
        out.print(f"\n{result.headline}", soft_wrap=True)
        _print_changes(result, out)


def _print_checks(found: tuple[BudgetCheck, ...], out: Console) -> None:
    cells = [(item.check.name, *reversed(check_texts(item.check)), excess_text(item.check)) for item in found]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(4)]
    room = out.width - _INDENT - sum(width + 2 for width in widths[1:] if width)
    name_width = min(widths[0], max(room, _NARROWEST))
    for item, (name, *figures) in zip(found, cells, strict=True):
        status, style = _SHOWN[item.status]
        first, *rest = textwrap.wrap(name, name_width)
        line = "  ".join(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True) if width)
        out.print(Text.assemble((status.ljust(_INDENT), style), first.ljust(name_width), "  ", line.rstrip()))
        for part in rest:
            out.print(" " * _INDENT + part)
        for why in filter(None, (item.check.reason if item.status != "ok" else None, item.note)):
            wrapped = textwrap.wrap(why, max(out.width - _INDENT, _NARROWEST), break_long_words=False)
            out.print(textwrap.indent("\n".join(wrapped), " " * _INDENT), soft_wrap=True)


def _print_changes(result: CheckResult, out: Console) -> None:
    if (nothing := no_changes(result)) is not None:
        out.print(nothing)
        return
    rows, more = change_rows(result)
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(HEADER):
        table.add_column(title, justify="left" if place in (0, 4) else "right", overflow="fold", no_wrap=0 < place < 4)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    if more:
        out.print(more)
