"""What tests of whole runs ask of one: which stages it reused, what of it must not change, which files it left."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slimsight.deploy.report import Report

Rerun = Callable[..., Report]
STAGES = ["classifier", "predictor", "selector", "targets", "gates"]
STAGES += ["surgery", "finetune", "export", "latency", "judgement"]
"""Of the steered recipe."""


def reused(report: Report) -> list[str]:
    return [stage.name for stage in report.stages if stage.reused]


def comparable(report: Report) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: all but times."""
    found = report.model_dump(mode="json", exclude={"created", "latency"})
    found["stages"] = [stage["name"] for stage in found["stages"]]
    return found


def contents(root: Path) -> dict[str, str]:
    """Every file of a run but its log, by its bytes."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "run.log")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
