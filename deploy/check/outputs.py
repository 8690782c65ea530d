"""Prints a check's result: in the terminal, as Markdown, as JUnit XML, as GitHub annotations."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from slimsight.compress.files.untrusted import escape_controls

from ..budget import BudgetCheck
from ..report.table import Table, code, markdown_table
from ..report.units import as_macs, check_texts, excess_text
from .result import CheckResult, check_line

__all__ = ["print_result", "to_annotations", "to_junit", "to_markdown"]

_LISTED: Final = 20  # changed layers
_INDENT: Final = 8
_NARROWEST: Final = 16
_COLOURED: Final = {"failed": ("FAILED", "bold red"), "warned": ("warned", "yellow"), "ok": ("ok", "green")}
_IN_MARKDOWN: Final = {"failed": "**FAILED**", "warned": "warned", "ok": "ok"}
_MARKDOWN_SPECIAL: Final = str.maketrans({character: f"\\{character}" for character in "*_`<>[]"})
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0
_COST_KEYS: Final = ("macs", "params", "size", "growth", "layers")


def print_result(result: CheckResult, out: Console) -> None:
    """Print the checks, failures first; then the layers that changed, where there is another target."""
    out.print(f"{result.target} against {result.budget}", soft_wrap=True)
    if result.image is not None:
        out.print(f"for one image of {'x'.join(map(str, result.image))}")
    out.print()
    _print_checks(result.verdict.by_urgency, out)
    if result.against is not None:
        out.print(f"\n{result.headline}", soft_wrap=True)
        _print_changes(result, out)


def _print_checks(items: tuple[BudgetCheck, ...], out: Console) -> None:
    cells = [(item.check.name, *reversed(check_texts(item.check)), excess_text(item.check)) for item in items]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(4)]
    room = out.width - _INDENT - sum(width + 2 for width in widths[1:] if width)
    name_width = min(widths[0], max(room, _NARROWEST))
    for item, (name, *figures) in zip(items, cells, strict=True):
        status, style = _COLOURED[item.status]
        first, *rest = textwrap.wrap(name, name_width)
        line = "  ".join(text.rjust(width) for text, width in zip(figures, widths[1:], strict=True) if width)
        out.print(Text.assemble((status.ljust(_INDENT), style), first.ljust(name_width), "  ", line.rstrip()))
        for part in rest:
            out.print(" " * _INDENT + part)
        for why in filter(None, (item.check.reason if item.status != "ok" else None, item.note)):
            wrapped = textwrap.wrap(why, max(out.width - _INDENT, _NARROWEST), break_long_words=False)
            out.print(textwrap.indent("\n".join(wrapped), " " * _INDENT), soft_wrap=True)


def _print_changes(result: CheckResult, out: Console) -> None:
    if (nothing := _no_changes(result)) is not None:
        out.print(nothing)
        return
    changes, more = _changes_table(result)
    table = RichTable(box=None, pad_edge=False)
    for column, (title, align) in enumerate(zip(changes.head, changes.align, strict=True)):
        table.add_column(title, justify="right" if align == "r" else "left", overflow="fold", no_wrap=0 < column < 4)
    for row in changes.rows:
        table.add_row(*map(str, row))
    out.print(table)
    if more:
        out.print(more)


def to_markdown(result: CheckResult) -> str:
    """A Markdown section; it ends with an empty line, so that more can be appended to a job's summary."""
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
                _IN_MARKDOWN[item.status],
                _escape_markdown(item.check.name),
                value,
                limit,
                excess_text(item.check),
                _escape_markdown(notes),
            ]
        )
    parts.append(markdown_table(["", "check", "measured", "allowed", "by", "why"], rows, "llrrrl"))
    if result.against is not None:
        parts.append(f"#### {_escape_markdown(result.headline or '')}")
        if (nothing := _no_changes(result)) is not None:
            parts.append(f"{nothing}.")
        else:
            changes, more = _changes_table(result)
            rows = [[_escape_markdown(str(cell)) for cell in row] for row in changes.rows]
            parts.append(markdown_table(changes.head, rows, changes.align))
            if more:
                parts.append(f"{more}.")
    return "\n\n".join(parts) + "\n\n"


def _escape_markdown(text: str) -> str:
    """``text`` escaped so that Markdown shows it as it is."""
    return escape_controls(" ".join(text.split())).translate(_MARKDOWN_SPECIAL)


def to_junit(result: CheckResult) -> str:
    """JUnit XML with one suite, failures first; a warning is a passed case with output."""
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
            ElementTree.SubElement(properties, "property", {"name": name, "value": _xml_text(value)})
    changed = _changes_text(result)
    for item in verdict.by_urgency:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml_text(f"slimsight.{result.target}"), name=_xml_text(item.check.name)
        )
        case.set("file", _xml_text(str(result.budget)))
        if item.line is not None:
            case.set("line", str(item.line))
        if item.status == "failed":
            failure = ElementTree.SubElement(case, "failure", {"type": item.key[0]})
            failure.set("message", _xml_text(check_line(item)))
            more = changed if item.key[0] in _COST_KEYS else ""
            failure.text = _xml_text("\n".join(filter(None, (check_line(item), more))))
        elif item.status == "warned" or item.note:
            prefix = "warning: " if item.status == "warned" else ""
            ElementTree.SubElement(case, "system-out").text = _xml_text(f"{prefix}{check_line(item)}")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _changes_text(result: CheckResult) -> str:
    if not result.changes:
        return ""
    table, more = _changes_table(result)
    lines = [f"  {name}: {growth} MACs, {why}" for name, _, _, growth, why in table.rows]
    return "\n".join(filter(None, [f"{result.headline}", *lines, more]))


def _xml_text(text: str) -> str:
    return _NOT_XML.sub("?", text)


def to_annotations(result: CheckResult) -> list[str]:
    """A GitHub annotation for each check that failed or warned."""
    lines = []
    for item in result.verdict.by_urgency:
        if item.status == "ok":
            continue
        command = "error" if item.status == "failed" else "warning"
        place = {"file": _workspace_path(result.budget), "line": item.line, "title": f"slimsight: {item.check.name}"}
        properties = ",".join(f"{k}={_escape_property(str(v))}" for k, v in place.items() if v is not None)
        lines.append(f"::{command} {properties}::{_escape_data(check_line(item))}")
    return lines


def _workspace_path(path: Path) -> str:
    """``path`` relative to the folder that GitHub checked the repository out to."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    absolute = path.absolute()
    if workspace and absolute.is_relative_to(workspace):
        return absolute.relative_to(workspace).as_posix()
    return path.as_posix()


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def _changes_table(result: CheckResult) -> tuple[Table, str]:
    """The layers that changed, and a sentence on those left out (empty where there are none)."""
    rows = [
        (
            change.name,
            "" if change.before is None else as_macs(change.before.macs),
            "" if change.after is None else as_macs(change.after.macs),
            f"{'+' if change.growth >= 0 else '-'}{as_macs(abs(change.growth))}",
            change.why,
        )
        for change in result.changes[:_LISTED]
    ]
    more = len(result.changes) - _LISTED
    table = Table(("layer", "MACs before", "after", "growth", "what changed"), rows, "lrrrl")
    return table, f"and {more} more layers (all are in the JSON)" if more > 0 else ""


def _no_changes(result: CheckResult) -> str | None:
    """Why there are no changed layers to list; None where there are."""
    if result.against is None or result.changes:
        return None
    if result.against.layers is None or result.figures.layers is None:
        return "layers cannot be compared: one of the two does not say them"
    return "no layer changed"
