import json
import math
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import ConfigError, RunError
from slimsight.deploy.report.files import read_report, write_report
from slimsight.deploy.report.schema import Report


def test_round_trip_keeps_every_figure(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, report)
    assert read_report(path) == report
    assert read_report(tmp_path) == report  # a run directory will do
    first = path.read_bytes()
    write_report(path, read_report(path))
    assert path.read_bytes() == first
    assert json.loads(first)["created"] == "2026-03-04T05:06:00Z"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_nan_is_refused_before_anything_is_written(report: Report, tmp_path: Path) -> None:
    budget = report.budget.model_copy(update={"macs_used": math.nan})  # copies are not validated again
    broken = report.model_copy(update={"budget": budget})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path / "report.json", broken)
    assert not (tmp_path / "report.json").exists()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no report at .*report\.json: the run has not finished; run 'slimsight run'"):
        read_report(tmp_path)


@pytest.mark.parametrize("text", [b"{", b"", b"\xff\xfe{}"])
def test_not_json(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(RunError, match=r"report\.json is not JSON \(.*\); run 'slimsight run' again"):
        read_report(path)


@pytest.mark.parametrize("text", ["[]", "3", '{"macs": 1}'])
def test_json_of_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"is not a slimsight report: it has no 'schema'"):
        read_report(path)


@pytest.mark.parametrize("number", ["2", '"1"', "true", "null"])
def test_another_schema(tmp_path: Path, number: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(f'{{"schema": {number}}}')
    with pytest.raises(ConfigError, match=r"has report schema .*, this slimsight reads schema 1; read it with"):
        read_report(path)


def test_reading_is_strict(content: dict[str, Any], report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, report)
    found = json.loads(path.read_text())
    found["slim"]["macs"] = "20500000"
    del found["device"]
    path.write_text(json.dumps(found))
    with pytest.raises(RunError) as caught:
        read_report(path)
    assert "device: Field required" in str(caught.value)
    assert "slim.macs: Input should be a valid integer" in str(caught.value)
    assert "\n" not in str(caught.value)
