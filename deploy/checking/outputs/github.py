"""Workflow commands of GitHub Actions, which it shows beside the line of the budget file."""

from __future__ import annotations

import os
from pathlib import Path

from ..result import CheckResult, line_of_check


def to_annotations(result: CheckResult) -> list[str]:
    """A line for each check that failed or warned."""
    lines = []
    for item in result.judgement.by_urgency:
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
