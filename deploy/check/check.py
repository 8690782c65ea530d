"""Checks a target against a budget file: reads both, times what the budget limits, judges."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from slimsight.compress.progress import SILENT, Progress
from slimsight.export.costs.layers import Shape

from ..budget import Budget, Comparison, TargetFigures, judge, load_budget
from ..budget.changes import LayerChange, find_changes
from .devices import with_devices
from .result import CheckResult, ComparedTarget, read_compared
from .target import Target, read_baseline, read_target

_GIT_SECONDS = 5


def head_commit(folder: Path) -> str | None:
    """The commit that is checked out where ``folder`` is; None outside of a repository, or without git."""
    git = shutil.which("git")
    if git is None or not folder.is_dir():
        return None
    try:
        result = subprocess.run(
            [git, "rev-parse", "--verify", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


@dataclass(frozen=True)
class CheckRequest:
    """A check's inputs: target, budget file, and a target to compare with.

    ``image`` (C, H, W) and ``classes`` are for a target that does not say them; ``measured``: files that verify.py of
    a package wrote on devices.
    """

    target: str
    budget: Path
    against: str | None = None
    image: Shape | None = None
    classes: int = 1000
    measured: tuple[Path, ...] = ()


def run_check(request: CheckRequest, progress: Progress = SILENT) -> CheckResult:
    """Read the target, time it where the budget limits latency and no time is known, and judge.

    Raises:
        SlimError: the budget file or a target cannot be read or used.
    """
    budget = load_budget(request.budget)
    target = read_target(request.target, request.image, request.classes)
    target = replace(target, figures=with_devices(target, request.measured))
    figures = _with_latency(target, budget, progress)
    other = None if request.against is None else _compared(request.against, request)
    against: Comparison | None = None
    changes: tuple[LayerChange, ...] = ()
    if other is not None:
        if other.layers and figures.layers:
            changes = find_changes(other.layers, figures.layers)
        against = Comparison(other.label, other.costs.macs, changes)
    return CheckResult(
        target=request.target,
        kind=target.kind,
        image=target.image,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=head_commit(_target_folder(request.target)),
        budget=request.budget,
        figures=figures,
        verdict=judge(figures, budget, against),
        against=other,
        changes=changes,
        report=target.report,
    )


def _with_latency(target: Target, budget: Budget, progress: Progress) -> TargetFigures:
    """The target's figures, with a latency where one is limited and none is known, or a baseline is named."""
    limits, figures = budget.limits, target.figures
    baseline = None
    if limits.baseline is not None:
        baseline = read_baseline(budget.path.parent / Path(limits.baseline).expanduser(), target.image)
        figures = replace(figures, reference=baseline.figures.costs)
    limited = limits.latency is not None or limits.speedup is not None
    if not limited or (target.kind == "run" and baseline is None):
        return figures
    from .measure import measure_latency

    return replace(figures, timed=(measure_latency(target, baseline, limits.measure, progress),))


def _compared(name: str, request: CheckRequest) -> ComparedTarget:
    if name.endswith(".json"):
        return read_compared(Path(name))
    figures = read_target(name, request.image, request.classes).figures
    return ComparedTarget(name, figures.costs, figures.layers)


def _target_folder(target: str) -> Path:
    """The folder of a target; the current one for a model that is given by its name."""
    path = Path(target.partition(":")[0])
    return path.absolute() if path.is_dir() else path.absolute().parent
