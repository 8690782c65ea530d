"""Which commit a model comes from: best effort, git need not be there."""

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
from .result import CheckResult, Other, read_other
from .target import Target, read_baseline, read_target

_SECONDS = 5


def head_commit(folder: Path) -> str | None:
    """The commit that is checked out where ``folder`` is; None outside of a repository, or without git."""
    git = shutil.which("git")
    if git is None or not folder.is_dir():
        return None
    try:
        found = subprocess.run(
            [git, "rev-parse", "--verify", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


@dataclass(frozen=True)
class CheckRequest:
    """What is held against what. ``image`` and ``classes``: for a target that does not say them."""

    target: str
    budget: Path
    against: str | None = None
    image: Shape | None = None
    classes: int = 1000


def run_check(asked: CheckRequest, progress: Progress = SILENT) -> CheckResult:
    """Read the target, measure what the budget asks for and a run does not bring, and judge.

    Raises:
        SlimError: a file, a target or a name that cannot be used.
    """
    budget = load_budget(asked.budget)
    target = read_target(asked.target, asked.image, asked.classes)
    figures = _measured(target, budget, progress)
    other = None if asked.against is None else _other(asked.against, asked)
    against: Comparison | None = None
    changes: tuple[LayerChange, ...] = ()
    if other is not None:
        if other.layers and figures.layers:
            changes = find_changes(other.layers, figures.layers)
        against = Comparison(other.label, other.costs.macs, changes)
    return CheckResult(
        target=asked.target,
        kind=target.kind,
        image=target.image,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=head_commit(_folder(asked.target)),
        budget=asked.budget,
        figures=figures,
        judgement=judge(figures, budget, against),
        against=other,
        changes=changes,
        report=target.report,
    )


def _measured(target: Target, budget: Budget, progress: Progress) -> TargetFigures:
    """The target's figures, with a latency where one is limited and none is known, or a baseline is named."""
    limits, figures = budget.limits, target.figures
    baseline = None
    if limits.baseline is not None:
        baseline = read_baseline(budget.path.parent / Path(limits.baseline).expanduser(), target.image)
        figures = replace(figures, reference=baseline.figures.costs)
    limited = limits.latency is not None or limits.speedup is not None
    if not limited or (target.kind == "run" and baseline is None):
        return figures
    from .measure import measure

    return replace(figures, timed=(measure(target, baseline, limits.measure, progress),))


def _other(name: str, asked: CheckRequest) -> Other:
    if name.endswith(".json"):
        return read_other(Path(name))
    found = read_target(name, asked.image, asked.classes)
    return Other(name, found.figures.costs, found.figures.layers)


def _folder(target: str) -> Path:
    """Where a target lies; the current folder for one that is known by name alone."""
    path = Path(target.partition(":")[0])
    return path.absolute() if path.is_dir() else path.absolute().parent
