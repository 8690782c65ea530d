"""docs/report.md names every field that there is, and none that there is not."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimsight.deploy.report.parts import ReportPart
from slimsight.deploy.report.schema import Report

PAGE = Path(__file__).parents[3] / "docs" / "report.md"


def parts(annotation: Any) -> Iterator[type[ReportPart]]:
    if isinstance(annotation, type) and issubclass(annotation, ReportPart):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


def fields(part: type[ReportPart]) -> Iterator[str]:
    for name, field in part.model_fields.items():
        yield field.alias or name
        for inner in parts(field.annotation):
            yield from fields(inner)


def test_every_field_of_report_json_is_described() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Fields of report.json")[2]
    named = {name for quoted in re.findall(r"`([^`]+)`", section) for name in re.split(r"\[\]\.|\.", quoted)}
    assert named == set(fields(Report))
