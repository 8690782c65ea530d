"""A check as JUnit XML: a test case for each limit."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from ..result import CheckResult, line_of_check
from .changes import change_rows

_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0
_ABOUT_COST: Final = ("macs", "params", "size", "growth", "layers")


def to_junit(result: CheckResult) -> str:
    """XML with one suite; what failed comes first, a warning is a passed case that says something."""
    judgement = result.judgement
    counts = {"tests": str(len(judgement.found)), "failures": str(len(judgement.failed)), "errors": "0", "skipped": "0"}
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
    for item in judgement.by_urgency:
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
